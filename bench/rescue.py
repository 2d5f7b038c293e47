"""How long a mission waits for help: its consumer is killed under supervisord, or it is cancelled while it runs.

    python bench/rescue.py [--kills N] [--cancels N] [--json] [--strict]

Rescue: from the SIGKILL of the consumer until the mission is queued again or has ended, by the time of its event.
By then its program must be dead. Cancel: from the call until `mission.cancelled`, which is written when the whole
tree is proved dead. The tree is co-operative: a shell and two children, which end at SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import (
    BIN,
    Goal,
    add_common_options,
    child_environment,
    facts,
    finish,
    folder_in,
    milliseconds,
    percentile,
    spread,
)

from vp_queue import clock, config, missions, tools
from vp_queue.contracts import views
from vp_queue.operations import supervision
from vp_queue.operations.programs import place

VP_ID = "vp.general.primary"
TREE = ("sh", "-c", "sleep 600 & sleep 600 & echo $$ > running; wait")
CONFIGURATION = f"""
[vp."{VP_ID}"]
executor = "command"
allow_commands = true
concurrency = 1
retry_backoff_seconds = 0
[vp."vp.coder.primary"]
executor = "command"
enabled = false
"""
RESCUED = ("mission.retrying", "mission.failed")
P50_GOAL_MS, P99_GOAL_MS, CANCEL_GOAL_MS = 1000.0, 2000.0, 300.0
PATIENCE_SECONDS = 60.0
# supervisord takes a program for RUNNING after its startsecs; one that dies sooner is held back.
CONSUMER_AGE_SECONDS = 2.5
PAUSE_SECONDS = (0.0, 0.4)
# Not measured here, and on another day: what the README's "How it compares" says of a job killed with its worker.
PEERS = (
    ("DBOS 3.4 (SQLite)", "ran again 1.6 s after it was relaunched"),
    ("Absurd 0.5", "ran again after 118.9 s"),
    ("huey 3.5, Procrastinate 3.10, Celery 5.7, RQ 3.0, Dramatiq 2.2", "did not run again"),
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=40, help="of the consumer (40)")
    parser.add_argument("--cancels", type=int, default=100, help="of a running mission (100)")
    parser.add_argument("--folder", type=Path, help="measure on this folder's file system")
    add_common_options(parser)
    return parser.parse_args()


@contextlib.contextmanager
def supervised(folder: Path) -> Iterator[Path]:
    """An installation under supervisord, current in this process; yields its workspaces' root."""
    environment = child_environment(folder)
    home = Path(environment["VP_HOME"])
    home.mkdir(mode=0o700, parents=True)
    (home / "vp_queue.toml").write_text(CONFIGURATION)
    os.environ["VP_HOME"] = str(home)
    settings = missions.ready()
    try:
        _vp(environment, "up", "--detach")
        yield settings.workspaces_root
    finally:
        _vp(environment, "down")
        short = place(home).short
        if short is not None:
            shutil.rmtree(short, ignore_errors=True)


def _vp(environment: dict[str, str], *arguments: str) -> None:
    argv = [str(BIN / "vp"), *arguments]
    done = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"vp {' '.join(arguments)}: {done.stdout}{done.stderr}")


def dispatched(max_attempts: int) -> str:
    answer = tools.vp_dispatch_mission(
        vp_id=VP_ID,
        objective="Wait to be ended.",
        mission_type="command",
        constraints={"command": list(TREE)},
        max_attempts=max_attempts,
    )
    if not answer["ok"]:
        raise SystemExit(f"dispatch failed: {answer['error']}")
    return str(answer["mission"]["mission_id"])


def running_program(workspaces: Path, mission_id: str, attempt: int) -> int:
    """The pid of an attempt's shell, once it and its children run."""
    path = next(iter(workspaces.glob("*")), workspaces) / mission_id / f"attempt-{attempt}" / "running"
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(path.read_text())
        path = next(workspaces.glob(f"*/{mission_id}/attempt-{attempt}/running"), path)
        time.sleep(0.002)
    raise SystemExit(f"the program of {mission_id}.{attempt} did not start")


