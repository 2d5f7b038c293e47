"""An installation in the middle of a working day, the same each time: for screenshots, and to judge pages by.

    python -m tests.scene FOLDER

makes it in an empty folder, prints one line of JSON with its missions' ids, and keeps the running ones running until
its standard input ends. Nothing in it is painted: real missions are dispatched and run by real workers and programs
(``tests/scene_program.py``). Only the wall clock is moved back while they do, so that the last hour has a history.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from tests.harness import BIN, ROOT, ok, until
from vp_queue import clock, missions, missions_seen, origin, tools
from vp_queue.worker.consumer import MissionWorker
from vp_queue.worker.workspace import attempt_path

GENERAL, CODER, RESEARCH = "vp.general.primary", "vp.coder.primary", "vp.research.primary"
PROFILE: Final = """
[vp."{vp_id}"]
title = "{title}"
description = "{description}"
executor = "command"
cancel_grace_seconds = 1.0
[vp."{vp_id}".options]
argv = ["{python}", "{program}"]
"""
ROSTER: Final = (
    (GENERAL, "Generalist", "Research, writing, analysis."),
    (CODER, "Coder", "Writing, changing, testing and reviewing code in a repository."),
    (RESEARCH, "Researcher", "Long reading: papers, manuals, archives. Give it hours."),
)
BUDGET: Final = {"max_duration_seconds": 2_700, "max_tokens": 80_000, "max_cost_usd": 0.5}
# Of the last hour: which minute, by whom, what, for how many seconds, and the name of it.
LINKS: Final = (GENERAL, "Check every link of the handbook")
REVIEW: Final = (CODER, "Review the open merge requests")
HISTORY: Final = (
    *((minute, *LINKS, 41.0, "") for minute in (58, 55, 41, 40, 39, 27, 26, 12)),
    *((minute, *REVIEW, 35.0, "") for minute in (52, 51, 33, 18, 17, 16)),
    (47, CODER, "Port the parser's tests to version 4", 64.0, "seen"),
    (31, GENERAL, "Write the minutes of the release meeting from notes/2026-release.txt", 96.0, "minutes"),
    (22, CODER, "Fix the pager: the last page is missing when it is not full", 171.0, "patch"),
    (9, CODER, "Upgrade the parser to grammar version 4", 52.0, "failed"),
)
COMPARE: Final = "Compare borg, restic and kopia for our 4 TB: price, restore time, encryption at rest"


class Earlier(clock.SystemClock):
    """The wall clock, so many minutes ago; then later."""

    def __init__(self, minutes: float) -> None:
        self.back = timedelta(minutes=minutes)

    def now(self) -> datetime:
        return datetime.now(UTC) - self.back


@dataclass
class Run:
    """What a worker is told to run: what was dispatched so many minutes ago, for so many seconds; None: on and on."""

    mission_id: str
    minutes: float
    seconds: float | None


def work(vp_id: str, told: Connection) -> None:
    """A worker's process: runs what it is told, one after the other; says when each has begun or ended."""
    os.setpgrp()  # Ctrl-C is for the one that tells it
    settings = missions.ready()
    worker = MissionWorker(settings, settings.profile(vp_id))
    worker.start()
    told.send("registered")
    threads: list[threading.Thread] = []
    while (run := told.recv()) is not None:
        earlier = Earlier(run.minutes)
        with clock.use(earlier):
            threads.append(threading.Thread(target=worker.run, args=(run.mission_id, 1)))
            threads[-1].start()
            folder = attempt_path(settings.workspaces_root, vp_id, run.mission_id, 1)
            until((folder / "ready").exists, "its program runs")
            if run.seconds is not None:
                earlier.back -= timedelta(seconds=run.seconds)
            (folder / "go").touch()
            if run.seconds is not None:
                threads[-1].join()
            else:
                until(functools.partial(_progress, run.mission_id), "it reports")
        told.send("done")
    worker.close()
    for thread in threads:
        thread.join()


