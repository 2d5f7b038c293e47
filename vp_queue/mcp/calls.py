"""Calls of tools on behalf of a host: each in a thread, none in the way of another.

Threads come from three pools. A wait may take an hour, so waits have their own; a write may wait seconds for the
ledger's lock, so reads do not stand in line behind writes. A wait that finds its pool used up answers at once with
what there is, as one whose time was up.

A wait ends within a moment when its caller goes away: its thread is never left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
import anyio.abc
import anyio.to_thread

from vp_queue import clock, missions, tools
from vp_queue.contracts.views import MissionView

WAITS_AT_ONCE: Final = 64
READS_AT_ONCE: Final = 16
WRITES_AT_ONCE: Final = 64  # under a foreign lock each takes limits.WRITE_WAIT_SECONDS, and what stands behind it twice
# A host that gave up on silence (60 s, often) is told at least this often; each change of the mission is told at once.
PROGRESS_SECONDS: Final = 4.0

Answer = dict[str, Any]
Gone = Callable[[], Awaitable[object]]
# How far a wait is, in seconds, of how many, and a line that says how things stand.
Report = Callable[[float, float | None, str], Awaitable[None]]


class Calls:
    """The pools of one server."""

    def __init__(self) -> None:
        self._waits = anyio.CapacityLimiter(WAITS_AT_ONCE)
        self._reads = anyio.CapacityLimiter(READS_AT_ONCE)
        self._writes = anyio.CapacityLimiter(WRITES_AT_ONCE)
        self._waiting: set[_Wait] = set()
        self._closing = False

    async def answer(self, name: str, arguments: dict[str, Any], report: Report, gone: Gone | None = None) -> Answer:
        """Call a tool; whatever goes wrong is an answer too.

        Args:
            report: told how a wait is getting on.
            gone: returns when the caller has gone away; without it, that is told by cancelling only.
        """
        definition = tools.DEFINITIONS.get(name)
        # Counted here and not by the limiter, which knows of a wait only once its thread is about to start.
        room = len(self._waiting) < self._waits.total_tokens and not self._closing
        if definition is not None and definition.waits and room:
            wait = _Wait(arguments, report)
            self._waiting.add(wait)
            try:
                answer: Answer = await wait.run(functools.partial(tools.call, name, arguments), self._waits, gone)
                return answer
            finally:
                self._waiting.discard(wait)
        quick = definition is None or definition.hints.read_only
        # What would wait does not, for want of a thread or because the server is about to end.
        call = functools.partial(tools.call, name, arguments, keep_waiting=lambda _: False)
        return await anyio.to_thread.run_sync(call, limiter=self._reads if quick else self._writes)

    async def read(self, look: Callable[[], Any]) -> Any:
        """Run what reads the ledger by other means than a tool."""
        return await anyio.to_thread.run_sync(look, limiter=self._reads)

    async def write(self, change: Callable[[], Any]) -> Any:
        """Run what writes to the ledger by other means than a tool."""
        return await anyio.to_thread.run_sync(change, limiter=self._writes)

    def end_waits(self) -> None:
        """Have each wait answer now, as if its time were up: the server is about to end."""
        self._closing = True
        for wait in self._waiting:
            wait.end()


class Thread:
    """A thread that waits on the ledger, and comes back within a moment once nobody needs it any more."""

    def __init__(self) -> None:
        self.over = False

    async def run(
        self, call: Callable[..., Any], limiter: anyio.CapacityLimiter, gone: Gone | None = None, *, once: bool = True
    ) -> Any:
        """Run a call that takes ``keep_waiting``, and end it when this is cancelled or its caller is gone.

        Args:
            gone: returns when the caller has gone away.
            once: nothing more is to be run.
        """
        error: Exception | None = None
        answer: Any = None
        async with anyio.create_task_group() as tasks:
            self._beside(tasks)
            ending = functools.partial(self._end_with_caller, gone)
            tasks.start_soon(ending)
            # Not abandoned when cancelled: the task above has it end, and until then its place in the pool is taken.
            try:
                waiting = functools.partial(call, keep_waiting=self.keep_waiting)
                answer = await anyio.to_thread.run_sync(waiting, limiter=limiter)
            except Exception as raised:
                error = raised  # out of the task group it would come in a group of exceptions
            self._back = True
            self.over = self.over or once
            tasks.cancel_scope.cancel()
        if error is not None:
            raise error
        return answer

    def end(self) -> None:
        """Have the thread come back now."""
        if not self.over:
            self.over = True
            missions.wake_waiters()

    def keep_waiting(self, mission: MissionView | None) -> bool:
        """Asked by the waiting thread whenever it has looked."""
        return not self.over

    def _beside(self, tasks: anyio.abc.TaskGroup) -> None:
        """Start what runs as long as the thread does."""
        self._back = False

    async def _end_with_caller(self, gone: Gone | None) -> None:
        try:
            await (gone() if gone is not None else anyio.sleep_forever())
        finally:
            if not self._back:
                self.end()


class _Wait(Thread):
    """A tool that waits: its caller is told how things stand."""

    def __init__(self, arguments: dict[str, Any], report: Report) -> None:
        super().__init__()
        # Of any type or size here, and told to nobody before the contract has judged it.
        self._total = arguments.get("timeout_seconds", arguments.get("wait_seconds"))
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._began = self._told_at = clock.monotonic()
        self._told: tuple[object, ...] | None = None
        self._news = asyncio.Event()
        self._line = ""

    def keep_waiting(self, mission: MissionView | None) -> bool:
        """Also notes what there is to tell."""
        seen = () if mission is None else (mission.status, mission.attempt, mission.cancel_requested, mission.progress)
        now = clock.monotonic()
        if not self.over and (seen != self._told or now - self._told_at >= PROGRESS_SECONDS):
            self._told, self._told_at = seen, now
            self._line = "waiting for an event" if mission is None else line_of(mission)
            with contextlib.suppress(RuntimeError):  # the event loop has ended, and with it the wait
                self._loop.call_soon_threadsafe(self._news.set)
        return super().keep_waiting(mission)

    def _beside(self, tasks: anyio.abc.TaskGroup) -> None:
        super()._beside(tasks)
        tasks.start_soon(self._tell)

    async def _tell(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            # To the microsecond: it must rise from one to the next, however close they follow.
            await self._report(round(clock.monotonic() - self._began, 6), self._total, self._line)


def line_of(mission: MissionView) -> str:
    """How a mission stands, in a line; the message is its program's own."""
    line = f"{mission.status}, attempt {mission.attempt}" if mission.attempt else str(mission.status)
    if mission.cancel_requested:
        line += ", cancel requested"
    if mission.progress is None:
        return line
    if mission.progress.fraction is not None:
        line += f", {mission.progress.fraction:.0%}"
    return f"{line}: {mission.progress.message}" if mission.progress.message else line
