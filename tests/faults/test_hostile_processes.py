"""Programs that fork without end or will not die: held in number, ended, proved dead; everybody else works on."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.harness import CODER, Home, alive_with_environment, command, ended, events, ok, shell, status, until
from vp_queue import missions, tools
from vp_queue.ledger.models import Attempt
from vp_queue.worker import cgroups

LIMIT, CAP = 50, 200
# Each process forks on, in sessions of their own, deaf to TERM, until CAP forks went well; a byte in the file for each.
BOMB = f"""
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
forks = os.open("forks", os.O_RDWR | os.O_CREAT | os.O_APPEND)
while True:
    if os.fstat(forks).st_size >= {CAP}:
        time.sleep(600)
    try:
        if os.fork() == 0:
            os.setsid()
            os.write(forks, b"x")
    except OSError:
        os.close(os.open("refused", os.O_WRONLY | os.O_CREAT))
        time.sleep(0.2)
"""
# The classic one: what is shot is replaced at once. Its parent stays, so that the mission does not end by itself.
SHELL_BOMB = """
import subprocess, time
bomb = "trap '' TERM; bomb() { bomb | bomb & }; bomb; while :; do bomb; done"
while True:
    try:
        subprocess.run(["sh", "-c", bomb], stderr=subprocess.DEVNULL)
    except OSError:
        time.sleep(0.1)
    open("refused", "w").close()
