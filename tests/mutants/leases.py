"""Mutants of leases, fencing and rescue."""

from __future__ import annotations

from typing import Any

from tests.mutants import mutant
from vp_queue.worker import tree


@mutant
def no_kill_before_requeue() -> None:
    """A rescuer that takes the old program's death on trust (rule 7 removed)."""
    from vp_queue.keeper import rescue

    def trusting(identity: tree.TreeIdentity, grace_seconds: float) -> bool:
        return True

    rescue.end_tree = trusting


@mutant
def no_watchdog() -> None:
    """A worker that runs on, however long it has not reached the ledger."""
    from vp_queue.worker.lease import LeaseKeeper

    LeaseKeeper._watch_over = lambda self: None  # type: ignore[method-assign]


@mutant
def no_rescue_at_start() -> None:
    """A consumer that leaves to the keeper what its predecessor left."""
    from vp_queue.keeper import rescue

    def nothing(*_: Any) -> None: ...

    rescue.rescue_the_dead = nothing


@mutant
def no_ledger_guard() -> None:
    """A process that does not look whether its ledger is still there."""
    from vp_queue.ledger.guard import LedgerGuard

    LedgerGuard.start = lambda self: None  # type: ignore[method-assign]
