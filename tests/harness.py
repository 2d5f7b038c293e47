"""What tests share: a VP_HOME of their own, real consumers and keepers, and waiting without sleeping blindly."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from vp_queue import tools
from vp_queue.ledger import database

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[1]
GENERAL, CODER = "vp.general.primary", "vp.coder.primary"
T = TypeVar("T")

CONFIG = """
lease_seconds = {lease_seconds}
[web]
{web}
[vp."vp.general.primary"]
executor = "command"
allow_commands = true
concurrency = {concurrency}
cancel_grace_seconds = {grace}
retry_backoff_seconds = 0.1
allowed_target_roots = ["{targets}"]
[vp."vp.general.primary".options]
argv = ["sh", "-c", "printf 'Roses are red\\n' > \\"$VP_WORK_PRODUCTS/poem.md\\""]
[vp."vp.coder.primary"]
executor = "command"
allow_commands = true
concurrency = {concurrency}
cancel_grace_seconds = {grace}
retry_backoff_seconds = 0.1
allowed_target_roots = ["{targets}"]
"""


def until(look: Callable[[], T], what: str, timeout_seconds: float = 30.0) -> T:
    """What ``look`` returns once it is truthy; fails the test if that takes too long."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


@dataclass
class Home:
    """A VP_HOME with both VPs running commands, and the processes started on it."""

    path: Path
    targets: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def configure(
        self,
        *,
        lease_seconds: float = 30,
        concurrency: int = 1,
        grace: float = 0.5,
        web: str = "enabled = false",
        more: str = "",
    ) -> None:
        """Write vp_queue.toml; without a web face, whose port tests that run beside each other would fight for."""
        text = CONFIG.format(
            lease_seconds=lease_seconds, concurrency=concurrency, grace=grace, web=web, targets=self.targets
        )
        (self.path / "vp_queue.toml").write_text(text + more)

    @property
    def environment(self) -> dict[str, str]:
        """A child's environment."""
        return {**os.environ, "VP_HOME": str(self.path), "PYTHONUNBUFFERED": "1"}

    @property
    def database(self) -> Path:
        return self.path / "vp_state.db"

    def workspace(self, mission_id: str, vp_id: str = GENERAL, attempt: int = 1) -> Path:
        """An attempt's directory, as the contract names it."""
        folder = vp_id.replace(".", "_") + "_external"
        return self.path / "AGENT_RUN_WORKSPACES" / folder / mission_id / f"attempt-{attempt}"

    def start(self, *argv: str, mutants: str = "", **extra: str) -> subprocess.Popen[bytes]:
        """Start a program of this environment's bin; its output goes to a log in VP_HOME.

        Args:
            mutants: guards to remove in it (``tests.mutants``), separated by commas.
        """
        log = (self.path / f"test-{Path(argv[0]).name}-{len(self.processes)}.log").open("wb")
        wrapper = [sys.executable, "-m", "tests.mutants", mutants, argv[0]] if mutants else [str(BIN / argv[0])]
        process = subprocess.Popen(
            [*wrapper, *argv[1:]],
            env={**self.environment, **({"PYTHONPATH": str(ROOT)} if mutants else {}), **extra},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        log.close()
        self.processes.append(process)
        return process

    def consumer(self, vp_id: str = GENERAL, *, mutants: str = "") -> subprocess.Popen[bytes]:
        """A real huey_consumer for a VP, once it has registered as a worker."""
        process = self.start("huey_consumer", "vp_queue.tasks.app.huey", mutants=mutants, VP_ID=vp_id)
        until(lambda: process.pid in worker_pids(vp_id) or exited(process), f"consumer of {vp_id} registered")
        return process

    def keeper(self, *, mutants: str = "") -> subprocess.Popen[bytes]:
        """A real keeper."""
        return self.start("vp", "keeper", mutants=mutants)

    def logs(self) -> str:
        """Everything the started processes printed."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.path.glob("test-*.log")))

    def close(self) -> None:
        """End what was started, in good order first."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)
                process.terminate()
        for process in self.processes:
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def exited(process: subprocess.Popen[bytes]) -> bool:
    """Fails the test if a process that should run has ended."""
    locks = Path("/proc/locks").read_text() if process.poll() is not None else ""
    assert process.poll() is None, f"{process.args} ended with {process.returncode}; locks:\n{locks}"
    return False


def worker_pids(vp_id: str) -> list[int]:
    """Pids of a VP's workers that have not ended."""
    for vp in ok(tools.vp_list_vps())["vps"]:
        if vp["vp_id"] == vp_id:
            return [worker["pid"] for worker in vp["workers"]]
    return []


def ok(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer, which must be a success."""
    assert answer["ok"], answer
    return answer


def milliseconds_to_cancel(mission_id: str) -> float:
    """From the request to the end of a cancelled mission, by the times of its events."""
    told = {event["type"]: event["at"] for event in ok(tools.vp_get_mission(mission_id=mission_id))["events"]}
    asked, done = (datetime.fromisoformat(told[f"mission.{name}"]) for name in ("cancel_requested", "cancelled"))
    return (done - asked).total_seconds() * 1_000


def refused(answer: dict[str, Any], code: str, field: str | None = None) -> dict[str, Any]:
    """The error, which must have this code (and name this field)."""
    assert not answer["ok"], answer
    error: dict[str, Any] = answer["error"]
    assert error["code"] == code, error
    if field is not None:
        assert error["details"].get("field") == field, error
    return error


def command(*argv: str, vp_id: str = GENERAL, **arguments: Any) -> dict[str, Any]:
    """Dispatch a command mission; returns the mission."""
    constraints = {"command": list(argv), **arguments.pop("constraints", {})}
    answer = tools.vp_dispatch_mission(
        vp_id=vp_id, objective="a command", mission_type="command", constraints=constraints, **arguments
    )
    mission: dict[str, Any] = ok(answer)["mission"]
    return mission


def shell(script: str, **arguments: Any) -> dict[str, Any]:
    """Dispatch a shell script as a command mission."""
    return command("sh", "-c", script, **arguments)


def ended(mission_id: str, timeout_seconds: float = 60) -> dict[str, Any]:
    """The mission once it is terminal."""
    answer = ok(tools.vp_wait_mission(mission_id=mission_id, timeout_seconds=timeout_seconds))
    assert answer["mission"]["terminal"], answer["mission"]
    mission: dict[str, Any] = answer["mission"]
    return mission


def status(mission_id: str) -> str:
    """A mission's status now."""
    return str(ok(tools.vp_get_mission(mission_id=mission_id))["mission"]["status"])


def events(mission_id: str) -> list[str]:
    """The types of a mission's events, in order."""
    answer = ok(tools.vp_get_mission(mission_id=mission_id, events_limit=500))
    return [event["type"] for event in answer["events"]]


def alive_with_environment(name: str, value: str) -> list[int]:
    """Pids of living processes whose environment holds this pair."""
    found, pair = [], f"{name}={value}".encode()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            state = (folder / "stat").read_bytes().rpartition(b")")[2].split()[0]
            if state not in (b"Z", b"X") and pair in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


@contextlib.contextmanager
def home_at(path: Path) -> Iterator[Home]:
    """A fresh VP_HOME; everything started on it ends with the block."""
    (path / "home").mkdir(mode=0o700, parents=True)
    (path / "targets").mkdir(mode=0o700)
    home = Home(path / "home", path / "targets")
    home.configure()
    try:
        yield home
    finally:
        home.close()


def open_descriptors() -> set[tuple[str, str]]:
    """This process's descriptors with what they lead to.

    Compared as sets, so that what an earlier test left to the garbage collector may go meanwhile and yet
    hide no descriptor that was opened and not closed.
    """
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed them
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return found


def forget_ledger() -> None:
    """Let this process open the ledger anew at its next use; what watches it ends within a second."""
    database.close_thread_connection()
    database._current = None


def close_ledger() -> None:
    """Have no ledger open in this process any more, so that its disk may go or another be put in its place."""
    if database._current is None:
        return
    path = str(database.current().path)
    forget_ledger()

    def closed() -> bool:
        gc.collect()  # its watch, if it had one, ends with it
        return not any(target.startswith(path) for _, target in open_descriptors())

    until(closed, "nothing of it is open")
