"""The launcher: one small process per attempt that owns the program's process tree.

The worker (``process.launch``) starts it and keeps one end of a control socket. The launcher becomes
the subreaper of whatever the program starts, forks a child that waits at a gate, and tells the worker
who that is; only at the worker's word does the child exec the program. Then one loop serves four
things: the worker's words, the program's output (into the bounded log), deaths of children, and time.
The tree is ended (TERM, grace, KILL until empty) when the program exits, the worker says stop, the
output limit is passed, or the worker dies: end-of-file on the control socket. Only then is the exit
reported. ``wait4`` answering "no child" proves the tree empty, since orphans come to the subreaper.

It is its own session, so Ctrl-C at the consumer does not reach it, and ignores INT and HUP; TERM
means stop. It is single-threaded, so forking is safe whatever threads the worker has. Only cheap
standard modules are imported: an attempt may have to wait for them.

It may be started long before it is used (``standby``): until its specification comes it holds nothing
but the control socket, and end-of-file there ends it. It serves one specification and exits.

Lines of JSON from the worker: the specification (with the program's descriptors beside it, as
SCM_RIGHTS), ``{"release": true}``, ``{"stop": grace seconds}``; to the worker: ``{"began": true}`` before
anything is done, ``{"started": …}`` or ``{"failed": …}``, ``{"running": true}`` once the gate has been passed,
``{"output": bytes so far}``, ``{"exit": …}``.
"""

from __future__ import annotations

import _socket  # not socket, which costs several ms
import contextlib
import json
import os
import select
import signal
import time

from vp_queue.worker import cgroups, procfs
from vp_queue.worker.gate import ERROR_BYTES, PR_SET_CHILD_SUBREAPER, READY, fork_gated, prctl
from vp_queue.worker.log import BoundedLog
from vp_queue.worker.redaction import Redactor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SPECIFICATION_BYTES = 8 * 1024 * 1024
MESSAGE_BYTES = 64 * 1024
CHUNK_BYTES = 256 * 1024
NOTICE_SECONDS = 1.0
# Grace where nobody named one: what the program left running, a dead worker, passed output limit.
DEFAULT_GRACE_SECONDS = 2.0
# KILL that has not emptied the tree by then (processes of another user, or stuck in the kernel) is
# reported as "not proved dead".
KILL_SECONDS = 10.0
KILL_ROUND_SECONDS = 0.02
DRAIN_SECONDS = 1.0
DESCRIPTORS = 253  # SCM_MAX_FD: no more fit into one message
INT_BYTES = 4


