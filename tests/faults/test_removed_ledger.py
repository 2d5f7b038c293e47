"""The ledger's file removed or replaced under running processes: a loud stop, never work into the void."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import oracle
from tests.harness import BIN, GENERAL, Home, alive_with_environment, ended, exited, refused, shell, until
from vp_queue import missions, tools
from vp_queue.worker.supervised import UNUSABLE_LEDGER


def test_under_supervisord_everything_stops_loudly_refuses_and_comes_back_with_the_file(home: Home) -> None:
    subprocess.run([BIN / "vp", "up", "--detach"], env=home.environment, check=True, stdout=subprocess.DEVNULL)
    try:
        mission_id = shell("test $VP_ATTEMPT -ge 2 || sleep 600", max_attempts=2)["mission_id"]
        until(lambda: alive_with_environment("VP_MISSION_ID", mission_id), "the program runs")
        before = missions.worker_pids()
        aside = Path(f"{home.database}.aside")
        os.rename(home.database, aside)
        until(lambda: not alive_with_environment("VP_MISSION_ID", mission_id), "its program is killed")
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before), "workers and keeper have ended")
        error = refused(tools.vp_dispatch_mission(vp_id=GENERAL, objective="into the void"), "ledger_unavailable")
        assert "vp restore FILE" in error["message"]
        assert not home.database.exists(), "nobody made an empty one in its place"
        log = (home.path / "logs" / f"{GENERAL}.log").read_text()
        assert f"this worker ends: the ledger {home.database} was removed" in log
        os.rename(aside, home.database)
        # supervisord goes on trying, so that the operator need do nothing more.
        assert ended(mission_id, 120)["status"] == "completed"
    finally:
        subprocess.run([BIN / "vp", "down"], env=home.environment, check=True, stdout=subprocess.DEVNULL)
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [mission_id], rescued=True)


@pytest.mark.parametrize("program", ["consumer", "keeper"])
def test_a_ledger_replaced_by_another_ends_who_works_on_the_old_one(home: Home, program: str) -> None:
    process = home.consumer() if program == "consumer" else home.keeper()
    if program == "keeper":
        until(lambda: missions.keepers() or exited(process), "the keeper registered")
    other = Path(f"{home.database}.other")
    subprocess.run(["cp", home.database, other], check=True)
    os.rename(other, home.database)
    assert process.wait(60) == UNUSABLE_LEDGER
    assert "was replaced by another file" in home.logs()


def test_without_the_guard_the_consumer_works_on_into_the_void(home: Home) -> None:
    """The negative control: six looks of the guard after the removal, the mission's program is still at work."""
    process = home.consumer(mutants="no-ledger-guard")
    mission_id = shell("until test -e ../gone; do sleep 0.1; done; sleep 3; touch ../alive; sleep 600")["mission_id"]
    until(lambda: alive_with_environment("VP_MISSION_ID", mission_id), "the program runs")
    folder = home.workspace(mission_id).parent
    aside = Path(f"{home.database}.aside")
    os.rename(home.database, aside)
    (folder / "gone").touch()
    until(lambda: (folder / "alive").exists() or exited(process), "its program lives on")
    assert alive_with_environment("VP_MISSION_ID", mission_id)
    os.rename(aside, home.database)
    process.terminate()
    process.wait()
    until(lambda: not alive_with_environment("VP_MISSION_ID", mission_id), "it has ended")
