"""From dispatch to the program's start, in a real idle consumer, against a bare spawn of the same program.

The program is ``date +%s%N``: it prints the time at which it runs, so its own start costs the same in both.
One mission at a time, each after a random pause, so that no rhythm of the consumer can be hit or missed.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import BIN, running

from vp_queue import missions, tools

VP_ID = "vp.general.primary"
PROGRAM = ("date", "+%s%N")
READY_SECONDS, MISSION_SECONDS = 30.0, 60.0
PAUSE_SECONDS = (0.1, 0.35)
CONFIGURATION = f"""
[vp."{VP_ID}"]
executor = "command"
concurrency = 1
[vp."{VP_ID}".options]
argv = ["date", "+%s%N"]
"""


def bare_spawn() -> float:
    """Seconds from before fork and exec until the program runs."""
    began = time.time_ns()
    spawned = subprocess.run(PROGRAM, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    return (int(spawned.stdout) - began) / 1e9


def dispatched(workspaces: Path) -> tuple[float, float]:
    """Seconds from before the dispatch until the program runs, and what of it the dispatch itself took."""
    began = time.time_ns()
    answer = tools.vp_dispatch_mission(vp_id=VP_ID, objective="Print the time.")
    called = (time.time_ns() - began) / 1e9
    if not answer["ok"]:
        raise SystemExit(f"dispatch failed: {answer['error']}")
    mission_id = answer["mission"]["mission_id"]
    ended = tools.vp_wait_mission(mission_id=mission_id, timeout_seconds=MISSION_SECONDS)
    if not ended["ok"] or ended["mission"]["status"] != "completed":
        raise SystemExit(f"the mission did not complete: {ended}")
    (log,) = workspaces.glob(f"*/{mission_id}/attempt-1/run.log")
    return (int(log.read_text()) - began) / 1e9, called


def measure(folder: Path, environment: dict[str, str], count: int, idle_seconds: Sequence[float]) -> dict[str, Any]:
    """Samples in seconds: ``bare``, ``ours``, ``call`` (the dispatch within ours), and ``idle`` after a long pause.

    Args:
        count: how many of each, in turn.
        idle_seconds: one sample after each such pause.
    """
    settings = missions.ready()
    with (folder / "consumer.log").open("wb") as log:
        consumer = [str(BIN / "huey_consumer"), "vp_queue.tasks.app.huey"]
        environment = {**environment, "VP_ID": VP_ID}
        with running(consumer, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
            _await_worker(process, folder / "consumer.log")
            samples: dict[str, Any] = {"bare": [], "ours": [], "call": [], "idle": []}
            dispatched(settings.workspaces_root)  # the first imports what all later ones use
            for _ in range(count):
                time.sleep(random.uniform(*PAUSE_SECONDS))
                samples["bare"].append(bare_spawn())
                time.sleep(random.uniform(*PAUSE_SECONDS))
                whole, call = dispatched(settings.workspaces_root)
                samples["ours"].append(whole)
                samples["call"].append(call)
            for seconds in idle_seconds:
                time.sleep(seconds)
                samples["idle"].append(dispatched(settings.workspaces_root)[0])
            return samples


def _await_worker(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while process.pid not in missions.worker_pids():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the consumer did not start:\n{log.read_text()}")
        time.sleep(0.02)
