"""A consumer that starts while an outsider holds the ledger's write lock is a worker as soon as it is let go.

Found by the fault campaign: it gave up after eight seconds and, until its first mission, nobody knew of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests import oracle
from tests.harness import GENERAL, Home, ended, exited, shell, until, worker_pids
from vp_queue import missions

LOCKER = """
import sys, cysqlite
connection = cysqlite.connect(sys.argv[1], timeout=30)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """Another process holds the write lock."""
    argv = [sys.executable, "-c", LOCKER, str(home.database)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)) as locker:
        assert locker.stdout is not None
        assert locker.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            locker.communicate()


def started_under_lock(home: Home, mutants: str = "") -> subprocess.Popen[bytes]:
    """A consumer whose first try to register has failed."""
    missions.ready()
    with locked(home):
        argv = ("huey_consumer", "vp_queue.tasks.app.huey")
        process = home.start(*argv, mutants=mutants, VP_ID=GENERAL)
        told = "startup hook" if mutants else "not registered yet"
        until(lambda: told in home.logs() or exited(process), "it could not register")
    return process


def test_it_registers_when_the_lock_is_let_go(home: Home) -> None:
    process = started_under_lock(home)
    until(lambda: process.pid in worker_pids(GENERAL) or exited(process), "it is registered")
    mission_id = shell("true")["mission_id"]
    assert ended(mission_id)["status"] == "completed"
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [mission_id])


def test_control_one_that_tries_once_stays_unknown_until_its_first_mission(home: Home) -> None:
    process = started_under_lock(home, "registers-once")
    assert worker_pids(GENERAL) == []
    assert ended(shell("true")["mission_id"])["status"] == "completed"
    assert worker_pids(GENERAL) == [process.pid]
