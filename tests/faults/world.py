"""A small world in which the real code runs: its clocks, its hosts, its processes, and whose turn it is.

What is real: the ledger file, every transaction, Huey's queue, the worker's whole pipeline, the keeper. What
is replaced, from outside: the clocks, the process table, and the launcher that starts programs. Each actor (a
consumer, a keeper, a dispatcher) is a thread of its own, but only one moves at a time: it stops before every
transaction and at every act on a process, and goes on when the test says so. So whatever can lie between
two commits is a *turn* that a test can take, and a process can be killed or frozen at every one of them.

Source of the idea: deterministic simulation (FoundationDB, TigerBeetle).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

from vp_queue import clock
from vp_queue.keeper import deaths
from vp_queue.ledger import database, guard, watch
from vp_queue.worker import attempt, consumer, lease, process, standby, tree

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
HERE, ELSEWHERE = "here", "elsewhere"
STUCK_SECONDS = 60.0  # of real time: an actor that does not come to its next turn waits for another's lock
PIDS = 8  # few, so that they are reused all the time


class Killed(BaseException):
    """Raised where a killed process would have gone on."""


@dataclass(eq=False)
class Host:
    """A machine, or a container: its own boot-time clock, its own pids."""

    name: str
    boot_seconds: float
    identity: str = ""
    processes: list[Process] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)

    def free_pid(self) -> int:
        taken = {process.pid for process in self.processes if process.alive}
        return next(pid for pid in itertools.count(2) if pid not in taken)


@dataclass(eq=False)
class Process:
    """A consumer, keeper or dispatcher."""

    host: Host
    name: str
    pid: int
    start_ticks: int
    alive: bool = True
    frozen: bool = False


@dataclass(eq=False)
class Program:
    """What an attempt runs, with its launcher: gated, running, ended."""

    host: Host
    owner: Process
    identity: tree.TreeIdentity
    reports: int | None
    state: str = "gated"
    stubborn: bool = False  # not even SIGKILL ends it (stuck in the kernel)
    launcher_alive: bool = True
    told_to_stop: bool = False
    code: int | None = None

    @property
    def mission_id(self) -> str:
        return self.identity.marker.rpartition(".")[0]

    @property
    def runs(self) -> bool:
        return self.state == "running"

    def end(self, code: int | None) -> None:
        """It is over: by itself with this exit status, or (None) by a signal."""
        self.state, self.code = "ended", code
        if self.reports is not None:
            os.close(self.reports)
            self.reports = None

    def report(self, **line: Any) -> None:
        """Tell its worker, as programs do on VP_REPORT_FD."""
        if self.reports is not None:
            with contextlib.suppress(BrokenPipeError):  # nobody listens any more
                os.write(self.reports, json.dumps(line).encode() + b"\n")


class Actor:
    """A process's thread. It moves only in :meth:`step`, from one turn to the next."""

    def __init__(self, world: World, process: Process, body: Callable[[], None]) -> None:
        self.process, self.at, self.done = process, "its start", False
        self._world, self._error = world, None
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        threading.Thread(target=self._run, args=(body,), daemon=True, name=process.name).start()

    def step(self) -> None:
        """Go on to the next turn. What the code lets through, other than its death, fails the test."""
        if self.done:
            return
        self._go.release()
        assert self._paused.acquire(timeout=STUCK_SECONDS), f"{self.process.name} is stuck after {self.at}"
        if self._error is not None:
            raise self._error

    def pause(self, at: str) -> None:
        """A turn: called on this actor's thread."""
        if self.process.alive:
            self.at = at
            self._paused.release()
            self._go.acquire()
        if not self.process.alive:
            raise Killed

    def _run(self, body: Callable[[], None]) -> None:
        self._world.turn.actor = self
        self._go.acquire()
        try:
            if self.process.alive:
                body()
        except Killed:
            pass
        except BaseException as error:
            self._error = error
        finally:
            database.close_thread_connection()
            self.done = True
            self._paused.release()


