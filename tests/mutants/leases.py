"""Mutants of leases, fencing and rescue."""

from __future__ import annotations

from tests.mutants import mutant
from vp_queue.worker import tree


@mutant
def no_kill_before_requeue() -> None:
    """A rescuer that takes the old program's death on trust (rule 7 removed)."""
    from vp_queue.keeper import rescue

    def trusting(identity: tree.TreeIdentity, grace_seconds: float) -> bool:
        return True

    rescue.end_tree = trusting
