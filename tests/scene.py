"""An installation in the middle of a working day, the same each time: for screenshots, and to judge pages by.

    python -m tests.scene FOLDER

makes it in an empty folder, prints one line of JSON with its missions' ids, and keeps the running ones running until
its standard input ends. Nothing in it is painted: real missions are dispatched and run by real workers and programs
(``tests/scene_program.py``). Only the wall clock is moved back while they do, so that the last hour has a history.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from tests.harness import BIN, ROOT, ok, until
from vp_queue import clock, missions, missions_seen, origin, tools
from vp_queue.worker.consumer import MissionWorker

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
# Of the last hour: which minute, by whom, what, how.
LINKS: Final = "Check every link of the handbook"
REVIEWS: Final = "Review the open merge requests"
HISTORY: Final = (
    *((minute, GENERAL, LINKS, "small") for minute in (58, 55, 41, 40, 39, 27, 26, 12)),
    *((minute, CODER, REVIEWS, "small") for minute in (52, 51, 33, 18, 17, 16)),
    (47, CODER, "Port the parser's tests to version 4", "seen"),
    (31, GENERAL, "Write the minutes of the release meeting from notes/2026-release.txt", "minutes"),
    (22, CODER, "Fix the pager: the last page is missing when it is not full", "patch"),
    (9, CODER, "Upgrade the parser to grammar version 4", "failed"),
)


class Earlier(clock.SystemClock):
    """The wall clock, so many minutes ago."""

    def __init__(self, minutes: float) -> None:
        self._back = timedelta(minutes=minutes)

    def now(self) -> datetime:
        return datetime.now(UTC) - self._back


class Stage:
    """Where the scene is played: workers in this process."""

    def __init__(self) -> None:
        self._settings = missions.ready()
        self._workers: dict[str, MissionWorker] = {}
        self._threads: list[threading.Thread] = []

    def dispatch(self, vp_id: str, objective: str, act: str, **more: Any) -> str:
        """Dispatch a mission; its id."""
        asked = {"vp_id": vp_id, "objective": objective, "metadata": {"act": act}, "budget": BUDGET, **more}
        with origin.acting("mcp", "orchestrator"):
            return str(ok(tools.vp_dispatch_mission(**asked))["mission"]["mission_id"])

    def play(self, minutes: float, vp_id: str, objective: str, act: str, **more: Any) -> str:
        """Dispatch it so long ago, and run it to its end."""
        with clock.use(Earlier(minutes)):
            mission_id = self.dispatch(vp_id, objective, act, **more)
            self._worker(vp_id).run(mission_id, 1)
        return mission_id

    def begin(self, minutes: float, vp_id: str, mission_id: str) -> None:
        """Have it running since so long ago; returns once it has reported."""
        with clock.use(Earlier(minutes)):
            running = threading.Thread(target=self._worker(vp_id).run, args=(mission_id, 1))
            running.start()
            self._threads.append(running)
            until(lambda: ok(tools.vp_get_mission(mission_id=mission_id))["mission"]["progress"], "it reports")

    def close(self) -> None:
        """End what runs."""
        for worker in self._workers.values():
            worker.close()
        for thread in self._threads:
            thread.join()

    def _worker(self, vp_id: str) -> MissionWorker:
        if vp_id not in self._workers:
            self._workers[vp_id] = MissionWorker(self._settings, self._settings.profile(vp_id))
        return self._workers[vp_id]


def play(stage: Stage) -> dict[str, str]:
    """The whole of it; the ids of missions by what they show."""
    found = {act: stage.play(minute, vp_id, objective, act) for minute, vp_id, objective, act in sorted(HISTORY)[::-1]}
    missions_seen.mark_seen(found["seen"])
    with clock.use(Earlier(8)):
        found["cancelled"] = stage.dispatch(GENERAL, "Draft the invitation to the summer party", "small")
        with origin.acting("cli", "ada"):
            ok(tools.vp_cancel_mission(mission_id=found["cancelled"], reason="the party is in winter"))
    with clock.use(Earlier(7)):
        missions.pause(RESEARCH, "the archive is closed until 16:00")
        for paper in ("the 1998 survey", "the 2011 survey", "the 2024 survey"):
            found["queued"] = stage.dispatch(RESEARCH, f"Summarize {paper} on write-ahead logging", "small")
    with clock.use(Earlier(6)):
        comparing = stage.dispatch(
            GENERAL, "Compare borg, restic and kopia for our 4 TB: price, restore time, encryption at rest",
            "running", source_session_id="session-monday",
        )  # fmt: skip
    stage.begin(6, GENERAL, comparing)
    with clock.use(Earlier(3)):
        adding = stage.dispatch(CODER, "Add --json to the report command", "coding", priority=5)
    stage.begin(3, CODER, adding)
    with clock.use(Earlier(2)):
        stage.dispatch(CODER, "Remove the deprecated --xml option", "small")
    return {**found, "running": comparing, "coding": adding}


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