class World:
    """Everything outside the code under test."""

    def __init__(self) -> None:
        self.hosts = {HERE: Host(HERE, 1_000.0), ELSEWHERE: Host(ELSEWHERE, 900_000.0)}
        self.turn = threading.local()
        self.actors: list[Actor] = []
        self.elapsed = 0.0
        self.wall_offset = timedelta()
        self.beside: list[tuple[Program, Program]] = []  # (older, newer) of one mission on two hosts
        self.started: list[str] = []  # markers of the programs that began
        self._numbers = itertools.count(1)
        self._outside = Process(self.hosts[HERE], "the test", 1, 1)
        for host in self.hosts.values():
            self.boot(host)

    # --- who acts -----------------------------------------------------------------------------------

    def spawn(self, host: Host, name: str) -> Process:
        """A new process, under a pid that a dead one may have had."""
        process = Process(host, name, host.free_pid(), next(self._numbers))
        host.processes.append(process)
        return process

    def acting(self) -> Process:
        """The process whose code runs on this thread now."""
        actor = getattr(self.turn, "actor", None)
        found: Process = actor.process if actor is not None else getattr(self.turn, "process", self._outside)
        return found

    @contextlib.contextmanager
    def acting_as(self, process: Process) -> Iterator[None]:
        """Let the test's own thread speak for a process (its heartbeat thread, its signal handler)."""
        self.turn.process = process
        try:
            yield
        finally:
            self.turn.process = self._outside

    def pause(self, at: str) -> None:
        """A turn of whichever actor runs this; none of the test's own thread."""
        actor = getattr(self.turn, "actor", None)
        if actor is not None:
            actor.pause(at)

    def kill(self, process: Process) -> None:
        """SIGKILL: nothing of it goes on, and its gated children see end-of-file."""
        process.alive = False
        for program in self.programs(lambda program: program.owner is process and program.state == "gated"):
            program.end(None)
        for actor in self.actors:
            if actor.process is process:
                actor.step()
        self.actors = [actor for actor in self.actors if not actor.done]

    def boot(self, host: Host) -> None:
        """The host starts anew: nothing lives there, and its pids mean something else from now on."""
        for living in [process_ for process_ in host.processes if process_.alive]:
            self.kill(living)
        for program in host.programs:
            if program.state != "ended":
                program.end(None)
        host.processes, host.programs = [], []
        host.identity = f"{host.name}:{next(self._numbers)}"

    # --- programs -----------------------------------------------------------------------------------

    def programs(self, which: Callable[[Program], bool] = lambda program: True) -> list[Program]:
        """The programs on all hosts, as far as ``which`` says."""
        return [program for host in self.hosts.values() for program in host.programs if which(program)]

    def launch(self, specification: process.Program) -> Launched:
        """Stands for ``worker.process.launch``."""
        self.pause("launching a program")
        owner = self.acting()
        pid, launcher = (next(self._numbers) + 1_000_000 for _ in range(2))
        identity = tree.TreeIdentity(owner.host.identity, launcher, 1, pid, 1, pid, None, specification.marker)
        program = Program(owner.host, owner, identity, os.dup(specification.pass_fds[0]))
        owner.host.programs.append(program)
        return Launched(self, program)

    def begin(self, program: Program) -> None:
        """The gate opens. Nothing of this mission may live on this host by now."""
        if program.state != "gated":
            return
        for other in self.programs(lambda other: other.runs and other.mission_id == program.mission_id):
            if other.host is program.host:
                raise AssertionError(f"overlap: {program.identity.marker} starts while {other.identity.marker} runs")
            self.beside.append((other, program))
        assert program.identity.marker not in self.started, f"{program.identity.marker} starts a second time"
        program.state = "running"
        self.started.append(program.identity.marker)

    def end_tree(self, identity: tree.TreeIdentity, grace_seconds: float) -> bool:
        """Stands for ``worker.tree.end_tree``."""
        self.pause("ending a tree")
        host = self.acting().host
        if identity.host != host.identity:
            return False
        for program in host.programs:
            if program.identity == identity:
                program.launcher_alive = False
                if program.runs and program.stubborn:
                    return False
                if program.state != "ended":
                    program.end(None)
        return True

    def process_start_ticks(self, pid: int) -> int | None:
        """Stands for ``clock.process_start_ticks``."""
        for process_ in self.acting().host.processes:
            if process_.pid == pid and process_.alive:
                return process_.start_ticks
        return None

    # --- replacing ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Put this world in the place of the machine's, in every module of vp_queue."""
        with contextlib.ExitStack() as undo:
            undo.enter_context(clock.use(_Clock(self)))
            for old, new in (
                (clock.host_identity, lambda: self.acting().host.identity),
                (clock.process_start_ticks, self.process_start_ticks),
                # Ids in order: a random one would make an index's order, and so a run, differ.
                (clock.new_mission_id, lambda: f"m-{next(self._numbers):010d}"),
                (clock.new_token, lambda: f"{next(self._numbers):012x}".ljust(32, "0")),
                (tree.end_tree, self.end_tree),
                (process.launch, self.launch),
                (standby.keep, lambda: None),
                (watch.current, lambda: _NO_WATCH),
                (database.write_transaction, self._paused_before(database.write_transaction)),
                (database.read_transaction, self._paused_before(database.read_transaction)),
            ):
                undo.callback(_replace, new, old)
                _replace(old, new)
            for owner, name, new in (
                (os, "getpid", self._getpid(os.getpid)),
                (consumer, "atexit", SimpleNamespace(register=lambda function: function)),
                (consumer, "STOP_WAIT_SECONDS", 0.0),
                (lease.LeaseKeeper, "start", _note_worker),
                (guard.LedgerGuard, "start", lambda _: None),
                (deaths.DeathWatch, "watch", lambda _, processes: None),
                (attempt.RunningAttempt, "wait_a_moment", lambda _, seconds: self.pause("waiting a moment")),
            ):
                undo.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, new)
            yield

    def _paused_before(self, transaction: Callable[[], Any]) -> Callable[[], Any]:
        @contextlib.contextmanager
        def paused(**options: Any) -> Iterator[Any]:
            if not database.current().db.in_transaction():
                self.pause(f"a {transaction.__name__.replace('_', ' ')}")
            with transaction(**options) as opened:
                yield opened

        return paused

    def _getpid(self, real: Callable[[], int]) -> Callable[[], int]:
        return lambda: self.acting().pid if self.acting() is not self._outside else real()