"""
# Leaves the tree twice over, is deaf, and says who it is.
DAEMON = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        open(f"daemon-{os.getpid()}", "w").close()
        time.sleep(600)
    os._exit(0)
os.wait()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""
needs_a_limit = pytest.mark.skipif(
    cgroups.limit_in_force() is None, reason="no pids controller to write to; run: sudo make test"
)


def python(code: str, **arguments: Any) -> str:
    return str(command(sys.executable, "-c", code, vp_id=CODER, **arguments)["mission_id"])


def forks(home: Home, mission_id: str) -> int:
    path = home.workspace(mission_id, CODER) / "forks"
    return path.stat().st_size if path.exists() else 0


def refused(home: Home, mission_id: str) -> bool:
    return (home.workspace(mission_id, CODER) / "refused").exists()


def cgroups_of(mission_id: str) -> list[str]:
    recorded = Attempt.get(Attempt.mission == mission_id).executor
    return [path for path in (recorded["cgroup"], recorded["pids_cgroup"]) if path]


def receipt(home: Home, mission_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home.workspace(mission_id, CODER) / "mission_receipt.json").read_text())
    return found


def check(home: Home, *mission_ids: str) -> None:
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", list(mission_ids))


@needs_a_limit
@pytest.mark.parametrize("bomb", [BOMB, SHELL_BOMB], ids=["python", "shell"])
def test_a_fork_bomb_is_held_and_a_cancel_ends_it(home: Home, bomb: str) -> None:
    home.configure(concurrency=2, more=f"max_processes = {LIMIT}\n")
    home.consumer(CODER)
    mission_id = python(bomb)
    until(lambda: refused(home, mission_id), "a fork was refused")
    assert len(alive_with_environment("VP_MISSION_ID", mission_id)) <= LIMIT
    assert forks(home, mission_id) < LIMIT
    # Beside it the same worker does its work.
    beside = shell("echo fine", vp_id=CODER)["mission_id"]
    assert ended(beside)["status"] == "completed"
    groups = cgroups_of(mission_id)
    ok(tools.vp_cancel_mission(mission_id=mission_id))
    assert ended(mission_id)["status"] == "cancelled"
    assert alive_with_environment("VP_MISSION_ID", mission_id) == []
    assert receipt(home, mission_id)["process_limit_reached"] is True
    assert groups
    assert not any(os.path.exists(path) for path in groups)
    check(home, mission_id, beside)


@needs_a_limit
def test_without_the_limit_the_same_bomb_goes_beyond_it(home: Home) -> None:
    home.configure(more=f"max_processes = {LIMIT}\n")
    home.consumer(CODER, mutants="no-process-limit")
    mission_id = python(BOMB)
    until(lambda: forks(home, mission_id) > LIMIT, "more forks than the limit")
    assert not refused(home, mission_id)
    ok(tools.vp_cancel_mission(mission_id=mission_id))
    assert ended(mission_id)["status"] == "cancelled"
    check(home, mission_id)


@needs_a_limit
def test_the_time_limit_ends_a_fork_bomb(home: Home) -> None:
    home.configure(more=f"max_processes = {LIMIT}\n")
    home.consumer(CODER)
    mission_id = python(SHELL_BOMB, budget={"max_duration_seconds": 2})
    failure = ended(mission_id)["failure"]
    assert failure["code"] == "timeout"
    assert f"max_processes of its profile ({LIMIT})" in failure["message"]
    check(home, mission_id)


@needs_a_limit
def test_a_keeper_ends_the_bomb_of_a_worker_and_launcher_that_were_killed(home: Home) -> None:
    home.configure(more=f"max_processes = {LIMIT}\n")
    consumer = home.consumer(CODER)
    mission_id = python(BOMB)
    until(lambda: refused(home, mission_id), "a fork was refused")
    launcher = Attempt.get(Attempt.mission == mission_id).executor["launcher_pid"]
    groups = cgroups_of(mission_id)
    os.kill(consumer.pid, signal.SIGSTOP)  # it shall not end the tree itself when its launcher dies
    os.kill(launcher, signal.SIGKILL)
    os.kill(consumer.pid, signal.SIGKILL)
    consumer.wait()
    assert alive_with_environment("VP_MISSION_ID", mission_id)
    home.keeper()
    assert ended(mission_id)["failure"]["code"] == "worker_lost"
    assert not any(os.path.exists(path) for path in groups)
    check(home, mission_id)


@needs_a_limit
def test_a_program_that_fails_for_want_of_processes_is_told_why(home: Home) -> None:
    home.configure(more="max_processes = 2\n")
    home.consumer(CODER)
    failure = ended(shell("(sleep 600 & sleep 600 & sleep 600 & wait)", vp_id=CODER)["mission_id"])["failure"]
    assert failure["code"] == "exit_nonzero"
    assert "It was refused processes: it had max_processes of its profile (2)." in failure["message"]
    check(home)


@pytest.mark.parametrize("end", ["cancel", "timeout", "exit"])
def test_daemons_that_left_the_tree_and_ignore_term_are_dead_before_the_end_is_told(home: Home, end: str) -> None:
    home.consumer(CODER)
    budget = {"max_duration_seconds": 1} if end == "timeout" else {}
    code = (
        DAEMON if end != "exit" else DAEMON.replace("signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime", "0 and time")
    )
    mission_id = python(code, budget=budget)
    workspace = home.workspace(mission_id, CODER)
    (marker,) = until(lambda: list(workspace.glob("daemon-*")), "the daemon runs")
    daemon = Path("/proc", marker.name.removeprefix("daemon-"))
    if end == "cancel":
        ok(tools.vp_cancel_mission(mission_id=mission_id))
    done = ended(mission_id)
    assert not daemon.exists()
    assert done["status"] == {"cancel": "cancelled", "timeout": "failed", "exit": "completed"}[end]
    assert events(mission_id)[-1] == f"mission.{done['status']}"
    check(home, mission_id)


def test_a_release_ends_what_ignores_term(home: Home) -> None:
    consumer = home.consumer(CODER)
    mission_id = python(DAEMON)
    until(lambda: list(home.workspace(mission_id, CODER).glob("daemon-*")), "the daemon runs")
    consumer.terminate()
    consumer.wait(40)
    assert alive_with_environment("VP_MISSION_ID", mission_id) == []
    assert status(mission_id) == "queued"
    assert "mission.released" in [event.type for event in missions.events_after(0, 1000)]
    check(home, mission_id)
