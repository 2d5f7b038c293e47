"""The server over Streamable HTTP: on a port of its own, or mounted in another application."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

import uvicorn
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.routing import Route

from vp_queue.mcp import server as servers
from vp_queue.mcp.access import LOOPBACK, App, Guard
from vp_queue.mcp.connections import BACKLOG, Connection

PATH: Final = "/mcp"
BODY_BYTES: Final = 2 * 1024 * 1024
SESSIONS: Final = 1_000
CLOSING_SECONDS: Final = 3


@dataclass(frozen=True)
class Endpoint:
    """The server as a part of an ASGI application.

    Attributes:
        app: answers the requests of one path. It judges neither Host nor token: put a :class:`Guard` in front.
        running: must be entered while requests are served, as in the application's lifespan.
        close: has everything that waits answer now; for an application that is about to end.
    """

    app: App
    running: Callable[[], AbstractAsyncContextManager[None]]
    close: Callable[[], None]


def endpoint() -> Endpoint:
    """A server to be mounted at a path of an application."""
    face = servers.Face()
    sessions = StreamableHTTPSessionManager(face.server, max_request_body_size=BODY_BYTES, max_sessions=SESSIONS)
    return Endpoint(sessions.asgi_app, sessions.run, face.close)


class Listener(uvicorn.Server):
    """Serves until SIGTERM or SIGINT, and then ends in order with exit code 0."""

    def __init__(self, config: uvicorn.Config, close: Callable[[], None]) -> None:
        super().__init__(config)
        self._close = close

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what waits, then close the connections."""
        self._close()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Like uvicorn's, but for raising the signal once more when all is done: that it ended in order is no fault."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def asgi_app(*, token: str | None, hosts: Collection[str] = LOOPBACK) -> tuple[App, Callable[[], None]]:
    """A whole application with its guard, which serves at ``PATH``; and what to call before it ends.

    Args:
        token: the bearer token that each request must carry; None lets anybody in.
        hosts: the names and addresses by which it may be asked.
    """
    part = endpoint()
    app = Starlette(routes=[Route(PATH, endpoint=part.app)], lifespan=lambda _: part.running())
    return Guard(app, token=token, hosts=hosts), part.close


def serve(opened: socket.socket, *, token: str | None, hosts: Collection[str] = LOOPBACK) -> None:
    """Serve on a socket until SIGTERM or SIGINT; the arguments are those of :func:`asgi_app`."""
    app, close = asgi_app(token=token, hosts=hosts)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        http=Connection,
        backlog=BACKLOG,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    Listener(config, close).run(sockets=[opened])
