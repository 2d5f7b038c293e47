"""Whether the installation works, for whoever watches over processes: ``/healthz``, ``/readyz``, ``/metrics``."""

from __future__ import annotations

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from vp_queue import clock, metrics, missions_health
from vp_queue.mcp.calls import Calls
from vp_queue.web.answers import Json

LOOK_SECONDS = 1.0  # a look takes the write lock, so nobody may have it taken more often


def routes(calls: Calls) -> list[BaseRoute]:
    """All three."""
    looking = anyio.Lock()
    seen: tuple[float, missions_health.Readiness] | None = None

    async def healthz(_: Request) -> Response:
        return Json({"ok": True})

    async def readyz(_: Request) -> Response:
        nonlocal seen
        async with looking:
            if seen is None or clock.monotonic() - seen[0] > LOOK_SECONDS:
                found = await calls.write(missions_health.readiness)
                seen = clock.monotonic(), found
            found = seen[1]
        return Json({"ok": found.ok, "checks": found.checks}, 200 if found.ok else 503)

    async def exposed(request: Request) -> Response:
        accept = request.headers.get("accept", "")
        content, media_type = await calls.read(lambda: metrics.exposition(accept))
        return Response(content, headers={"content-type": media_type})

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", exposed)]
