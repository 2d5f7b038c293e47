"""Wakes whoever waits for the ledger to change: workers, waiters, feeds, the keeper.

One thread per process blocks in inotify on the ledger's folder (no polling, no CPU while idle). A write
to the ``-wal`` file says that some process is committing; the commit shows a moment later, when SQLite
has synced and moved its index, so the thread then looks at ``PRAGMA data_version`` (a few microseconds)
at growing intervals until it moves. A slow poll stands behind it, and is all there is on platforms
without inotify.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import struct
import threading
import time
import weakref
from pathlib import Path
from typing import Final

import cysqlite

from vp_queue import clock
from vp_queue.ledger import database, forks

logger = logging.getLogger("vp_queue.ledger")

SLOW_POLL_SECONDS: Final = 1.0
POLL_WITHOUT_INOTIFY_SECONDS: Final = 0.005
# After a write is seen: how soon to look again, and how long a commit may take before we give up on it.
RECHECK_SECONDS: Final = (0.0002, 0.0003, 0.0005, 0.001, 0.001, 0.002, 0.003, 0.005, 0.010, 0.020, 0.050, 0.100)
IN_MODIFY, IN_CREATE, IN_MOVED_TO = 0x2, 0x100, 0x80
IN_CLOEXEC, IN_NONBLOCK = 0o2000000, 0o4000
_EVENT_HEADER: Final = struct.Struct("iIII")


class ChangeWatch:
    """Counts the ledger's commits, as far as this process has noticed; several may fall into one count."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._count = 0
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._closed = False

    def token(self) -> int:
        """Take this before looking at the ledger; pass it to :meth:`wait` if what you saw is not enough."""
        if self._thread is None:
            with self._changed:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="ledger-watch", daemon=True)
                    self._thread.start()
        self._ready.wait(SLOW_POLL_SECONDS)
        return self._count

    def wait(self, token: int, timeout_seconds: float) -> bool:
        """Wait until something was committed after ``token`` was taken; False if the time ran out."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count != token, timeout_seconds)

    def wake(self) -> None:
        """Wake the waiters as if something had been committed (a stopping worker, say)."""
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let the thread end (within the slow poll): its ledger is no longer this process's."""
        self._closed = True

    def _run(self) -> None:
        inotify = _open_inotify(self._path.parent)
        try:
            self._watch(inotify)
        finally:
            if inotify is not None:
                os.close(inotify)

    def _watch(self, inotify: int | None) -> None:
        names = {os.fsencode(self._path.name), os.fsencode(f"{self._path.name}-wal")}
        while not self._closed:
            try:
                self._follow(inotify, names)
            except Exception:
                # A locked or vanished file must not end the watching: waiters fall back to their
                # time-outs, which look at the ledger and report its trouble properly.
                self._ready.set()
                logger.exception("watching the ledger failed; trying again")
                time.sleep(SLOW_POLL_SECONDS)
                self.wake()

    def _follow(self, inotify: int | None, names: set[bytes]) -> None:
        with contextlib.closing(_VersionReader(self._path)) as reader:
            seen = reader.version()
            self._ready.set()
            while not self._closed:
                seen = self._look(reader, seen, wait_for_commit=_await_write(inotify, names))

    def _look(self, reader: _VersionReader, seen: tuple[int, int], *, wait_for_commit: bool) -> tuple[int, int]:
        version = reader.version()
        if wait_for_commit:
            for pause in RECHECK_SECONDS:
                if version != seen:
                    break
                time.sleep(pause)
                version = reader.version()
        if version != seen:
            self.wake()
        return version


class _VersionReader:
    """Reads ``PRAGMA data_version`` on a connection of its own, made anew after a fork closed it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._generation = -1
        self._connection: cysqlite.Connection | None = None

    def version(self) -> tuple[int, int]:
        """Changes with every commit of any other connection."""
        with forks.passage():
            if self._connection is None or self._generation != forks.generation():
                self._connection = forks.connect(
                    str(self._path), flags=database.OPEN_READWRITE, timeout=database.BEGIN_WAIT_SECONDS
                )
                self._generation = forks.generation()
            return self._generation, int(self._connection.pragma("data_version"))

    def close(self) -> None:
        with forks.passage():
            if self._connection is not None:
                self._connection.close()


def _open_inotify(folder: Path) -> int | None:
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = int(libc.inotify_init1(IN_CLOEXEC | IN_NONBLOCK))
        if descriptor < 0:
            return None
        if libc.inotify_add_watch(descriptor, os.fsencode(folder), IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0:
            os.close(descriptor)
            return None
    except (OSError, AttributeError):
        return None
    return descriptor


def _await_write(inotify: int | None, names: set[bytes]) -> bool:
    """Block until a file of the ledger was written (True) or the slow poll is due (False)."""
    if inotify is None:
        time.sleep(POLL_WITHOUT_INOTIFY_SECONDS)
        return False
    poller = select.poll()
    poller.register(inotify, select.POLLIN)
    deadline = clock.monotonic() + SLOW_POLL_SECONDS
    while (left := deadline - clock.monotonic()) > 0:
        if not poller.poll(left * 1000):
            return False
        if names & _names_written(inotify):
            return True
    return False


def _names_written(inotify: int) -> set[bytes]:
    names: set[bytes] = set()
    try:
        data = os.read(inotify, 65536)
    except BlockingIOError:
        return names
    offset = 0
    while offset + _EVENT_HEADER.size <= len(data):
        length = _EVENT_HEADER.unpack_from(data, offset)[3]
        offset += _EVENT_HEADER.size
        names.add(data[offset : offset + length].rstrip(b"\0"))
        offset += length
    return names


_watches: weakref.WeakKeyDictionary[database.Ledger, ChangeWatch] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def current() -> ChangeWatch:
    """The watch of the current ledger; one per process and ledger."""
    ledger = database.current()
    with _lock:
        if ledger not in _watches:
            _watches[ledger] = ChangeWatch(ledger.path)
            weakref.finalize(ledger, _watches[ledger].close).atexit = False
        return _watches[ledger]


def _forget_lock() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it when this process was forked


forks.after_fork(in_parent=lambda: None, in_child=_forget_lock)
