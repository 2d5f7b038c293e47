"""Tells subscribed hosts that a resource has changed, whoever changed it.

One thread follows the event table, from before the first subscription is acknowledged until the last has ended. Each
event becomes "this resource changed" on the SDK's bus, for the addresses that somebody watches; hosts of both eras
hang on it: ``subscriptions/listen`` (2026-07-28), and ``resources/subscribe`` of the handshake era.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import anyio
import anyio.abc
import anyio.to_thread
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourcesListChanged, ServerEvent
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourceUpdated

from vp_queue import missions
from vp_queue.contracts import TERMINAL_EVENTS, EventType, limits
from vp_queue.contracts.views import EventView
from vp_queue.errors import VpError
from vp_queue.mcp import resources
from vp_queue.mcp.calls import Thread
from vp_queue.missions import KeepWaiting

logger = logging.getLogger("vp_queue.mcp")

SUBSCRIPTIONS: Final = 256  # streams, and as many connections of the handshake era
ADDRESSES: Final = 256  # of one subscription
ADDRESS_CHARS: Final = 4 * limits.PATH_CHARS  # escaped
PAGE: Final = 200
RETRY_SECONDS: Final = 2.0

Context = ServerRequestContext[Any]


class Feed:
    """What one server's clients watch."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        """
        Args:
            tasks: where it runs what it starts; ends with the server.
        """
        self._tasks = tasks
        self._bus = InMemorySubscriptionBus()
        self._streams = ListenHandler(self._bus, max_subscriptions=SUBSCRIPTIONS)
        self._watched: Counter[str] = Counter()
        self._watchers = 0
        self._connections = 0  # of the handshake era, that have subscribed
        self._starting = anyio.Lock()
        self._following: Thread | None = None
        self._thread = anyio.CapacityLimiter(2)  # one, and its successor while it ends

    def close(self) -> None:
        """End every stream in good order."""
        self._streams.close()

    async def listen(
        self, ctx: Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """Serve one ``subscriptions/listen`` stream."""
        async with self._watching(params.notifications.resource_subscriptions or []):
            return await self._streams(ctx, params)

    async def subscribe(self, ctx: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
        """``resources/subscribe``: tell this connection of changes until it unsubscribes or ends."""
        await self._subscriber(ctx).add(str(params.uri))
        return types.EmptyResult()

    async def unsubscribe(self, ctx: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        """``resources/unsubscribe``."""
        await self._subscriber(ctx).remove(str(params.uri))
        return types.EmptyResult()

    def _subscriber(self, ctx: Context) -> _Subscriber:
        # The SDK has no public way yet from a request to what lasts as long as its connection.
        connection = ctx.session._connection
        subscriber: _Subscriber | None = connection.state.get("vp_queue.subscriber")
        if subscriber is None:
            if self._connections >= SUBSCRIPTIONS:
                raise MCPError(types.INTERNAL_ERROR, "Subscription limit reached")
            subscriber = connection.state["vp_queue.subscriber"] = _Subscriber(self, ctx)
            connection.exit_stack.push_async_callback(subscriber.close)
        return subscriber

    @contextlib.asynccontextmanager
    async def _watching(self, addresses: Sequence[str]) -> AsyncIterator[None]:
        if len(addresses) > ADDRESSES:
            raise MCPError(types.INVALID_PARAMS, f"At most {ADDRESSES} resources per subscription.")
        if any(len(address) > ADDRESS_CHARS for address in addresses):
            raise MCPError(types.INVALID_PARAMS, f"At most {ADDRESS_CHARS} characters per resource.")
        async with self._starting:
            await self._follow()
            self._watchers += 1
        self._watched.update(addresses)
        try:
            yield
        finally:
            self._watched -= Counter(addresses)
            self._watchers -= 1
            if self._watchers == 0 and self._following is not None:
                self._following.end()
                self._following = None

    async def _follow(self) -> None:
        """Have the thread run; what is written from now on is told."""
        if self._following is not None:
            return
        try:
            seq = await anyio.to_thread.run_sync(missions.newest_seq)
        except VpError as error:
            raise MCPError(types.INTERNAL_ERROR, error.message, {"error": error.as_dict()}) from None
        self._following = Thread()
        self._tasks.start_soon(self._tell, self._following, seq)

    async def _tell(self, thread: Thread, seq: int | None) -> None:
        while not thread.over:
            try:
                seq, events = await thread.run(functools.partial(_news_after, seq), self._thread, once=False)
            except Exception as error:  # it would take the whole server with it
                logger.warning("the events cannot be followed: %s", error, exc_info=not isinstance(error, VpError))
                seq = None
                await anyio.sleep(RETRY_SECONDS)
                continue
            for event in self._changes(events):
                await self._bus.publish(event)

    def _changes(self, events: Sequence[EventView] | None) -> list[ServerEvent]:
        """What changed by these events, each once, of what somebody watches; None: all may have."""
        if events is None:
            return [*map(ResourceUpdated, self._watched), ResourcesListChanged()]
        if not events:
            return []
        touched = {resources.mission_uri(event.mission_id) for event in events if event.mission_id}
        made = tuple(
            f"{resources.mission_uri(event.mission_id)}{resources.ARTIFACTS}"
            for event in events
            if event.mission_id and event.type in TERMINAL_EVENTS
        )
        changes: list[ServerEvent] = [
            ResourceUpdated(uri)
            for uri in self._watched
            if uri.rstrip("/") in touched or uri.startswith((resources.EVENTS, *made))
        ]
        if any(event.type == EventType.DISPATCHED for event in events):
            changes.append(ResourcesListChanged())
        return changes


def _news_after(seq: int | None, *, keep_waiting: KeepWaiting) -> tuple[int, list[EventView] | None]:
    """Where the feed has got to, and the events on the way there; None: what was missed cannot be told.

    That is so after trouble (no ``seq``), and where a backup was restored, in which the numbers go on from a lower one.
    It is looked for between two waits, so each is short.
    """
    newest = missions.newest_seq()
    if seq is None or newest < seq:
        return newest, None
    events = missions.events_after(seq, PAGE, wait_seconds=missions.WAIT_SLICE_SECONDS, keep_waiting=keep_waiting)
    return events[-1].seq if events else seq, events


class _Subscriber:
    """One connection of the handshake era, and what it has subscribed to."""

    def __init__(self, feed: Feed, ctx: Context) -> None:
        self._feed = feed
        self._session = ctx.session
        self._stacks: dict[str, contextlib.AsyncExitStack] = {}
        self._changed: set[str] = set()
        self._news = anyio.Event()
        self._telling: anyio.CancelScope | None = None
        self._changing = anyio.Lock()  # a host may subscribe and unsubscribe without waiting for the answers
        feed._connections += 1
        self._unsubscribe = feed._bus.subscribe(self._note)

    async def add(self, uri: str) -> None:
        async with self._changing:
            if uri in self._stacks:
                return
            if len(self._stacks) >= ADDRESSES:
                raise MCPError(types.INVALID_PARAMS, f"At most {ADDRESSES} resources per connection.")
            if self._telling is None:
                self._telling = anyio.CancelScope()
                self._feed._tasks.start_soon(self._tell, self._telling)
            stack = contextlib.AsyncExitStack()
            await stack.enter_async_context(self._feed._watching([uri]))
            self._stacks[uri] = stack

    async def remove(self, uri: str) -> None:
        async with self._changing:
            stack = self._stacks.pop(uri, None)
            if stack is not None:
                await stack.aclose()

    async def close(self) -> None:
        self._feed._connections -= 1
        self._unsubscribe()
        if self._telling is not None:
            self._telling.cancel()
        for uri in list(self._stacks):
            await self.remove(uri)

    def _note(self, event: ServerEvent) -> None:
        if isinstance(event, ResourceUpdated) and event.uri in self._stacks:
            self._changed.add(event.uri)
            self._news.set()

    async def _tell(self, scope: anyio.CancelScope) -> None:
        with scope:
            while True:
                await self._news.wait()
                self._news = anyio.Event()
                changed, self._changed = self._changed, set()
                for uri in changed:
                    await self._session.send_resource_updated(uri)
