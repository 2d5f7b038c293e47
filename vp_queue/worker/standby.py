"""The launcher that stands by: started ahead, so that an attempt does not wait for an interpreter to start.

A launcher costs some 45 ms to start, nearly all of it Python's own start and imports. A consumer therefore
keeps one ready (:func:`keep`): blocked reading its specification from its control socket, with nothing of the
worker's but that socket and stderr, in a session of its own, using memory but no processor time. It is used
once; the next is started when the program it launched is under way. Whoever needs a launcher while none is
ready, or finds that it was killed, starts one. It ends by end-of-file: when the worker closes its end, or
dies in whatever way.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

END_SECONDS = 12.0
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from vp_queue.worker.launcher import main; main(int(sys.argv[2]))"


class Launcher(NamedTuple):
    """A launcher process that has not been given its specification, and our end of its control socket."""

    process: subprocess.Popen[bytes]
    control: socket.socket

    def is_alive(self) -> bool:
        """Whether it still waits: not yet reaped is not enough."""
        with contextlib.suppress(OSError):
            poller = select.poll()
            poller.register(self.control, select.POLLIN)
            return self.process.poll() is None and not poller.poll(0)  # readable = end-of-file
        return False

    def has_spoken(self) -> bool:
        """Whether something it said has not been read."""
        with contextlib.suppress(OSError):
            return bool(self.control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        return False

    def end(self) -> None:
        """Let it end (end-of-file), and reap it."""
        self.control.close()
        reap(self.process, END_SECONDS)


class _Standby:
    """The one that is ready in this process, if any."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ready: Launcher | None = None
        self.kept = False


_standby = _Standby()
# What a forked child has from its parent. Not given up to the garbage collector, which would look for the process.
_inherited: list[Launcher] = []


def start() -> Launcher:
    """Start a launcher, which then waits for its specification.

    Raises:
        OSError: no process can be started.
    """
    ours, theirs = socket.socketpair()
    package_parent = str(Path(__file__).resolve().parents[2])
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOOT, package_parent, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Nothing of the worker's environment: not its secrets, nor an outer mission's marker.
                env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    return Launcher(process, ours)


def reap(process: subprocess.Popen[bytes], patience_seconds: float) -> None:
    """Wait for a launcher that is ending; kill it if it does not."""
    try:
        process.wait(patience_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def keep() -> None:
    """Have a launcher stand by in this process from now on, until :func:`close` or the process's exit."""
    atexit.register(close)
    _standby.kept = True
    replenish()


def replenish() -> None:
    """Start the next one, if one is to be kept and none is there. A failure only costs the next attempt time."""
    with _standby.lock:
        if _standby.kept and _standby.ready is None:
            with contextlib.suppress(OSError):
                _standby.ready = start()


def take() -> Launcher | None:
    """The launcher that stands by, if it is alive; nobody else gets it."""
    with _standby.lock:
        ready, _standby.ready = _standby.ready, None
    if ready is None or ready.is_alive():
        return ready
    ready.end()
    return None


def close() -> None:
    """End the one that stands by; no other takes its place."""
    with _standby.lock:
        ready, _standby.ready, _standby.kept = _standby.ready, None, False
    if ready is not None:
        ready.end()


def _forget() -> None:
    """In a forked child: the launcher is the parent's, and must see end-of-file when the parent dies."""
    global _standby
    before, _standby = _standby, _Standby()
    if before.ready is not None:
        before.ready.control.close()
        _inherited.append(before.ready)


os.register_at_fork(after_in_child=_forget)
