"""Keeps the installation and its clients running: whatever died is started again, by ``vp up`` or directly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.faults.campaign import processes
from tests.faults.campaign.clients import NAMES
from tests.faults.campaign.notes import Folder, Notes, boottime
from tests.faults.campaign.plan import VPS
from tests.harness import BIN, ROOT

GUARD_SECONDS: Final = 1.0
COMMAND_SECONDS: Final = 150.0  # an `up` waits for another 60 s, then 30 s for its programs
TRY_AGAIN: Final = 75  # exit status of what the ledger was too busy for (EX_TEMPFAIL)
KEEPER: Final = "keeper"

CONFIG: Final = """
lease_seconds = {lease_seconds}
[web]
enabled = false
"""
VP: Final = """
[vp."{vp_id}"]
title = "{vp_id}"
executor = "command"
allow_commands = true
concurrency = 2
cancel_grace_seconds = 0.3
retry_backoff_seconds = 0.1
"""


@dataclass
class Command:
    """A `vp` command under way."""

    argv: tuple[str, ...]
    process: subprocess.Popen[bytes]
    began: float


@dataclass
class Fleet:
    """What a campaign runs.

    Attributes:
        direct: programs are started by the campaign itself, two consumers for each VP, instead of by supervisord.
        mutants: guards removed in every program and client; only if ``direct``.
        wanted_up, clients_wanted: whether programs, and clients, are started (again).
    """

    folder: Folder
    journal: Notes
    direct: bool
    mutants: str = ""
    programs: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    clients: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    crashed: list[str] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    wanted_up: bool = True
    clients_wanted: bool = False
    _next_guard: float = 0.0

    def configure(self, lease_seconds: float) -> None:
        text = CONFIG.format(lease_seconds=lease_seconds) + "".join(VP.format(vp_id=vp_id) for vp_id in VPS)
        (self.folder.home / "vp_queue.toml").write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("VP_")}
        return {**kept, "VP_HOME": str(self.folder.home), "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}

    def _start(self, name: str, argv: Sequence[str], **extra: str) -> subprocess.Popen[bytes]:
        with (self.folder.logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                argv,
                env={**self.environment, **extra},
                cwd=self.folder.path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def vp(self, *arguments: str) -> Command:
        """Begin a `vp` command; :meth:`guard` notes its end."""
        process = self._start("vp", [str(BIN / "vp"), *arguments])
        self.commands.append(Command(arguments, process, boottime()))
        return self.commands[-1]

    def is_at_work(self) -> bool:
        """Whether an ``up``, ``down`` or ``restart`` is under way."""
        return any(command.argv[0] in ("up", "down", "restart") for command in self.commands)

    def guard(self, running: Sequence[processes.Found]) -> None:
        """Start what should run and does not."""
        self._reap_commands()
        if self.clients_wanted:
            self._guard_clients()
        if not self.wanted_up or boottime() < self._next_guard:
            return
        self._next_guard = boottime() + GUARD_SECONDS
        if self.direct:
            self._guard_programs()
        elif not self.is_at_work() and not any(process.role == "supervisord" for process in running):
            self.vp("up", "--detach")

    def _guard_programs(self) -> None:
        wrapper = [sys.executable, "-m", "tests.mutants", self.mutants] if self.mutants else []
        for name in (KEEPER, *VPS, *(f"{vp_id}+" for vp_id in VPS)):
            process = self.programs.get(name)
            if process is not None and process.poll() is None:
                continue
            keeper = name == KEEPER
            program, *arguments = ["vp", "keeper"] if keeper else ["huey_consumer", "vp_queue.tasks.app.huey"]
            argv = [*wrapper, program, *arguments] if wrapper else [str(BIN / program), *arguments]
            self.programs[name] = self._start(name, argv, **({} if keeper else {"VP_ID": name.rstrip("+")}))

    @property
    def consumers(self) -> int:
        """How many there should be."""
        return len(VPS) * (2 if self.direct else 1)

    def _guard_clients(self) -> None:
        for name in NAMES:
            process = self.clients.get(name)
            if name in self.finished or (process is not None and process.poll() is None):
                continue
            if process is not None and process.returncode == 0:
                self.finished.add(name)
                continue
            if process is not None and process.returncode not in (-signal.SIGKILL, -signal.SIGTERM):
                self.crashed.append(f"{name} ended with {process.returncode}: see {self.folder.logs / name}.log")
                self.finished.add(name)
                continue
            guards = [self.mutants] if self.mutants else []
            argv = [sys.executable, "-m", "tests.faults.campaign.clients", name, str(self.folder.path), *guards]
            self.clients[name] = self._start(name, argv)

    def _reap_commands(self) -> None:
        for command in list(self.commands):
            took = boottime() - command.began
            if command.process.poll() is None and took > COMMAND_SECONDS:
                command.process.kill()
                command.process.wait()
                self.crashed.append(f"vp {' '.join(command.argv)} did not end in {COMMAND_SECONDS:.0f} s")
            if command.process.poll() is not None:
                self.commands.remove(command)
                self.journal.write(did=command.argv, status=command.process.returncode, seconds=round(took, 3))
                if command.argv[0] == "resume" and command.process.returncode == TRY_AGAIN:
                    self.vp(*command.argv)

    def known(self) -> list[int]:
        """Pids of children that their Popen objects reap."""
        started = [*self.programs.values(), *self.clients.values(), *(command.process for command in self.commands)]
        return [process.pid for process in started]

    def dispatchers_are_done(self) -> bool:
        return all(name in self.finished for name in NAMES if name.startswith("dispatcher"))

    def stop_direct(self) -> None:
        """End the directly started programs in good order."""
        for process in self.programs.values():
            if process.poll() is None:
                process.terminate()
        for process in self.programs.values():
            try:
                process.wait(45)
            except subprocess.TimeoutExpired:
                self.crashed.append(f"{process.args} did not end within 45 s of its TERM")
                process.kill()
                process.wait()
