"""Workers that vanish or freeze: fenced, their executors proved dead, their missions not doubled."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests import oracle
from tests.harness import (
    GENERAL,
    Home,
    alive_with_environment,
    ended,
    exited,
    ok,
    shell,
    status,
    until,
    worker_pids,
)
from vp_queue import missions, tools
from vp_queue.ledger.locks import write_lock_holder


def freeze(process: subprocess.Popen[bytes], home: Home) -> None:
    """Stop a process, but not in the midst of a write: SQLite lets nobody else write then (another fault)."""

    def stopped() -> bool:
        tasks = Path(f"/proc/{process.pid}/task").glob("*/stat")
        return all(task.read_bytes().rpartition(b")")[2].split()[0] == b"T" for task in tasks)

    while True:
        process.send_signal(signal.SIGSTOP)
        until(stopped, "every thread is stopped")
        if write_lock_holder(home.database) != process.pid:
            return
        process.send_signal(signal.SIGCONT)


def test_a_worker_frozen_past_its_lease_is_fenced_and_its_program_is_dead_before_another_starts(home: Home) -> None:
    home.configure(lease_seconds=1)
    frozen = home.consumer()
    keeper = home.keeper()
    until(lambda: missions.keepers() or exited(keeper), "the keeper registered")
    mission_id = shell("echo $VP_ATTEMPT >> ../starts; test $VP_ATTEMPT -ge 2 || sleep 600", max_attempts=2)[
        "mission_id"
    ]
    until(lambda: alive_with_environment("VP_MISSION_ID", mission_id), "the program runs")
    freeze(frozen, home)
    until(
        lambda: status(mission_id) == "queued" or exited(keeper),
        "the lease ran out and the mission is queued again",
    )
    assert alive_with_environment("VP_MISSION_ID", mission_id) == []
    home.consumer()
    assert ended(mission_id)["status"] == "completed"
    before = ok(tools.vp_get_mission(mission_id=mission_id))
    frozen.send_signal(signal.SIGCONT)
    until(lambda: f"lease of {mission_id}.1 lost" in home.logs(), "the thawed worker knows")
    assert ok(tools.vp_get_mission(mission_id=mission_id))["events"] == before["events"]
    assert (home.workspace(mission_id).parent / "starts").read_text().split() == ["1", "2"]
    # It is fit for work again.
    os.kill(next(pid for pid in worker_pids(GENERAL) if pid != frozen.pid), signal.SIGTERM)
    assert ended(shell("true")["mission_id"])["status"] == "completed"
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [mission_id], rescued=True)


def test_two_keepers_rescue_once(home: Home) -> None:
    consumer = home.consumer()
    mission_id = shell("sleep 600", max_attempts=2)["mission_id"]
    until(lambda: alive_with_environment("VP_MISSION_ID", mission_id), "the program runs")
    os.kill(consumer.pid, signal.SIGKILL)
    home.keeper()
    home.keeper()
    until(lambda: status(mission_id) == "queued", "it is rescued")
    # The lost worker is told of once, too.
    until(lambda: any(event.type == "vp.worker_lost" for event in missions.events_after(0, 1000)), "the loss is told")
    home.close()
    kinds = [event.type for event in missions.events_after(0, 1000)]
    assert kinds.count("mission.retrying") == 1
    assert kinds.count("vp.worker_lost") == 1
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [mission_id], rescued=True)


def test_a_launcher_killed_under_a_running_program_fails_the_attempt_and_leaves_nothing(home: Home) -> None:
    home.consumer()
    mission_id = shell("setsid sleep 600 & sleep 600")["mission_id"]
    until(lambda: len(alive_with_environment("VP_MISSION_ID", mission_id)) >= 2, "the programs run")
    from vp_queue.ledger.models import Attempt

    launcher = Attempt.get(Attempt.mission == mission_id).executor["launcher_pid"]
    os.kill(launcher, signal.SIGKILL)
    failed = ended(mission_id)
    assert (failed["status"], failed["failure"]["code"]) == ("failed", "executor_error")
    assert "launcher" in failed["failure"]["message"]
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [mission_id], rescued=True)