def consumer() -> int:
    """The pid of the VP's consumer, once supervisord takes it for a stable one."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        program = next(each for each in supervision.programs(config.load()) if each["name"] == VP_ID)
        age_seconds = program["uptime_seconds"] or 0
        if age_seconds >= CONSUMER_AGE_SECONDS and program["pid"] in missions.worker_pids():
            return int(program["pid"])
        time.sleep(0.05)
    raise SystemExit("the consumer did not come up")


def event(mission_id: str, *types: str) -> views.EventView:
    """The first event of one of these types."""
    found = missions.events_after(0, 1, mission_id=mission_id, types=types, wait_seconds=PATIENCE_SECONDS)
    if not found:
        raise SystemExit(f"{mission_id}: no {' or '.join(types)} within {PATIENCE_SECONDS:.0f} s")
    return found[0]


def rescues(workspaces: Path, count: int) -> dict[str, Any]:
    """Samples in seconds: ``rescued`` and ``runs_again`` (its next attempt's program); and programs that overlapped."""
    samples: dict[str, Any] = {"rescued": [], "runs_again": [], "alive": 0}
    for number in range(count):
        pid = consumer()
        mission_id = dispatched(max_attempts=2 - number % 2)
        program = running_program(workspaces, mission_id, 1)
        start = clock.process_start_ticks(program)
        time.sleep(random.uniform(*PAUSE_SECONDS))
        killed = clock.now()
        os.kill(pid, signal.SIGKILL)
        rescued = event(mission_id, *RESCUED)
        samples["alive"] += start is not None and clock.process_start_ticks(program) == start
        samples["rescued"].append((rescued.at - killed).total_seconds())
        if rescued.type == "mission.retrying":
            running_program(workspaces, mission_id, 2)
            samples["runs_again"].append((clock.now() - killed).total_seconds())
            tools.vp_cancel_mission(mission_id=mission_id)
            event(mission_id, "mission.cancelled")
    return samples


def cancels(workspaces: Path, count: int) -> list[float]:
    """Seconds from before the call until the mission is cancelled."""
    samples = []
    for _ in range(count):
        mission_id = dispatched(max_attempts=1)
        running_program(workspaces, mission_id, 1)
        time.sleep(random.uniform(*PAUSE_SECONDS))
        asked = clock.now()
        answer = tools.vp_cancel_mission(mission_id=mission_id)
        if not answer["ok"]:
            raise SystemExit(f"cancel failed: {answer['error']}")
        samples.append((event(mission_id, "mission.cancelled").at - asked).total_seconds())
    return samples


def goals(rescued: dict[str, Any], cancelled: list[float]) -> list[Goal]:
    def at(samples: list[float], percent: float) -> float | None:
        return milliseconds(percentile(samples, percent)) if samples else None

    return [
        Goal.at_most("killed consumer: rescued, p50", P50_GOAL_MS, at(rescued["rescued"], 50), "ms"),
        Goal.at_most("killed consumer: rescued, p99", P99_GOAL_MS, at(rescued["rescued"], 99), "ms"),
        Goal.at_most("programs alive when their mission was rescued", 0, rescued["alive"], ""),
        Goal.at_most("cancelled, tree proved dead, p99", CANCEL_GOAL_MS, at(cancelled, 99), "ms"),
    ]


def main() -> None:
    args = parse()
    with folder_in(args.folder) as folder:
        about = facts(folder)
        with supervised(folder) as workspaces:
            cancelled = cancels(workspaces, args.cancels)
            rescued = rescues(workspaces, args.kills)
    named = {
        "rescued": ("killed: queued or ended", rescued["rescued"]),
        "runs_again": ("killed: runs again", rescued["runs_again"]),
        "cancelled": ("cancelled", cancelled),
    }
    figures = {name: spread(samples) for name, (_, samples) in named.items() if samples}
    rows = [
        (named[name][0], f["p50_ms"], f["p90_ms"], f["p99_ms"], f["max_ms"], f["samples"])
        for name, f in figures.items()
    ]
    finish(
        "Rescue and cancel",
        about,
        [
            (("until", "p50 ms", "p90 ms", "p99 ms", "max ms", "samples"), rows),
            (("peers, measured once, 2026-11-22", "a job killed with its worker"), PEERS),
        ],
        goals(rescued, cancelled),
        args,
        {**figures, "alive_when_rescued": rescued["alive"]},
    )


if __name__ == "__main__":
    main()
