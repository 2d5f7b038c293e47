"""The HTTP API's routes: each is one operation, with its arguments from the request and its answer as JSON."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from vp_queue import missions_logs, tools
from vp_queue.mcp.calls import Calls
from vp_queue.tools import Operation
from vp_queue.web import arguments, files, logs, openapi, operations, streams
from vp_queue.web.answers import Json, answer_of
from vp_queue.web.operations import BASE, Address

Endpoint = Callable[[Request], Awaitable[Response]]


class Api:
    """The routes of one server."""

    def __init__(self, calls: Calls, feed: streams.Feed) -> None:
        self._calls = calls
        self._feed = feed
        self._files = files.Files()

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        plain = [Route(BASE + each.path, self._endpoint(each), methods=[each.method]) for each in operations.ADDRESSES]
        return [
            *plain,
            Route(BASE + operations.FEED_PATH, self._events),
            Route(BASE + operations.LOG_PATH, self._log),
            Route(BASE + operations.ARTIFACT_PATH, self._artifact),
            Route(BASE + operations.OPENAPI_PATH, self._openapi),
        ]

    def _endpoint(self, address: Address) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            operation = address.operation
            if address.method == "GET":
                given = arguments.of_query(request, operation)
            else:
                given = await arguments.of_body(request)
            answer = await self._answer(operation, given, request)
            return answer_of(answer, 201 if address.creates and answer.get("created") else 200)

        return endpoint

    async def _answer(self, operation: Operation, given: dict[str, Any], request: Request) -> dict[str, Any]:
        if operation.name in tools.DEFINITIONS:
            return await self._calls.answer(
                operation.name, given, _untold, functools.partial(streams.gone, request.receive)
            )
        pool = self._calls.read if operation.hints.read_only else self._calls.write
        answer: dict[str, Any] = await pool(functools.partial(operation.answer_to, (), given))
        return answer

    async def _events(self, request: Request) -> Response:
        if request.method == "HEAD" or not streams.wants_stream(request):
            return answer_of(await self._answer(operations.FEED, arguments.of_query(request, operations.FEED), request))
        return await self._feed.response(
            request, operations.STREAM.parse(arguments.of_query(request, operations.STREAM))
        )

    async def _log(self, request: Request) -> Response:
        asked: operations.Log = operations.LOG.parse(arguments.of_query(request, operations.LOG))
        piece = await self._calls.read(lambda: missions_logs.read(asked.mission_id, asked.attempt, asked.offset))
        text, cut = await self._calls.read(functools.partial(logs.shown, piece))
        headers = {"x-next-offset": str(piece.next_offset - cut), "x-log-over": "true" if piece.over else "false"}
        if piece.attempt is not None:
            headers["x-attempt"] = str(piece.attempt)
        return Response(text, headers={"content-type": "text/plain; charset=utf-8", **headers})

    async def _artifact(self, request: Request) -> Response:
        asked: operations.OneArtifact = operations.ARTIFACT.parse(arguments.of_query(request, operations.ARTIFACT))
        return await self._files.response(request, asked.mission_id, asked.path)

    async def _openapi(self, _: Request) -> Response:
        return Json(await self._calls.read(openapi.document))


async def _untold(_: float, __: float | None, ___: str) -> None:
    """A plain request hears nothing before its answer."""
