"""Mutants of the tally: counts that are not kept together with what they count."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.mutants import mutant


@mutant
def counts_after_the_commit() -> None:
    """A tally written by a commit of its own, after that of what it counts."""
    from vp_queue.ledger import database, tally

    write, begin = tally.write, database.write_transaction
    waiting: list[tuple[Any, ...]] = []
    tally.write = lambda *arguments: waiting.append(arguments)

    @contextlib.contextmanager
    def write_transaction(**options: Any) -> Iterator[Any]:
        with begin(**options) as tx:
            yield tx
        while waiting:
            write(*waiting.pop())

    database.write_transaction = write_transaction
