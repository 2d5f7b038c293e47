"""Mutants of what may come out of the queue."""

from __future__ import annotations

from typing import Any

from tests.mutants import mutant


@mutant
def rows_are_trusted() -> None:
    """Whatever stands in Huey's tables is handed to Huey."""
    from vp_queue.queue import storage

    def no_problem(*_: Any) -> None:
        return None

    storage._problem = storage._foreign = no_problem
