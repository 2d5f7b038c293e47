"""All of a mission's artifacts as one ZIP file, made while it is sent.

Each file is compared with its recorded hash before its first byte goes in, and again while it is read. What no longer
matches is left out, and ``MANIFEST.txt`` says so. Nothing is compressed: a download costs the server little, and at
most what a mission may publish (``limits.ARTIFACT_TOTAL_BYTES``).
"""

from __future__ import annotations

import contextlib
import functools
import io
import zipfile
from collections.abc import Generator, Iterator
from datetime import datetime
from typing import Any, Final

import anyio
from starlette.requests import Request
from starlette.responses import Response

from vp_queue import missions, missions_artifacts
from vp_queue.contracts.requests import GetMission
from vp_queue.contracts.views import MissionView
from vp_queue.errors import ArtifactNotFound, LimitExceeded
from vp_queue.mcp.access import Receive, Scope, Send
from vp_queue.web import answers, files
from vp_queue.web.streams import while_there

AT_ONCE: Final = 4
MANIFEST: Final = "MANIFEST.txt"
EARLIEST_YEAR: Final = 1980  # that the format can tell


class Archives:
    """The ZIP downloads of one server."""

    def __init__(self) -> None:
        self._open = 0
        self._reading = anyio.CapacityLimiter(AT_ONCE)

    async def response(self, request: Request) -> Response:
        """A mission's artifacts.

        Raises:
            MissionNotFound, ArtifactNotFound: there is none.
        """
        mission_id = request.path_params["mission_id"]
        look = functools.partial(_looked_up, mission_id)
        mission, paths = await anyio.to_thread.run_sync(look, limiter=self._reading)
        if self._open >= AT_ONCE:
            error = LimitExceeded("As many downloads as this server has are open; try again.", retry_after_seconds=5.0)
            return answers.told(request, error, 503)
        return _Archive(request, mission, paths, self)

    @contextlib.contextmanager
    def counted(self) -> Iterator[anyio.CapacityLimiter]:
        """One more is open, for the block."""
        self._open += 1
        try:
            yield self._reading
        finally:
            self._open -= 1


def _looked_up(mission_id: str) -> tuple[MissionView, list[str]]:
    mission = missions.get(GetMission(mission_id=mission_id, events_limit=0)).mission
    paths = missions_artifacts.artifact_paths(mission_id)
    if not paths:
        raise ArtifactNotFound(f"Mission {mission_id} has no artifacts.", mission_id=mission_id)
    return mission, paths


class _Archive(Response):
    def __init__(self, request: Request, mission: MissionView, paths: list[str], archives: Archives) -> None:
        headers = {
            "content-disposition": files.disposition(f"{mission.mission_id}.zip"),
            "content-security-policy": files.CSP,
            "content-type": "application/zip",
        }
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._mission, self._paths, self._archives = mission, paths, archives
        self._bodiless = request.method == "HEAD"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._archives.counted() as limiter:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if self._bodiless:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            with contextlib.closing(pieces(self._mission, self._paths)) as made:
                await while_there(receive, functools.partial(files.send_all, send, made, limiter))


def pieces(mission: MissionView, paths: list[str]) -> Generator[bytes, None, None]:
    """A ZIP file, piece by piece.

    Args:
        mission: which has ended.
        paths: of its artifacts.

    Raises:
        ArtifactNotFound: a file was changed while it was read. What was made is no whole ZIP file.
    """
    out = _Pipe()
    at = mission.finished_at or mission.created_at
    told = [f"Artifacts of mission {mission.mission_id} ({mission.vp_id})", ""]
    with zipfile.ZipFile(out, "w") as archive:
        for path in paths:
            with contextlib.ExitStack() as stack:
                try:
                    file = stack.enter_context(missions_artifacts.open_artifact(mission.mission_id, path))
                except ArtifactNotFound as error:
                    told.append(f"LEFT OUT  {path}: {error.message}")
                    continue
                entry = stack.enter_context(archive.open(_entry(f"{mission.mission_id}/work_products/{path}", at), "w"))
                for piece in file.pieces():
                    entry.write(piece)
                    yield out.taken()
            told.append(f"{file.sha256}  {path}")
        archive.writestr(_entry(f"{mission.mission_id}/{MANIFEST}", at), "\n".join([*told, ""]))
    yield out.taken()


def _entry(name: str, at: datetime) -> zipfile.ZipInfo:
    stamp = (max(at.year, EARLIEST_YEAR), at.month, at.day, at.hour, at.minute, at.second)
    entry = zipfile.ZipInfo(name, stamp)
    entry.external_attr = 0o600 << 16
    return entry


class _Pipe(io.RawIOBase):
    """Where a ZIP file is written to, front to back, and taken from as it grows."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Take these bytes."""
        self._waiting += data
        return len(data)

    def taken(self) -> bytes:
        """What was written since the last time."""
        found, self._waiting = bytes(self._waiting), bytearray()
        return found
