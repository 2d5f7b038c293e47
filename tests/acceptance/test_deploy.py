"""Drain, restart, and workers that run what is no longer there: deploys that break nothing off."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests import oracle
from tests.harness import (
    BIN,
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
from vp_queue.ledger import database
from vp_queue.queue import huey


def vp(home: Home, *arguments: str, expected: int = 0) -> dict[str, Any]:
    """A command's answer as JSON."""
    done = subprocess.run([BIN / "vp", *arguments, "--json"], env=home.environment, capture_output=True, text=True)
    assert done.returncode == expected, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def general() -> dict[str, Any]:
    """The generalist as the tools tell of it."""
    found: dict[str, Any] = next(vp for vp in ok(tools.vp_list_vps())["vps"] if vp["vp_id"] == GENERAL)
    return found


GATED = "touch ../begun; while ! test -e ../go; do sleep 0.02; done"


def begun(home: Home, mission_id: str) -> None:
    until((home.workspace(mission_id).parent / "begun").exists, "the program runs")


def let_go(home: Home, mission_id: str) -> None:
    (home.workspace(mission_id).parent / "go").touch()


def test_a_drained_vp_finishes_what_runs_and_starts_nothing_more_even_after_a_restart(home: Home) -> None:
    first = home.consumer()
    keeper = home.keeper()
    until(lambda: missions.keepers() or exited(keeper), "the keeper registered")
    running, waiting = (shell(GATED)["mission_id"] for _ in range(2))
    begun(home, running)
    drained = vp(home, "drain", GENERAL, "--reason", "deploy")["vp"]
    assert (drained["draining"], drained["drain_reason"], drained["workers"][0]["state"]) == (
        True,
        "deploy",
        "draining",
    )
    assert vp(home, "drain", GENERAL, "--wait", "0.1", expected=5)["vp"]["running"] == 1
    let_go(home, running)
    assert vp(home, "drain", GENERAL, "--wait", "60")["vp"]["running"] == 0
    assert ended(running)["status"] == "completed"
    first.terminate()
    first.wait()
    second = home.consumer()
    assert general()["workers"][0]["state"] == "draining"
    # It has looked for work, since it takes other changes in: a dispatch to a VP on hold stays where it is.
    third = shell("true")["mission_id"]
    until(lambda: general()["workers"][0]["pid"] == second.pid, "the second one works")
    assert [status(each) for each in (waiting, third)] == ["queued", "queued"]
    vp(home, "resume", GENERAL)
    begun(home, waiting)
    let_go(home, waiting)
    assert [ended(each)["status"] for each in (waiting, third)] == ["completed", "completed"]
    assert general()["workers"][0]["state"] == "running"
    kinds = [event.type for event in missions.events_after(0, 1000) if event.type.startswith("vp.")]
    assert [kind for kind in kinds if "worker" not in kind] == ["vp.draining", "vp.resumed"]
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [running, waiting, third], rescued=True)


@pytest.mark.parametrize("hold", [missions.pause, missions.drain])
def test_a_wake_up_taken_just_before_a_pause_is_put_back(home: Home, hold: Any) -> None:
    from vp_queue.ledger import fleet
    from vp_queue.worker import runner

    mission_id = shell("true")["mission_id"]
    queue = huey.huey_for(GENERAL)
    assert queue.storage.dequeue() is not None
    hold(GENERAL)
    with database.write_transaction() as tx:
        worker = fleet.register(tx, GENERAL, None)
    assert runner.claim(mission_id, 1, worker, 30) is None
    assert status(mission_id) == "queued"
    missions.resume(GENERAL)
    assert queue.storage.dequeue() is not None, "its wake-up is there again, with no keeper about"
    assert runner.claim(mission_id, 1, worker, 30) is not None


@pytest.fixture
def up(home: Home) -> Iterator[Home]:
    """A home whose supervisord runs."""
    vp(home, "up", "--detach")
    yield home
    vp(home, "down")


