"""The oracle itself: what it must find, made for real or written into the ledger by hand."""

from __future__ import annotations

import os
import signal
import subprocess

import cysqlite
import pytest

from tests import oracle
from tests.harness import Home, alive_with_environment, shell, until


def check(home: Home, *, rescued: bool = False) -> None:
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", rescued=rescued)


def running(home: Home) -> tuple[str, subprocess.Popen[bytes]]:
    """A mission that runs, and its worker."""
    consumer = home.consumer()
    mission_id = shell("sleep 600")["mission_id"]
    until(lambda: alive_with_environment("VP_MISSION_ID", mission_id), "the program runs")
    return mission_id, consumer


def test_a_mission_that_runs_is_in_order(home: Home) -> None:
    running(home)
    check(home, rescued=True)


def test_an_attempt_whose_worker_was_killed_is_found_once_somebody_should_have_ended_it(home: Home) -> None:
    mission_id, consumer = running(home)
    consumer.kill()
    consumer.wait()
    check(home)
    with pytest.raises(AssertionError, match="its worker is dead"):
        check(home, rescued=True)
    connection = cysqlite.connect(str(home.database))
    connection.execute("UPDATE vp_attempt SET lease_expires_boottime_us = lease_expires_boottime_us - 100000000")
    connection.close()
    with pytest.raises(AssertionError, match=f"{mission_id} runs, but nobody does it"):
        check(home)


def test_a_lease_that_ran_out_is_found_though_the_worker_lives(home: Home) -> None:
    _, consumer = running(home)
    consumer.send_signal(signal.SIGSTOP)  # it renews nothing
    connection = cysqlite.connect(str(home.database))
    connection.execute("UPDATE vp_attempt SET lease_expires_boottime_us = 0")
    connection.close()
    check(home)
    with pytest.raises(AssertionError, match="its lease ran out"):
        check(home, rescued=True)


def test_two_attempts_of_one_mission_at_once_are_found(home: Home) -> None:
    mission_id, _ = running(home)
    second = subprocess.Popen(["sleep", "600"], env={**os.environ, "VP_MISSION_ID": mission_id, "VP_ATTEMPT": "2"})
    try:
        with pytest.raises(AssertionError, match=f"attempts .'1', '2'. of {mission_id} run at once"):
            check(home)
    finally:
        second.kill()
        second.wait()
    check(home)
