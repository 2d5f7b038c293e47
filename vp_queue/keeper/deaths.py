"""Notices at once that a process died: the kernel's pidfd of a process becomes readable when it ends.

What is watched is named by pid *and* start time; a pid that was reused meanwhile counts as dead. Where there are
no pidfds, nothing is noticed here, and the keeper's sweep finds the dead within its second.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Collection
from typing import Final

from vp_queue import clock

MOST_WATCHED: Final = 1_000

Process = tuple[int, int]  # pid, start time in clock ticks


class DeathWatch:
    """Calls back when one of the watched processes has ended; from a thread of its own."""

    def __init__(self, on_death: Callable[[], None]) -> None:
        self._on_death = on_death
        self._watched: dict[Process, int] = {}
        self._lock = threading.Lock()
        self._poller = select.epoll() if hasattr(os, "pidfd_open") and hasattr(select, "epoll") else None
        self._thread: threading.Thread | None = None

    def watch(self, processes: Collection[Process]) -> None:
        """Watch these processes and no others."""
        if self._poller is None:
            return
        wanted = set(list(processes)[:MOST_WATCHED])
        with self._lock:
            for process in self._watched.keys() - wanted:
                self._forget(process)
            for process in wanted - self._watched.keys():
                self._add(process)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(self._poller,), name="death-watch", daemon=True)
            self._thread.start()

    def _add(self, process: Process) -> None:
        assert self._poller is not None  # noqa: S101  watch has looked
        with contextlib.suppress(OSError):  # gone already: the sweep that called us finds it, or the next
            pidfd = os.pidfd_open(process[0])
            # Once the pidfd is open it cannot come to mean another process; so the check holds.
            if clock.process_start_ticks(process[0]) != process[1]:
                os.close(pidfd)
                return
            self._watched[process] = pidfd
            self._poller.register(pidfd, select.EPOLLIN | select.EPOLLONESHOT)

    def _forget(self, process: Process) -> None:
        os.close(self._watched.pop(process))  # and epoll forgets it, too

    def _run(self, poller: select.epoll) -> None:
        while True:
            if poller.poll():
                self._on_death()