class Launched:
    """Stands for ``worker.process.LaunchedProgram``: the worker's end of a program's launcher."""

    log_bytes = 0
    last_output_monotonic: float | None = None

    def __init__(self, world: World, program: Program) -> None:
        self._world, self._program, self._exit = world, program, None
        self.identity, self.ended_by_itself = program.identity, False
        self._readable: int | None = os.eventfd(1)  # always: each look is a turn

    def fileno(self) -> int:
        assert self._readable is not None
        return self._readable

    def release(self) -> None:
        self._world.pause("opening the gate")
        if self._program.launcher_alive:
            self._world.begin(self._program)

    def stop(self, grace_seconds: float) -> None:
        self._program.told_to_stop = True

    def wait(self, timeout_seconds: float | None) -> process.Exit | None:
        while self._exit is None:
            self._world.pause("its program")
            self._look()
            if timeout_seconds is not None:
                break
        return self._exit

    def _look(self) -> None:
        program = self._program
        if not program.launcher_alive:
            dead = self._world.end_tree(program.identity, 0.0)
            self._exit = process.Exit(None, 9, None, None, dead, 0, "the launcher died", launcher_lost=True)
            return
        if program.told_to_stop and program.state != "ended" and not program.stubborn:
            program.end(None)
        if program.state == "ended":
            self.ended_by_itself = program.code is not None
            signal = 9 if program.code is None else None
            self._exit = process.Exit(program.code, signal, None, None, True, 0, None)

    def close(self) -> None:
        if self._readable is None:
            return
        os.close(self._readable)
        self._readable = None
        program = self._program
        if program.owner.alive and program.state != "ended" and not program.stubborn:
            program.end(None)


class _Clock(clock.SystemClock):
    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> datetime:
        return START + timedelta(seconds=self._world.elapsed) + self._world.wall_offset

    def monotonic(self) -> float:
        return self._world.elapsed

    def boottime_us(self) -> int:
        return int((self._world.acting().host.boot_seconds + self._world.elapsed) * 1_000_000)


class _NoWatch:
    """Nobody is woken, for everybody's turn comes from the test."""

    def token(self) -> int:
        return 0

    def wait(self, token: int, timeout_seconds: float) -> bool:
        return False

    def wake(self) -> None:
        return None


_NO_WATCH = _NoWatch()


def _note_worker(self: lease.LeaseKeeper, worker_id: str) -> None:
    self._worker_id = worker_id  # its heartbeat is the test's to give


def vp_queue_modules() -> list[ModuleType]:
    """All modules of vp_queue that are loaded."""
    return [module for name, module in sys.modules.items() if name.split(".")[0] == "vp_queue" and module]


def _replace(old: Any, new: Any) -> None:
    """Put ``new`` wherever a module of vp_queue holds ``old``."""
    for module in vp_queue_modules():
        for name, value in list(vars(module).items()):
            if value is old:
                setattr(module, name, new)
