"""Mutants of the feed and its readers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import time
from collections.abc import Iterator
from typing import Any

from tests.mutants import mutant

TAKEN = 8  # at once, as a sequence of a database server is cached


@mutant
def numbers_events_before_the_transaction() -> None:
    """A seq that is given before its transaction begins: who commits later may have the smaller one."""
    from vp_queue.ledger import database, events
    from vp_queue.ledger.models import Event

    mine: list[int] = []
    begun = database.write_transaction

    def take() -> list[int]:
        path = f"{database.current().path}.numbers"
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as counter:
            fcntl.flock(counter, fcntl.LOCK_EX)
            first = int(counter.read() or "0") + 1
            counter.seek(0)
            counter.write(str(first + TAKEN - 1))
        return list(range(first, first + TAKEN))

    class Numbering:
        def insert(self, **row: Any) -> int:
            seq = mine.pop(0)
            Event.insert(seq=seq, **row).execute()
            return seq

    @contextlib.contextmanager
    def numbered(**how: Any) -> Iterator[Any]:
        mine[:] = take()
        time.sleep(random.uniform(0, 0.01))  # as long as any process may be kept waiting here
        with begun(**how) as tx:
            yield tx

    database.write_transaction = numbered
    events._INSERT = Numbering()  # type: ignore[assignment,misc]


@mutant
def remembers_before_it_prints() -> None:
    """A hook that takes what it is about to say for said."""
    from vp_queue.hooks import process

    def deliver(told: Any, memory: Any, before: Any) -> None:
        if told.shown != before:
            memory.remember(told.shown)
        time.sleep(0.2)  # so long that a kill hits it
        if told.answer is not None:
            process._print(json.dumps(told.answer))

    process.deliver = deliver
