"""The events as they happen, as server-sent events: each of them, in order, once.

One thread follows the ledger for all streams and keeps the newest events in a ring. A stream has a place in the feed,
the seq it has sent last. It takes from the ring what comes after; where the ring does not reach back so far, because
the client is slow, was away, or asked for the past, it reads pages of the ledger until it has caught up. A client that
comes back says where it was (``Last-Event-ID``), so it is nothing to the feed whether the server lived in between.
"""

from __future__ import annotations

import bisect
import functools
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from vp_queue import missions
from vp_queue.contracts.requests import LARGEST_SEQ, GetMission
from vp_queue.contracts.views import EventView
from vp_queue.errors import LimitExceeded, ValidationError, VpError
from vp_queue.mcp.access import Receive, Scope, Send
from vp_queue.mcp.calls import Calls, Thread
from vp_queue.web import answers
from vp_queue.web.operations import Stream

logger = logging.getLogger("vp_queue.web")

STREAMS: Final = 256
RING_EVENTS: Final = 4_096
RING_BYTES: Final = 16 * 1024 * 1024
PAGE: Final = 200
HEARTBEAT_SECONDS: Final = 15.0
SEND_SECONDS: Final = 60.0  # then a client that takes nothing is given up; it may come back and go on
RETRY_SECONDS: Final = 2.0
COME_BACK_MS: Final = 2_000
EVENT_STREAM: Final = "text/event-stream"
_SEQ: Final = re.compile(r"[0-9]{1,19}")


def wants_stream(request: Request) -> bool:
    """Whether events are to be sent as they happen."""
    return EVENT_STREAM in request.headers.get("accept", "").lower()