def test_a_restart_waits_for_what_runs_and_brings_the_new_profile(up: Home) -> None:
    running, waiting = (shell(GATED)["mission_id"] for _ in range(2))
    begun(up, running)
    (before,) = worker_pids(GENERAL)
    assert general()["workers"][0]["outdated"] == []
    up.configure(grace=0.7)
    assert general()["workers"][0]["outdated"] == ["profile"]
    shown = subprocess.run([BIN / "vp", "status"], env=up.environment, capture_output=True, text=True).stdout
    assert "older profile" in " ".join(shown.split())
    restart = up.start("vp", "restart", GENERAL)
    until(lambda: general()["draining"], "it drains")
    assert general()["drain_reason"] == "vp restart waits for its missions to end"
    assert alive_with_environment("VP_MISSION_ID", running)
    let_go(up, running)
    assert restart.wait(60) == 0, up.logs()
    assert ended(running)["status"] == "completed"
    assert "mission.released" not in events(running)
    (after,) = worker_pids(GENERAL)
    assert after != before
    assert general()["workers"][0]["outdated"] == []
    begun(up, waiting)
    let_go(up, waiting)
    assert ended(waiting)["status"] == "completed"
    oracle.check(up.database, up.path / "AGENT_RUN_WORKSPACES", [running, waiting], rescued=True)


def test_a_restart_that_does_not_come_about_leaves_everything_as_it_was(up: Home) -> None:
    running = shell(GATED)["mission_id"]
    begun(up, running)
    missions.pause(GENERAL, "lunch")
    before = worker_pids(GENERAL)
    assert vp(up, "restart", GENERAL, "--timeout", "0.2", expected=5)["restarted"] is False
    broken_off = up.start("vp", "restart", GENERAL)
    until(lambda: general()["draining"], "it drains")
    broken_off.send_signal(2)
    assert broken_off.wait(60) == 130
    assert worker_pids(GENERAL) == before
    seen = general()
    assert (seen["draining"], seen["paused"], seen["pause_reason"]) == (False, True, "lunch")
    let_go(up, running)
    assert ended(running)["status"] == "completed"


def test_an_operators_drain_outlasts_a_restart_and_what_a_killed_one_left_the_next_one_ends(up: Home) -> None:
    running = shell(GATED)["mission_id"]
    begun(up, running)
    killed = up.start("vp", "restart", GENERAL)
    until(lambda: general()["draining"], "it drains")
    killed.kill()
    killed.wait()
    assert general()["draining"], "nobody is left to end it"
    second = up.start("vp", "restart", GENERAL)
    log = up.path / f"test-vp-{up.processes.index(second)}.log"
    until(lambda: "1 running" in log.read_text(), "it waits")
    third = vp(up, "restart", GENERAL, expected=70)["error"]
    assert "is at work" in third["message"]
    let_go(up, running)
    assert second.wait(60) == 0, up.logs()
    assert not general()["draining"]
    running = shell(GATED)["mission_id"]
    begun(up, running)
    fourth = up.start("vp", "restart", GENERAL)
    until(lambda: general()["draining"], "it drains")
    vp(up, "drain", GENERAL, "--reason", "maintenance")
    let_go(up, running)
    assert fourth.wait(60) == 0, up.logs()
    assert (general()["draining"], general()["drain_reason"]) == (True, "maintenance")
    assert "still on hold: vp resume" in up.logs()


def test_a_restart_that_does_not_wait_releases_what_runs(up: Home) -> None:
    running = shell(f"test $VP_ATTEMPT -ge 2 || {{ {GATED}; }}")["mission_id"]
    begun(up, running)
    assert vp(up, "restart", GENERAL, "--timeout", "0")["restarted"] is True
    assert ended(running)["status"] == "completed"
    assert "mission.released" in events(running)


def test_what_no_supervisord_runs_is_not_restarted(home: Home) -> None:
    home.consumer()
    error = vp(home, "restart", GENERAL, expected=2)["error"]
    assert "vp up --detach" in error["message"]
    assert not general()["draining"]


def test_other_code_than_the_consumer_runs_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.consumer()
    assert general()["workers"][0]["outdated"] == []
    monkeypatch.setattr(missions, "code_digest", lambda: "of a later version")
    assert general()["workers"][0]["outdated"] == ["code"]


def test_a_frozen_worker_shows_as_stale(home: Home) -> None:
    import signal

    home.configure(lease_seconds=1)
    process = home.consumer()
    assert general()["workers"][0]["stale"] is False
    process.send_signal(signal.SIGSTOP)
    until(lambda: general()["workers"][0]["stale"], "it has been silent for longer than a lease")
    process.send_signal(signal.SIGCONT)
    until(lambda: not general()["workers"][0]["stale"], "it speaks again")
