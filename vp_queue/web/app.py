"""The web face as one ASGI application: the HTTP API, the MCP server, the dashboard's pages.

``access.Gate`` stands in front of everything and decides who may pass; what comes behind it decides nothing of that
kind. Nothing here blocks the event loop: ledger and files are read in threads, in pools of bounded size, and what
waits holds no place in them that others need.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from vp_queue.errors import VpError
from vp_queue.mcp import http as mcp_http
from vp_queue.mcp.access import LOOPBACK, App, Scope
from vp_queue.mcp.calls import Calls
from vp_queue.mcp.connections import BACKLOG, Connection
from vp_queue.web import answers, api, dashboard, health, login, pages, streams
from vp_queue.web.access import Gate
from vp_queue.web.sessions import Sessions

FOR_GOOD: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Face:
    """The web face, ready to be served.

    Attributes:
        app: the whole application, its gate in front.
        routes: what stands behind the gate.
        close: has everything that waits answer, and every stream end; for a server that is about to.
    """

    app: App
    routes: list[BaseRoute]
    close: Callable[[], None]


def face(*, token: str, hosts: Collection[str] = LOOPBACK, read_only: bool = False) -> Face:
    """The web face.

    Args:
        token: the bearer token, which also logs browsers in.
        hosts: the names and addresses, without port, by which it may be asked.
        read_only: refuse every change, and serve no MCP.
    """
    calls, sessions = Calls(), Sessions(token)
    feed = streams.Feed(calls)
    agents = None if read_only else mcp_http.endpoint()
    routes: list[BaseRoute] = [
        *health.routes(calls),
        *login.routes(sessions),
        *api.Api(calls, feed).routes(),
        *([Route(mcp_http.PATH, endpoint=agents.app)] if agents else []),
        Mount("/static", _Static(directory=pages.STATIC)),
        *dashboard.routes(),
    ]

    @contextlib.asynccontextmanager
    async def running(_: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            if agents:
                await stack.enter_async_context(agents.running())
            tasks = await stack.enter_async_context(anyio.create_task_group())
            tasks.start_soon(feed.follow)
            yield
            tasks.cancel_scope.cancel()

    def close() -> None:
        feed.close()
        calls.end_waits()
        if agents:
            agents.close()

    handlers: dict[Any, Any] = {
        VpError: answers.on_vp_error,
        HTTPException: answers.on_http_error,
        Exception: answers.on_trouble,
    }
    inner = Starlette(routes=routes, lifespan=running, exception_handlers=handlers)
    return Face(Gate(inner, token=token, sessions=sessions, hosts=hosts, read_only=read_only), routes, close)


class _Static(StaticFiles):
    """The dashboard's files; an address with a version in it is for good."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file."""
        response = await super().get_response(path, scope)
        versioned = "v" in QueryParams(scope["query_string"])
        response.headers["cache-control"] = FOR_GOOD if versioned and response.status_code == 200 else "no-cache"
        return response


def serve(opened: socket.socket, *, token: str, hosts: Collection[str] = LOOPBACK, read_only: bool = False) -> None:
    """Serve on a socket until SIGTERM or SIGINT; the arguments are those of :func:`face`."""
    served = face(token=token, hosts=hosts, read_only=read_only)
    config = uvicorn.Config(
        served.app,
        log_level="warning",
        access_log=False,
        server_header=False,
        http=Connection,
        backlog=BACKLOG,
        timeout_graceful_shutdown=mcp_http.CLOSING_SECONDS,
    )
    mcp_http.Listener(config, served.close).run(sockets=[opened])