async def gone(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_there(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Do something, for as long as the client is there to have it."""
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            await gone(receive)
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        await work()
        tasks.cancel_scope.cancel()


class Ring:
    """The newest events, as they are sent: all of those after ``base`` up to ``last``."""

    def __init__(self, seq: int) -> None:
        self.base = self.last = seq
        self._seqs: list[int] = []
        self._events: list[tuple[EventView, bytes]] = []
        self._bytes = 0

    def add(self, events: list[EventView]) -> None:
        """Take on what follows ``last``; the oldest go where there is too much."""
        for event in events:
            sent = encoded(event)
            self._seqs.append(event.seq)
            self._events.append((event, sent))
            self._bytes += len(sent)
            self.last = event.seq
        # A quarter at a time: a list gives up its beginning as slowly as it is long.
        while len(self._seqs) > RING_EVENTS or self._bytes > RING_BYTES:
            count = max(1, len(self._seqs) // 4)
            self.base = self._seqs[count - 1]
            self._bytes -= sum(len(sent) for _, sent in self._events[:count])
            del self._seqs[:count], self._events[:count]

    def after(self, seq: int, wanted: Callable[[EventView], bool]) -> tuple[bytes, int]:
        """A page of what came after a seq not below ``base``: those that are wanted, and where it ends."""
        begin = bisect.bisect_right(self._seqs, seq)
        page = self._events[begin : begin + PAGE]
        return b"".join(sent for event, sent in page if wanted(event)), page[-1][0].seq if page else seq


class Feed:
    """The streams of one server."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._ring: Ring | None = None
        self._changed = anyio.Event()
        self._wanted = anyio.Event()
        self._thread = Thread()
        self._streams = 0
        self._closing = False

    async def follow(self) -> None:
        """Follow the ledger, from the first stream on until cancelled."""
        limiter = anyio.CapacityLimiter(1)
        await self._wanted.wait()
        while not self._closing:
            try:
                if self._ring is None:
                    self._ring = Ring(await self._calls.read(missions.newest_seq))
                after = functools.partial(
                    missions.events_after, self._ring.last, PAGE, wait_seconds=missions.WAIT_SLICE_SECONDS
                )
                self._ring.add(await self._thread.run(after, limiter, once=False))
            except Exception as error:  # it would take the whole server with it
                logger.warning("the events cannot be followed: %s", error, exc_info=not isinstance(error, VpError))
                self._ring = None  # streams read the ledger themselves meanwhile, from where they are
                await anyio.sleep(RETRY_SECONDS)
            self._changed.set()
            self._changed = anyio.Event()

    def close(self) -> None:
        """End every stream in good order: the server is about to end."""
        self._closing = True
        self._thread.end()
        self._changed.set()

    async def response(self, request: Request, asked: Stream) -> Response:
        """A stream for a request.

        Raises:
            ValidationError, MissionNotFound: it asks for what there is not.
            LimitExceeded: there are as many as there may be.
        """
        cursor = asked.after
        told = request.headers.get("last-event-id")
        if told is not None:
            if not _SEQ.fullmatch(told) or int(told) > LARGEST_SEQ:
                raise ValidationError(
                    "Last-Event-ID: must be the id of an event, which is its seq", field="Last-Event-ID"
                )
            cursor = int(told)
        if asked.mission_id is not None:
            wanted = GetMission(mission_id=asked.mission_id, events_limit=0)
            await self._calls.read(lambda: missions.get(wanted))
        newest = await self._calls.read(missions.newest_seq)
        # A ledger that was restored knows less than its clients saw: they hear of all that happens from now on.
        cursor = newest if cursor is None else min(cursor, newest)
        if self._streams >= STREAMS or self._closing:
            error = LimitExceeded("As many streams as this server has are open; try again.", retry_after_seconds=5.0)
            return answers.failure(error.as_dict(), 503)
        self._wanted.set()
        self._streams += 1
        return _Streaming(functools.partial(self._send, asked, cursor, request.state.holds), self._ended)

    def _ended(self) -> None:
        self._streams -= 1

    async def _send(self, asked: Stream, cursor: int, holds: Callable[[], bool], send: Send) -> None:
        """Send events until the server ends, or the client's session does.

        Raises:
            TimeoutError: the client takes nothing.
        """
        await _sent(send, f"retry: {COME_BACK_MS}\n\n".encode())
        while not self._closing and holds():
            changed = self._changed
            content, reached = await self._after(asked, cursor)
            if content:
                await _sent(send, content)
            elif reached == cursor:
                with anyio.move_on_after(HEARTBEAT_SECONDS) as scope:
                    await changed.wait()
                if scope.cancelled_caught:
                    await _sent(send, b": nothing new\n\n")
            cursor = reached

    async def _after(self, asked: Stream, cursor: int) -> tuple[bytes, int]:
        """A page of what is wanted after a seq, and up to where it speaks."""
        ring = self._ring
        # Events do not name their session.
        if ring is not None and cursor >= ring.base and asked.source_session_id is None:
            return ring.after(cursor, functools.partial(_is_wanted, asked))
        # Taken before the ledger is read: what is read reaches at least as far.
        known = ring.last if ring is not None else cursor
        events = await self._calls.read(
            lambda: missions.events_after(
                cursor,
                PAGE,
                mission_id=asked.mission_id,
                source_session_id=asked.source_session_id,
                types=asked.types,
            )
        )
        content = b"".join(map(encoded, events))
        return content, events[-1].seq if len(events) == PAGE else max(known, cursor, events[-1].seq if events else 0)


def encoded(event: EventView) -> bytes:
    """An event as it is sent."""
    data = json.dumps(event.dump(), ensure_ascii=False, separators=(",", ":"))
    return f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n".encode("utf-8", "replace")


def _is_wanted(asked: Stream, event: EventView) -> bool:
    return (asked.mission_id is None or event.mission_id == asked.mission_id) and (
        asked.types is None or event.type in asked.types
    )


async def _sent(send: Send, content: bytes) -> None:
    with anyio.fail_after(SEND_SECONDS):
        await send({"type": "http.response.body", "body": content, "more_body": True})


class _Streaming(Response):
    """Sends as long as there is something to send and somebody to take it."""

    def __init__(self, sending: Callable[[Send], Awaitable[None]], ended: Callable[[], None]) -> None:
        super().__init__(headers={"content-type": f"{EVENT_STREAM}; charset=utf-8", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._sending = sending
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await while_there(receive, functools.partial(self._whole, send))
        finally:
            self._ended()

    async def _whole(self, send: Send) -> None:
        try:
            await self._sending(send)
        except (TimeoutError, VpError) as error:
            # Cut off in the middle: the client comes back, and goes on where it was.
            logger.warning("a stream of events was cut off: %s", str(error) or "its client took nothing")
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