def _progress(mission_id: str) -> Any:
    return ok(tools.vp_get_mission(mission_id=mission_id))["mission"]["progress"]


class Stage:
    """Where the scene is played: a worker's process for each VP."""

    def __init__(self) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._workers: list[multiprocessing.process.BaseProcess] = []
        self._tell: dict[str, Connection] = {}
        for vp_id, _, _ in ROSTER:
            self._tell[vp_id], end = spawning.Pipe()
            self._workers.append(spawning.Process(target=work, args=(vp_id, end)))
            self._workers[-1].start()
        for told in self._tell.values():
            told.recv()

    def dispatch(self, minutes: float, vp_id: str, objective: str, **more: Any) -> str:
        """Dispatch a mission so many minutes ago; its id."""
        asked = {"vp_id": vp_id, "objective": objective, "budget": BUDGET, **more}
        with clock.use(Earlier(minutes)), origin.acting("mcp", "orchestrator"):
            return str(ok(tools.vp_dispatch_mission(**asked))["mission"]["mission_id"])

    def play(self, minutes: float, vp_id: str, objective: str, seconds: float | None, **more: Any) -> str:
        """Dispatch a mission and run it, to its end or to its first report; its id."""
        mission_id = self.dispatch(minutes, vp_id, objective, **more)
        self._tell[vp_id].send(Run(mission_id, minutes, seconds))
        self._tell[vp_id].recv()
        return mission_id

    def close(self) -> None:
        """End what runs."""
        for told in self._tell.values():
            told.send(None)
        for worker in self._workers:
            worker.join(60)


def play(stage: Stage) -> dict[str, str]:
    """The whole of it; the ids of missions by what they show."""
    found = {}
    for minutes, vp_id, objective, seconds, name in sorted(HISTORY)[::-1]:
        found[name] = stage.play(minutes, vp_id, objective, seconds)
    missions_seen.mark_seen(found["seen"])
    found["cancelled"] = stage.dispatch(8, GENERAL, "Draft the invitation to the summer party")
    with clock.use(Earlier(7.5)), origin.acting("cli", "ada"):
        ok(tools.vp_cancel_mission(mission_id=found["cancelled"], reason="the party is in winter"))
    with clock.use(Earlier(7)), origin.acting("dashboard"):
        missions.pause(RESEARCH, "the archive is closed until 16:00")
    for paper in ("the 1998 survey", "the 2011 survey", "the 2024 survey"):
        found["queued"] = stage.dispatch(6.5, RESEARCH, f"Summarize {paper} on write-ahead logging")
    found["running"] = stage.play(6, GENERAL, COMPARE, None, source_session_id="session-monday")
    found["coding"] = stage.play(3, CODER, "Add --json to the report command", None, priority=5)
    stage.dispatch(2, CODER, "Remove the deprecated --xml option")
    return found


@contextlib.contextmanager
def played(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """The scene, played by a process of its own, and the ids of its missions.

    Args:
        folder: an empty one; becomes VP_HOME.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VP_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.scene", str(folder)],
        cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        line = process.stdout.readline()
        assert line, f"the scene ended with {process.wait()}"
        try:
            yield folder, json.loads(line)
        finally:
            process.stdin.close()
            process.wait(60)


def main() -> None:
    """Play it."""
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    program = ROOT / "tests" / "scene_program.py"
    text = "".join(
        PROFILE.format(vp_id=vp_id, title=title, description=description, python=sys.executable, program=program)
        for vp_id, title, description in ROSTER
    )
    (folder / "vp_queue.toml").write_text(text)
    os.environ["VP_HOME"] = str(folder)
    stage = Stage()
    keeper = subprocess.Popen([str(BIN / "vp"), "keeper"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        print(json.dumps(play(stage)), flush=True)
        sys.stdin.read()
    finally:
        stage.close()
        keeper.terminate()
        keeper.wait(60)


if __name__ == "__main__":
    main()