def main(control: int) -> None:
    """Run one program as the worker on the other end of ``control`` (a socket's descriptor) says."""
    os.set_inheritable(control, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # it counts below, where it may fail; here it loads what it needs
    spec = _receive_specification(control)
    if spec is None:
        return
    _send(control, {"began": True})
    try:
        launcher = _Launcher(control, spec)
    except OSError as error:
        failed = {"errno": error.errno, "text": f"{error.strerror}: {error.filename}"}
        _send(control, {"failed": failed})
        return
    launcher.run()
    os._exit(0)  # the worker waits for it, and taking an interpreter down takes ms


class _Launcher:
    """The state of one run; :meth:`run` is the loop."""

    def __init__(self, control: int, spec: dict[str, Any]) -> None:
        self.control: int | None = control
        self.log = BoundedLog(spec["log_path"], spec["log_head_bytes"], spec["log_tail_bytes"])
        self.redactor = Redactor(spec["redact"])
        self.output_limit_bytes: int = spec["output_limit_bytes"]
        self.heard = b""  # an unfinished line from the worker
        self.to_say = b""  # what the control socket did not take yet
        self.noticed_bytes, self.next_notice = 0, 0.0
        self.gate: int | None
        self.trouble = b""  # why exec failed, in the child's words
        self.status: int | None = None
        self.max_rss_kib, self.cpu_seconds = 0, 0.0
        self.has_children = True
        self.term_sent = self.over_limit = self.never_released = self.refused = False
        self.kill_at: float | None = None  # set = the tree is being ended
        self.give_up_at = self.next_round = 0.0
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        self.wakeup = _signal_pipe()
        none = cgroups.Cgroups(None, None)
        self.cgroups = cgroups.create(spec["marker"], spec["max_processes"]) if spec["use_cgroup"] else none
        self.output: int | None
        self.errors: int | None
        try:
            self.pid, joined, self.gate, self.output, self.errors = fork_gated(spec, self.cgroups)
        except OSError:
            self.cgroups.remove()
            raise
        self._introduce(joined)

    def run(self) -> None:
        """Serve until the tree has ended, then report and leave."""
        while not self._ended():
            self._wait()
        self._drain()
        self.log.write(self.redactor.rest())
        self.log.close()
        dead, self.refused = self._tree_is_empty(), self.cgroups.refused()
        if dead:
            self.cgroups.remove()
        self._report(dead)

    # -- beginning ---------------------------------------------------------------------------------

    def _introduce(self, joined: bool) -> None:
        if self.errors is not None:
            # READY: the child has its session by now. Otherwise it could not start, and says why.
            first = os.read(self.errors, 1)
            self.trouble = b"" if first == READY else first
            os.set_blocking(self.errors, False)
        self.cgroups.keep_only_those_of(self.pid, joined)
        me = os.getpid()
        self._say(
            {
                "started": {
                    "launcher_pid": me,
                    "launcher_start": procfs.start_ticks(me),
                    "pid": self.pid,
                    "start": procfs.start_ticks(self.pid) or 0,
                    "cgroup": self.cgroups.tree,
                    "pids_cgroup": self.cgroups.pids,
                }
            }
        )

    # -- the loop ----------------------------------------------------------------------------------

    def _wait(self) -> None:
        poller = select.poll()
        poller.register(self.wakeup, select.POLLIN)
        for fd in (self.output, self.errors):
            if fd is not None:
                poller.register(fd, select.POLLIN)
        if self.control is not None:
            poller.register(self.control, select.POLLIN | (select.POLLOUT if self.to_say else 0))
        events: dict[int | None, int] = dict(poller.poll(self._timeout_ms()))
        if self.wakeup in events:
            self._on_signal()
        heard = events.get(self.control, 0)
        if heard & select.POLLOUT:
            self._flush()
        if heard & ~select.POLLOUT:
            self._on_control()
        if self.errors in events:
            self._on_exec()
        if self.output in events:
            self._on_output()
        self._notice()

    def _timeout_ms(self) -> int | None:
        due: list[float] = []
        if self.kill_at is not None:
            due.append(max(self.kill_at, self.next_round))
        if not self.has_children:  # the kernel may say "populated" a moment longer
            due.append(time.monotonic() + KILL_ROUND_SECONDS)
        if self.log.total > self.noticed_bytes and self.control is not None and not self.to_say:
            due.append(self.next_notice)
        return max(1, int((min(due) - time.monotonic()) * 1000) + 1) if due else None

    def _on_signal(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if signal.SIGTERM in os.read(self.wakeup, 4096):
                self._stop(DEFAULT_GRACE_SECONDS)

    def _on_control(self) -> None:
        if self.control is None:
            return
        try:
            data = os.read(self.control, MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(self.heard) > MESSAGE_BYTES:
            self._worker_is_gone()
            return
        *lines, self.heard = (self.heard + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "stop" in message:
                self._stop(float(message["stop"]))
            elif "release" in message and self.gate is not None:
                with contextlib.suppress(BrokenPipeError):
                    os.write(self.gate, b"!")
                self._close_gate()

    def _worker_is_gone(self) -> None:
        if self.control is not None:
            os.close(self.control)
            self.control, self.to_say = None, b""
        self._stop(DEFAULT_GRACE_SECONDS)

    def _on_exec(self) -> None:
        if self.errors is None:
            return
        data = os.read(self.errors, ERROR_BYTES)
        self.trouble += data
        if not data:  # closed by exec, or by the child's death
            os.close(self.errors)
            self.errors = None
            self._say({"running": True})

    def _on_output(self) -> bool:
        """Take in a chunk of what the program printed; False if there was none."""
        if self.output is None:
            return False
        try:
            data = os.read(self.output, CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not data:
            os.close(self.output)
            self.output = None
            return False
        self.log.write(self.redactor.feed(data))
        if self.log.total > self.output_limit_bytes and not self.over_limit:
            self.over_limit = True
            self._stop(DEFAULT_GRACE_SECONDS)
        return True

    def _notice(self) -> None:
        now = time.monotonic()
        if self.log.total > self.noticed_bytes and now >= self.next_notice and not self.to_say:
            self.noticed_bytes, self.next_notice = self.log.total, now + NOTICE_SECONDS
            self._say({"output": self.log.total})

    # -- ending ------------------------------------------------------------------------------------

    def _stop(self, grace_seconds: float) -> None:
        """Begin to end the tree, or shorten the grace of an ending that has begun."""
        now = time.monotonic()
        if self.gate is not None:
            self.never_released = True
            self._close_gate()  # end-of-file: the child exits without exec
        if self.kill_at is None or now + grace_seconds < self.kill_at:
            self.kill_at = now + grace_seconds
            self.give_up_at = self.kill_at + KILL_SECONDS

    def _close_gate(self) -> None:
        if self.gate is not None:
            os.close(self.gate)
            self.gate = None

    def _ended(self) -> bool:
        """Push the ending on by one step; True once nothing is left, or killing has not helped."""
        self._reap()
        if self._tree_is_empty():
            return True
        if self.kill_at is None:
            if self.status is None:
                return False
            self._stop(DEFAULT_GRACE_SECONDS)  # the program is gone, something of it is not
        now = time.monotonic()
        if self.kill_at is not None and now >= self.kill_at:
            return self._kill_round(now)
        if not self.term_sent:
            self.term_sent = True
            procfs.terminate(self._members())
        return False

    def _kill_round(self, now: float) -> bool:
        if now >= self.give_up_at:
            return True
        if now >= self.next_round:
            self.cgroups.kill()
            procfs.kill(self._members)
            self.next_round = time.monotonic() + KILL_ROUND_SECONDS
        return False

    def _members(self) -> list[procfs.Process]:
        processes = procfs.snapshot()
        found = {process.pid: process for process in procfs.descendants([os.getpid()], processes)}
        found.update((pid, processes[pid]) for pid in self.cgroups.members() if pid in processes)
        return list(found.values())

    def _reap(self) -> None:
        """Collect the dead; afterwards ``has_children`` says whether any live."""
        self.has_children = True
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                self.has_children = False
                return
            if pid == 0:
                return
            self.cpu_seconds += usage.ru_utime + usage.ru_stime
            self.max_rss_kib = max(self.max_rss_kib, usage.ru_maxrss)
            if pid == self.pid:
                self.status = status
                self._say({"ended": self.kill_at is None})

    def _tree_is_empty(self) -> bool:
        return not self.has_children and self.cgroups.are_empty()

    def _drain(self) -> None:
        """What is still in the pipes; somebody outside the tree may hold the other end, so bounded."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while self.errors is not None:
            try:
                self._on_exec()
            except BlockingIOError:
                break
        while self.output is not None and time.monotonic() < deadline:
            if not self._on_output():
                break

    # -- words to the worker -----------------------------------------------------------------------

    def _report(self, dead: bool) -> None:
        error = self.trouble.decode(errors="replace") or None
        if error is None and self.never_released:
            error = "stopped before it was released: the program never started"
        ran = self.status is not None and error is None
        status = self.status or 0
        self._say(
            {
                "exit": {
                    "code": os.WEXITSTATUS(status) if ran and os.WIFEXITED(status) else None,
                    "signal": os.WTERMSIG(status) if ran and os.WIFSIGNALED(status) else None,
                    "max_rss_bytes": self.max_rss_kib * 1024 if ran else None,
                    "cpu_seconds": self.cpu_seconds if ran else None,
                    "tree_dead": dead,
                    "log_bytes": self.log.total,
                    "error": error,
                    "output_limit": self.over_limit,
                    "process_limit": self.refused,
                }
            }
        )
        while self.control is not None and self.to_say:
            poller = select.poll()
            poller.register(self.control, select.POLLOUT)
            poller.poll()
            self._flush()

    def _say(self, message: dict[str, Any]) -> None:
        if self.control is not None:
            self.to_say += json.dumps(message).encode() + b"\n"
            self._flush()

    def _flush(self) -> None:
        """Say what the socket takes; a worker that does not listen must not stop the log."""
        try:
            while self.control is not None and self.to_say:
                self.to_say = self.to_say[os.write(self.control, self.to_say) :]
        except BlockingIOError:
            return
        except OSError:
            self._worker_is_gone()


def _receive_specification(control: int) -> dict[str, Any] | None:
    """The worker's first line; None if the worker is gone (or is no worker).

    Where the worker named one of the descriptors it sent along, by its place among them, stands its number here.
    """
    data, fds = b"", []
    peer = _socket.socket(fileno=control)
    try:
        while not data.endswith(b"\n") and len(data) <= SPECIFICATION_BYTES:
            room = _socket.CMSG_SPACE(DESCRIPTORS * INT_BYTES)
            chunk, ancillary, _, _ = peer.recvmsg(CHUNK_BYTES, room, _socket.MSG_CMSG_CLOEXEC)
            for level, kind, numbers in ancillary:
                if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                    fds += memoryview(numbers[: len(numbers) // INT_BYTES * INT_BYTES]).cast("i").tolist()
            if not chunk:
                return None
            data += chunk
    except OSError:
        return None
    finally:
        peer.detach()
    os.set_blocking(control, False)
    spec: dict[str, Any] = json.loads(data)
    for name in ("cwd_fd", "stdin_fd", "stdout_fd"):
        spec[name] = None if spec[name] is None else fds[spec[name]]
    spec["pass_fds"] = [fds[place] for place in spec["pass_fds"]]
    return spec


def _send(control: int, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.write(control, json.dumps(message).encode() + b"\n")


def _signal_pipe() -> int:
    """A descriptor that becomes readable at SIGCHLD and SIGTERM; it yields the signals' numbers."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    return reader
