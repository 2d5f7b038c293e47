"""Starting, watching and ending one attempt's program: the worker's side.

``launch`` has a launcher process (see ``launcher``; one that stands by, or a fresh one) fork the program
behind a gate and say who it is; the caller commits that identity to the ledger and then calls ``release``.
No program runs that the ledger does not know (ledger.md, rule 9). The launcher owns the tree and reports its
end; if it dies or goes silent, this side ends the tree by its identity. Nothing here forks by itself, so the
worker may have any number of threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vp_queue import clock
from vp_queue.contracts import limits
from vp_queue.errors import InternalError
from vp_queue.worker import cgroups, standby
from vp_queue.worker.account import Account
from vp_queue.worker.standby import Launcher
from vp_queue.worker.tree import TreeIdentity, end_tree

START_SECONDS = 30.0
# One that stood by answers at once. If it is stopped, or the machine is that slow, a fresh one does no worse.
STANDBY_SECONDS = 5.0
# A launcher that has not reported so long after the grace is stopped or stuck: end the tree without it.
LAUNCHER_PATIENCE_SECONDS = 12.0
WAIT_SLICE_SECONDS = 1.0
MESSAGE_BYTES = 64 * 1024
_MARKER = re.compile(r"[A-Za-z0-9_-]{1,100}\.[0-9]{1,10}")


@dataclass(frozen=True)
class Program:
    """What to run, and how.

    Attributes:
        argv: the program and its arguments; ``argv[0]`` without a slash is looked up in the PATH of
            ``env``, with a relative path below ``cwd_fd``.
        env: the complete environment. It should hold VP_MISSION_ID and VP_ATTEMPT as ``marker`` says:
            strays of a dead launcher are found by them.
        cwd_fd: open directory the program starts in; by descriptor, so no path can be swapped.
        log_path: run.log; must not exist yet.
        marker: ``"<mission_id>.<attempt>"``.
        pass_fds: inherited as 3, 4, 5 … in this order. The caller closes its own copies after
            :func:`launch`, or readers of the other end never see end-of-file.
        stdin_fd: the program's standard input; None = /dev/null. The caller closes its copy.
        stdout_fd: the program's standard output; None = the log, with stderr. The caller closes its copy.
        use_cgroup: try to run the tree in cgroups of its own.
        max_processes: processes and threads of the tree at most, where a cgroup can hold them; 0 = no limit.
        output_limit_bytes: the tree is ended once it has printed more.
        log_head_bytes, log_tail_bytes: how much of beginning and end of the log is kept.
        redact: values that never reach the log, longest first.
        account: the user whose rights it gets, for good, before it starts; None = those of the worker.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd_fd: int
    log_path: Path
    marker: str
    pass_fds: tuple[int, ...] = ()
    stdin_fd: int | None = None
    stdout_fd: int | None = None
    use_cgroup: bool = True
    max_processes: int = 0
    output_limit_bytes: int = limits.OUTPUT_BYTES
    log_head_bytes: int = limits.LOG_HEAD_BYTES
    log_tail_bytes: int = limits.LOG_TAIL_KEPT_BYTES
    redact: tuple[str, ...] = ()
    account: Account | None = None


@dataclass(frozen=True)
class Exit:
    """How it ended.

    Attributes:
        code: exit status; None if ended by a signal or never started.
        signal: the signal that ended it, or None.
        max_rss_bytes: largest resident memory of one process of the tree (never below the launcher's
            own ~10 MB, which the kernel carries over exec), or None if unknown.
        cpu_seconds: user and system time of the tree, or None if unknown.
        tree_dead: nothing of the tree is left, proved.
        log_bytes: bytes the program printed, kept or not.
        error: why the program never started, or what became of its launcher; else None.
        output_limit: it was ended because it printed too much.
        launcher_lost: its launcher died or went deaf; it was ended for that.
        process_limit: it was refused a process, because it had as many as it may.
    """

    code: int | None
    signal: int | None
    max_rss_bytes: int | None
    cpu_seconds: float | None
    tree_dead: bool
    log_bytes: int
    error: str | None
    output_limit: bool = False
    launcher_lost: bool = False
    process_limit: bool = False


