"""The durable inbox: each event is acknowledged once by each reader, in order, whoever writes and whoever is killed.

Eight processes commit events while three read, each through ``vp_read_events`` with acknowledgement, and are killed
with SIGKILL at random moments and started again. What a reader handled it noted first; a page counts as acknowledged if
the reader's next page, whichever process read it, begins after it.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cysqlite
import pytest

from tests import oracle
from tests.faults import inbox_actors as actors
from tests.harness import Home, forget_ledger, ok, until
from vp_queue import tools

WRITERS, READERS = 8, ("simone", "anton", "hook")
FORK = multiprocessing.get_context("fork")
SEED = int(os.environ.get("VP_INBOX_SEED", "7"))


class Feed:
    """Writers and readers on one ledger."""

    def __init__(self, home: Home, seed: int) -> None:
        self._home = home
        self._draw = random.Random(seed)
        self._writers: list[BaseProcess] = []
        self._readers: dict[str, BaseProcess] = {}
        self.kills = 0

    def run(self, missions_each: int, *, guards: str = "", careless: bool = False) -> None:
        """Until everything was written, and every reader has acknowledged all of it.

        Args:
            guards: to remove from the writers.
            careless: readers acknowledge before they handle.
        """
        ok(tools.vp_list_vps())  # makes the ledger
        forget_ledger()
        try:
            self._writers = [_forked(actors.write, missions_each, guards) for _ in range(WRITERS)]
            until(lambda: self._goes_on(careless), "all was written and acknowledged", 600)
            assert [writer.exitcode for writer in self._writers] == [0] * WRITERS
        finally:
            for process in (*self._writers, *self._readers.values()):
                process.kill()
                process.join()

    def _goes_on(self, careless: bool) -> bool:
        """One turn: start who is not running, kill one; whether all is done."""
        for reader in READERS:
            process = self._readers.get(reader)
            if process is None or not process.is_alive():
                assert process is None or process.exitcode == -signal.SIGKILL, f"{reader} ended: {process.exitcode}"
                seed = self._draw.getrandbits(32)
                self._readers[reader] = _forked(actors.read, reader, str(self.noted(reader)), seed, careless)
        writing = any(writer.is_alive() for writer in self._writers)
        if not writing:
            newest = max(self.written(), default=0)
            return all(self.position(reader) >= newest for reader in READERS)
        time.sleep(self._draw.uniform(0.005, 0.2))
        self._readers[self._draw.choice(READERS)].kill()
        self.kills += 1
        return False

    def noted(self, reader: str) -> Path:
        return self._home.path / f"{reader}.jsonl"

    def written(self) -> list[int]:
        """Every event there is, in order: plain SQL, none of the code under test."""
        return [seq for (seq,) in self._sql("SELECT seq FROM vp_event ORDER BY seq")]

    def position(self, reader: str) -> int:
        """How far the ledger says that a reader has acknowledged."""
        found = self._sql("SELECT acknowledged_seq FROM vp_inbox WHERE reader = ?", reader)
        return int(found[0][0]) if found else 0

    def _sql(self, sql: str, *values: Any) -> list[Any]:
        with contextlib.closing(cysqlite.connect(str(self._home.database))) as connection:
            return list(connection.execute(sql, values).fetchall())

    def acknowledged(self, reader: str) -> list[int]:
        """What the reader handled and then acknowledged, by its notes."""
        lines = self.noted(reader).read_text().split("\n")
        pages = [json.loads(line) for line in lines[:-1]]
        found: list[int] = []
        for page, following in zip(pages, [*pages[1:], None], strict=True):
            goes_on = following is None or following["seqs"][0] > page["last_seq"]
            if goes_on and page["last_seq"] <= self.position(reader):
                found += page["seqs"]
        return found


def _forked(work: Callable[..., None], *words: object) -> BaseProcess:
    process = FORK.Process(target=work, args=words)
    process.start()
    return process


def check(feed: Feed) -> None:
    """The promise: each event, once, in order, for each reader."""
    written = feed.written()
    assert written == sorted(set(written))
    for reader in READERS:
        assert feed.acknowledged(reader) == written, reader


def test_each_event_is_acknowledged_once_in_order_while_readers_are_killed(home: Home) -> None:
    feed = Feed(home, SEED)
    feed.run(40)
    assert feed.kills
    assert len(feed.written()) == 2 * 40 * WRITERS
    check(feed)
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", rescued=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_each_event_is_acknowledged_once_in_order_for_long(home: Home, seed: int) -> None:
    feed = Feed(home, 1_000 + seed)
    feed.run(300)
    check(feed)


def test_control_a_seq_given_before_its_transaction_is_missed(home: Home) -> None:
    feed = Feed(home, SEED)
    feed.run(20, guards="numbers-events-before-the-transaction")
    with pytest.raises(AssertionError):
        check(feed)


def test_control_who_acknowledges_before_handling_loses_events(home: Home) -> None:
    feed = Feed(home, SEED)
    feed.run(20, careless=True)
    with pytest.raises(AssertionError):
        check(feed)
