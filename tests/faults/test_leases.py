"""Workers without a ledger to write to, and workers that come after one that was killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import oracle
from tests.harness import (
    GENERAL,
    Home,
    alive_with_environment,
    ended,
    events,
    exited,
    ok,
    shell,
    status,
    until,
    worker_pids,
)
from vp_queue import missions, tools
from vp_queue.keeper.deaths import DeathWatch

LEASE_SECONDS = 2.0


@contextlib.contextmanager
def locked_by_an_outsider(database: Path) -> Iterator[None]:
    """Somebody else's process holds the write lock throughout the block."""
    code = (
        "import cysqlite, sys\nc = cysqlite.connect(sys.argv[1], timeout=30)\nc.execute('BEGIN IMMEDIATE')\n"
        "print('held', flush=True)\nsys.stdin.read()\nc.execute('ROLLBACK')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"held\n"
    try:
        yield
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def started(mission_id: str) -> None:
    until(lambda: alive_with_environment("VP_MISSION_ID", mission_id), "the program runs")


def check(home: Home, *mission_ids: str) -> None:
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", list(mission_ids), rescued=True)


def test_a_worker_that_cannot_reach_the_ledger_for_half_a_lease_kills_its_program_and_gives_the_mission_back(
    home: Home,
) -> None:
    home.configure(lease_seconds=LEASE_SECONDS)
    home.consumer()
    keeper = home.keeper()
    until(lambda: missions.keepers() or exited(keeper), "the keeper registered")
    mission_id = shell("test $VP_ATTEMPT -ge 2 || sleep 600")["mission_id"]
    started(mission_id)
    with locked_by_an_outsider(home.database):
        # While nobody can write, and so nobody else could have started it.
        until(lambda: not alive_with_environment("VP_MISSION_ID", mission_id), "the program is killed")
        assert status(mission_id) == "running"
    done = ended(mission_id)
    assert (done["status"], done["attempts_charged"]) == ("completed", 1), "it was given back, not charged as lost"
    told = ok(tools.vp_get_mission(mission_id=mission_id))["events"]
    assert [e["data"]["reason"] for e in told if e["type"] == "mission.released"] == ["the ledger could not be reached"]
    check(home, mission_id)


def test_without_its_watchdog_the_worker_runs_on(home: Home) -> None:
    home.configure(lease_seconds=LEASE_SECONDS)
    home.consumer(mutants="no-watchdog")
    mission_id = shell("sleep 600")["mission_id"]
    started(mission_id)
    with locked_by_an_outsider(home.database):
        # Three leases by a clock of its own: long enough to have been killed.
        subprocess.run(["sleep", str(3 * LEASE_SECONDS)], check=True)
        assert alive_with_environment("VP_MISSION_ID", mission_id)
    check(home)


def test_work_that_ends_while_the_ledger_cannot_be_reached_is_kept_and_not_done_again(home: Home) -> None:
    home.configure(lease_seconds=LEASE_SECONDS)
    home.consumer()
    keeper = home.keeper()
    until(lambda: missions.keepers() or exited(keeper), "the keeper registered")
    mission_id = shell("echo x >> ../starts; while ! test -e ../go; do sleep 0.02; done; echo > $VP_WORK_PRODUCTS/a")[
        "mission_id"
    ]
    started(mission_id)
    with locked_by_an_outsider(home.database):
        (home.workspace(mission_id).parent / "go").touch()
        until(lambda: not alive_with_environment("VP_MISSION_ID", mission_id), "the program has ended")
        receipt = home.workspace(mission_id) / "mission_receipt.json"
        until(receipt.exists, "its worker waits for the ledger")
        subprocess.run(["sleep", str(LEASE_SECONDS)], check=True)  # past the half lease
    assert ended(mission_id)["status"] == "completed"
    assert (home.workspace(mission_id).parent / "starts").read_text() == "x\n"
    check(home, mission_id)


@pytest.mark.parametrize("mutants", ["", "no-rescue-at-start"])
def test_a_consumer_rescues_at_once_what_its_dead_predecessor_left_with_no_keeper_about(
    home: Home, mutants: str
) -> None:
    first = home.consumer()
    mission_id = shell("test $VP_ATTEMPT -ge 2 || { setsid sleep 600 & sleep 600; }", max_attempts=2)["mission_id"]
    started(mission_id)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    home.consumer(mutants=mutants)
    if mutants:
        subprocess.run(["sleep", "3"], check=True)
        assert status(mission_id) == "running", "the negative control"
        return
    until(lambda: "mission.retrying" in events(mission_id), "it is taken over and queued again")
    assert alive_with_environment("VP_MISSION_ID", mission_id) == []
    until(lambda: worker_pids(GENERAL) != [first.pid], "the lost worker is marked")
    keeper = home.keeper()  # for the back-off's end
    until(lambda: missions.keepers() or exited(keeper), "the keeper registered")
    assert ended(mission_id)["status"] == "completed"
    kinds = [event.type for event in missions.events_after(0, 1000)]
    assert kinds.count("vp.worker_lost") == 1
    check(home, mission_id)


def test_a_death_is_noticed_by_the_kernels_word_not_by_looking() -> None:
    import threading

    from vp_queue import clock

    noticed = threading.Event()
    watching = DeathWatch(noticed.set)
    living, dying = (subprocess.Popen(["sleep", "600"]) for _ in range(2))
    try:
        processes = [(each.pid, clock.process_start_ticks(each.pid) or 0) for each in (living, dying)]
        watching.watch(processes)
        watching.watch(processes)  # as in each sweep
        assert not noticed.is_set()
        os.kill(dying.pid, signal.SIGKILL)  # and not yet waited for: a zombie is dead
        assert noticed.wait(30)
        noticed.clear()
        watching.watch(processes[:1])
        dying.wait()
        assert not noticed.is_set()
    finally:
        for each in (living, dying):
            each.kill()
            each.wait()
    assert noticed.wait(30)