class _NoAnswer(Exception):
    """The launcher ended or was silent. ``began`` = it had begun, so nobody else may run this program."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.began = False


class LaunchedProgram:
    """One launched program; made by :func:`launch`.

    ``wait`` and ``close`` belong to one thread; ``release`` and ``stop`` may be called from any.

    Attributes:
        identity: who it is, for the ledger and :func:`vp_queue.worker.tree.end_tree`.
        log_bytes: bytes printed, as last heard.
        last_output_monotonic: ``time.monotonic()`` when output was last heard of, or None.
        ended_by_itself: the program itself ended before anybody stopped it; what it left may still be ending.
    """

    def __init__(self, launcher: Launcher, marker: str, begin_seconds: float) -> None:
        self._launcher = launcher.process
        self._control = launcher.control
        self._heard = b""
        self._early: list[dict[str, Any]] = []  # said before we asked
        self._exit: Exit | None = None
        self._give_up_at: float | None = None
        self.log_bytes = 0
        self.last_output_monotonic: float | None = None
        self.ended_by_itself = False
        started = self._await_start(begin_seconds)
        self.identity = TreeIdentity(host=clock.host_identity(), pgid=started["pid"], marker=marker, **started)

    def release(self) -> None:
        """Open the gate: the program starts now."""
        self._say({"release": True})

    def stop(self, grace_seconds: float) -> None:
        """TERM to the tree, and KILL after the grace. Returns at once; see :meth:`wait`.

        Args:
            grace_seconds: time to end in good order. A later call can only shorten it.
        """
        give_up_at = time.monotonic() + grace_seconds + LAUNCHER_PATIENCE_SECONDS
        self._give_up_at = min(give_up_at, self._give_up_at or give_up_at)
        self._say({"stop": max(0.0, grace_seconds)})

    def wait(self, timeout_seconds: float | None) -> Exit | None:
        """Wait for the end of the program *and* of everything it left running.

        Args:
            timeout_seconds: None waits for ever; 0 only takes in what has been said.

        Returns:
            how it ended, or None on time-out.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while self._exit is None:
            now = time.monotonic()
            if self._give_up_at is not None and now >= self._give_up_at:
                self._end_without_launcher("the launcher did not answer")
                break
            due = min((at for at in (deadline, self._give_up_at) if at is not None), default=None)
            # In slices: another thread's stop() sets a new time to give up.
            heard = self._listen(min(WAIT_SLICE_SECONDS, max(0.0, due - now)) if due else WAIT_SLICE_SECONDS)
            if not heard and deadline is not None and time.monotonic() >= deadline:
                break
        return self._exit

    def fileno(self) -> int:
        """The control socket, for ``select``: readable = :meth:`wait` has something to take in."""
        return self._control.fileno()

    def close(self) -> None:
        """End what is still alive, reap the launcher, close the socket. May be called twice."""
        if self._control.fileno() < 0:
            return
        if self._exit is None:
            self.stop(0.0)
            self.wait(None)  # bounded: stop has set when to give up
        self._control.close()
        standby.replenish()  # if it never was released

    def _say(self, message: dict[str, Any]) -> None:
        # A launcher that is gone or deaf shows in wait(), which then ends the tree itself.
        with contextlib.suppress(OSError):
            self._control.send(json.dumps(message).encode() + b"\n")

    def _listen(self, timeout_seconds: float) -> bool:
        """Take in what the launcher says; False if it said nothing in time."""
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        if not poller.poll(int(timeout_seconds * 1000) + 1):
            return False
        try:
            data = self._control.recv(MESSAGE_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._end_without_launcher("the launcher died")
            return True
        for message in self._lines(data):
            self._take(message)
        return True

    def _lines(self, data: bytes) -> list[dict[str, Any]]:
        *lines, self._heard = (self._heard + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def _take(self, message: dict[str, Any]) -> None:
        if "output" in message:
            self.log_bytes = message["output"]
            self.last_output_monotonic = time.monotonic()
        elif "running" in message:
            standby.replenish()  # not before: to start an interpreter beside it would hold up the program
        elif "ended" in message:
            self.ended_by_itself = message["ended"]
        elif "exit" in message:
            self._exit = Exit(**message["exit"])
            self.log_bytes = self._exit.log_bytes
            standby.reap(self._launcher, LAUNCHER_PATIENCE_SECONDS)

    def _end_without_launcher(self, why: str) -> None:
        dead = end_tree(self.identity, 0.0)
        self._exit = Exit(None, 9, None, None, dead, self.log_bytes, why, launcher_lost=True)
        standby.reap(self._launcher, LAUNCHER_PATIENCE_SECONDS)

    def _await_start(self, begin_seconds: float) -> dict[str, Any]:
        self._next_message(begin_seconds)  # {"began": true}
        try:
            message = self._next_message(START_SECONDS)
        except _NoAnswer as silence:
            silence.began = True
            raise
        self._control.setblocking(False)
        if "failed" in message:
            raise OSError(message["failed"]["errno"], message["failed"]["text"])
        started: dict[str, Any] = message["started"]
        for later in self._early:
            self._take(later)
        return started

    def _next_message(self, timeout_seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_seconds
        while not self._early:
            self._control.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._control.recv(MESSAGE_BYTES)
            except TimeoutError:
                raise _NoAnswer("The launcher did not start the program in time; is the machine overloaded?") from None
            except OSError:
                data = b""
            if not data:
                raise _NoAnswer("The launcher ended before it started the program; its words are in the log.")
            self._early = self._lines(data)
        return self._early.pop(0)


def launch(program: Program) -> LaunchedProgram:
    """Have a launcher fork the program behind its gate.

    The program has *not* started when this returns: commit ``identity``, then call ``release``.

    Raises:
        ValueError: the marker is malformed, ``argv`` is empty, or a passed descriptor is below 3.
        OSError: the log cannot be created, or no process can be started.
        InternalError: the launcher did not answer.
    """
    if not _MARKER.fullmatch(program.marker) or not program.argv or any(fd < 3 for fd in program.pass_fds):
        raise ValueError("a program needs a marker '<mission_id>.<attempt>', an argv, and pass_fds of 3 and up")
    ready = standby.take()
    try:
        if ready is not None:
            try:
                return _hand_over(program, ready, STANDBY_SECONDS)
            except _NoAnswer as silence:
                if silence.began:
                    raise
        return _hand_over(program, standby.start(), START_SECONDS)
    except _NoAnswer as silence:
        raise InternalError(str(silence)) from None


def _hand_over(program: Program, launcher: Launcher, begin_seconds: float) -> LaunchedProgram:
    """Give a launcher its one specification; if that fails, the launcher is dead on return."""
    specification, fds = _specification(program)
    text = json.dumps(specification).encode() + b"\n"
    try:
        launcher.control.settimeout(begin_seconds)
        with contextlib.suppress(ConnectionError, TimeoutError):  # the answer that does not come says so
            launcher.control.sendall(text[socket.send_fds(launcher.control, [text], fds) :])
        return LaunchedProgram(launcher, program.marker, begin_seconds)
    except _NoAnswer as silence:
        launcher.process.kill()
        launcher.process.wait()
        silence.began = silence.began or launcher.has_spoken()  # in the last moment
        launcher.end()
        if program.use_cgroup:
            cgroups.discard(program.marker)
        raise
    except BaseException:
        launcher.end()  # end-of-file: it ends whatever it has begun
        raise


def _specification(program: Program) -> tuple[dict[str, Any], list[int]]:
    """What the launcher is told, and the descriptors that go with it; it names them by their place."""
    given = (program.cwd_fd, program.stdin_fd, program.stdout_fd, *program.pass_fds)
    fds = list(dict.fromkeys(fd for fd in given if fd is not None))
    return {
        "argv": list(program.argv),
        "env": dict(program.env),
        "cwd_fd": fds.index(program.cwd_fd),
        "stdin_fd": None if program.stdin_fd is None else fds.index(program.stdin_fd),
        "stdout_fd": None if program.stdout_fd is None else fds.index(program.stdout_fd),
        "pass_fds": [fds.index(fd) for fd in program.pass_fds],
        "log_path": os.path.abspath(program.log_path),
        "log_head_bytes": program.log_head_bytes,
        "log_tail_bytes": program.log_tail_bytes,
        "output_limit_bytes": program.output_limit_bytes,
        "marker": program.marker,
        "use_cgroup": program.use_cgroup,
        "max_processes": program.max_processes,
        "redact": list(program.redact),
        "account": asdict(program.account) if program.account else None,
    }, fds
