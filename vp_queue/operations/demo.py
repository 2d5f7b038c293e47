"""The demonstration: a whole installation in a temporary folder, two real missions, and nothing left of it.

Everything is what an installation of one's own has: supervisord, keeper, consumers, launchers, ledger, tools.
Signals only set a flag while it runs, so that no step is torn apart; each step takes a few seconds at most.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from vp_queue import config, missions, tools
from vp_queue.contracts import TERMINAL_EVENTS
from vp_queue.contracts.views import EventView
from vp_queue.errors import ExecutorUnavailable, VpError, by_code
from vp_queue.executors import model_local
from vp_queue.operations import coder_demo, installation, supervision
from vp_queue.operations.programs import place, stand_ins

GENERALIST: Final = "vp.general.primary"
CODER: Final = "vp.coder.primary"
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MISSION_SECONDS: Final = 120
PREFIX: Final = "vp-demo-"
EVENTS_AT_ONCE: Final = 100

POEM: Final = "Write a poem of eight short lines about a patient queue that keeps its promises."
CODE: Final = "Write a function that turns a number into a Roman numeral, with tests, in a git repository."

CONFIGURATION: Final = """\
[web]
enabled = false

[vp."vp.general.primary"]
executor = "model"
[vp."vp.general.primary".options]
max_output_tokens = 160
request = {{seed = 2}}

[vp."vp.coder.primary"]
executor = "command"
allowed_target_roots = [{projects}]
[vp."vp.coder.primary".options]
argv = [{python}, {coder}]
"""


class Interrupted(Exception):
    """A signal asked the demonstration to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Demonstration:
    """One demonstration in its own temporary VP_HOME; made by :func:`demonstration`.

    Attributes:
        folder: what it lives in.
        project: the target path of the coding mission.
        missions: the dispatched missions' ids by vp_id.
    """

    def __init__(self, folder: Path, signals: list[int]) -> None:
        self.folder = folder
        self.project = folder / "projects" / "numerals"
        self.missions: dict[str, str] = {}
        self._signals = signals
        self._seq = 0

    def start(self) -> dict[str, Any]:
        """Make the installation and start everything; the answer is that of ``vp up``."""
        self.go_on()
        self.project.mkdir(mode=0o700, parents=True)
        settings = config.load()
        config.ensure_home(settings)
        text = CONFIGURATION.format(
            projects=json.dumps(str(self.project.parent)),
            python=json.dumps(sys.executable),
            coder=json.dumps(str(Path(coder_demo.__file__).resolve())),
        )
        settings.config_path.write_text(text, encoding="utf-8")
        installation.init(config.load())
        return supervision.up(config.load(), detach=True)

    def dispatch(self) -> None:
        """Dispatch both missions, through the tools."""
        self.go_on()
        budget = {"max_duration_seconds": MISSION_SECONDS}
        self.missions[GENERALIST] = self._dispatched(
            vp_id=GENERALIST,
            objective=POEM,
            metadata={"output": "poem.md"},
            constraints={"require_artifacts": ["poem.md"]},
            budget=budget,
            idempotency_key="demo-poem",
        )
        self.missions[CODER] = self._dispatched(
            vp_id=CODER,
            objective=CODE,
            constraints={
                "target_path": str(self.project),
                "require_artifacts": ["report.xml", "changes.patch"],
            },
            budget=budget,
            idempotency_key="demo-code",
        )

    def _dispatched(self, **arguments: Any) -> str:
        mission_id: str = _ok(tools.vp_dispatch_mission(**arguments))["mission"]["mission_id"]
        return mission_id

    def follow(self, slice_seconds: float) -> Iterator[list[EventView]]:
        """The missions' events as they come, an empty list where a slice of time brought none, until both ended."""
        open_missions = set(self.missions.values())
        while open_missions:
            self.go_on()
            events = missions.events_after(self._seq, EVENTS_AT_ONCE, wait_seconds=slice_seconds)
            self._seq = events[-1].seq if events else self._seq
            open_missions -= {
                event.mission_id for event in events if event.type in TERMINAL_EVENTS and event.mission_id
            }
            yield [event for event in events if event.mission_id in self.missions.values()]

    def mission(self, vp_id: str) -> dict[str, Any]:
        """A mission as it is now."""
        answer = _ok(tools.vp_get_mission(mission_id=self.missions[vp_id], events_limit=0))
        mission: dict[str, Any] = answer["mission"]
        return mission

    def artifacts(self, vp_id: str) -> dict[str, str]:
        """What a mission made: text by path."""
        answer = _ok(tools.vp_read_result_artifacts(mission_id=self.missions[vp_id]))
        return {artifact["path"]: artifact["content"] or "" for artifact in answer["artifacts"]}

    def go_on(self) -> None:
        """Raises :class:`Interrupted` if a signal came since the last step."""
        if self._signals:
            raise Interrupted(self._signals[0])


def tests_told(report: str) -> str:
    """What a JUnit report says, in words."""
    try:
        suite = next(xml.etree.ElementTree.fromstring(report).iter("testsuite"))
    except (xml.etree.ElementTree.ParseError, StopIteration):
        return "no JUnit report"
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    return f"{suite.get('tests')} tests, {failed} failed"


@contextlib.contextmanager
def demonstration(*, keep: bool) -> Iterator[Demonstration]:
    """A demonstration; when the block ends, however it ends, everything is stopped and its folder is gone.

    Args:
        keep: leave the folder, with ledger, logs and workspaces.

    Raises:
        ExecutorUnavailable: the demonstration model or a program is missing; nothing was made.
        Interrupted: a signal came; raised by the methods, between their steps.
    """
    missing = model_local.problem()
    if missing is not None:
        raise ExecutorUnavailable(f"The demonstration needs it: {missing}. Run: vp model fetch")
    missing = coder_demo.missing()
    if missing is not None:
        raise ExecutorUnavailable(f"The demonstration needs git and pytest: {missing}")
    _remove_stand_ins()
    signals: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    folder = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
    try:
        with _own_environment(folder):
            try:
                yield Demonstration(folder, signals)
            finally:
                _stop()
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _own_environment(folder: Path) -> Iterator[None]:
    """The user's VP_* settings have no part in it, and its own point into the folder."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("VP_")]:
        del os.environ[name]
    os.environ["VP_HOME"] = str(folder / "home")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _stop() -> None:
    """End supervisord and all it started, also one that is just starting."""
    settings = config.load()
    if settings.run_dir.is_dir():
        supervision.down(settings)
    stand_in = place(settings.home).short  # of run/, where the temporary folder's path is too long for a socket
    if stand_in is not None:  # a kept demonstration's is made again, should anybody start it
        shutil.rmtree(stand_in, ignore_errors=True)


def _remove_stand_ins() -> None:
    """Remove the short folders in /tmp that killed demonstrations left: their VP_HOME is gone, or idle."""
    for left in stand_ins():
        if left.home.is_dir() and not (left.home.parent.name.startswith(PREFIX) and supervision.is_down(left)):
            continue
        if left.short is not None:
            shutil.rmtree(left.short, ignore_errors=True)


def _ok(answer: dict[str, Any]) -> dict[str, Any]:
    if not answer["ok"]:
        error = answer["error"]
        failed: VpError = by_code(error["code"])(error["message"])
        raise failed
    return answer
