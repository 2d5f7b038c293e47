"""Artifacts as raw bytes. They come from programs, so they are handed out as what nobody runs or shows by mistake.

A file is compared with its recorded hash before its first byte is sent, and again while it is read: the last piece
leaves only once the whole was what was published, so what was changed meanwhile never arrives whole.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple
from urllib.parse import quote

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from vp_queue import missions_artifacts, wording
from vp_queue.errors import ArtifactNotFound, LimitExceeded, ValidationError
from vp_queue.mcp.access import Receive, Scope, Send
from vp_queue.web import answers
from vp_queue.web.streams import SEND_SECONDS, while_there
from vp_queue.worker.published import PublishedFile

logger = logging.getLogger("vp_queue.web")

AT_ONCE: Final = 32
READ_AT_ONCE: Final = 4
NAME_CHARS: Final = 200
# What a browser may show without running it; all else is bytes.
SHOWABLE: Final = {
    "application/json": "application/json",
    "image/gif": "image/gif",
    "image/jpeg": "image/jpeg",
    "image/png": "image/png",
    "image/webp": "image/webp",
    "text/csv": "text/csv; charset=utf-8",
    "text/markdown": "text/markdown; charset=utf-8",
    "text/plain": "text/plain; charset=utf-8",
}
CSP: Final = "sandbox; default-src 'none'"
_RANGE: Final = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))")


class Span(NamedTuple):
    """From the first byte to the last, both included."""

    first: int
    last: int


def _harmless_type(file: PublishedFile) -> str:
    return SHOWABLE.get(file.media_type.partition(";")[0], "application/octet-stream")


class Files:
    """The downloads of one server."""

    def __init__(self) -> None:
        self._open = 0
        self._reading = anyio.CapacityLimiter(READ_AT_ONCE)

    async def response(
        self, request: Request, mission_id: str, path: str, type_of: Callable[[PublishedFile], str] = _harmless_type
    ) -> Response:
        """An artifact, or the part of it that is asked for.

        Args:
            type_of: gives the media type it is sent as, or raises what it is refused with.

        Raises:
            MissionNotFound, ArtifactNotFound: there is none, or it is not what was published.
        """
        if self._open >= AT_ONCE:
            error = LimitExceeded("As many downloads as this server has are open; try again.", retry_after_seconds=2.0)
            return answers.failure(error.as_dict(), 503)
        self._open += 1
        with contextlib.ExitStack() as stack:
            stack.callback(self._closed)

            def opening() -> tuple[PublishedFile, str]:
                opened = stack.enter_context(missions_artifacts.open_artifact(mission_id, path))
                return opened, type_of(opened)

            # Shielded: cancelled meanwhile, its thread would open what nobody closes.
            with anyio.CancelScope(shield=True):
                file, media_type = await anyio.to_thread.run_sync(opening, limiter=self._reading)
            answer = _without_body(request, file, media_type)
            if answer is not None:
                return answer
            return _Download(request, file, media_type, self._reading, stack.pop_all())

    def _closed(self) -> None:
        self._open -= 1


def _without_body(request: Request, file: PublishedFile, media_type: str) -> Response | None:
    """The answer where no byte of the file is wanted."""
    if _names(request.headers.get("if-none-match", ""), file):
        return Response(status_code=304, headers=_headers(file, media_type))
    if _span(request, file) is None:
        error = ValidationError(f"The artifact has {file.size} bytes, and the range lies beyond.", field="Range")
        return answers.failure(error.as_dict(), 416, {"content-range": f"bytes */{file.size}"})
    return None


def _span(request: Request, file: PublishedFile) -> Span | None:
    """What is asked for: the whole unless a single range is; None: a range that there is not."""
    whole = Span(0, file.size - 1)
    condition = request.headers.get("if-range")
    if "range" not in request.headers or (condition is not None and condition.strip() != _etag(file)):
        return whole
    found = _RANGE.fullmatch(request.headers["range"].replace(" ", ""))
    if found is None:  # several, or none that is known: may be answered with the whole
        return whole
    if found[3] is not None:
        first, last = max(0, file.size - int(found[3])), file.size - 1
        return Span(first, last) if int(found[3]) > 0 and file.size > 0 else None
    first = int(found[1])
    last = min(int(found[2]) if found[2] else file.size, file.size - 1)
    if found[2] and int(found[2]) < first:
        return whole  # no range at all
    return Span(first, last) if first < file.size else None


def _etag(file: PublishedFile) -> str:
    return f'"{file.sha256}"'


def _names(condition: str, file: PublishedFile) -> bool:
    """Whether a condition names this content."""
    return any(each.strip().removeprefix("W/") in (_etag(file), "*") for each in condition.split(","))


def _headers(file: PublishedFile, media_type: str) -> dict[str, str]:
    return {
        "content-type": media_type,
        "content-disposition": disposition(file.path),
        "content-security-policy": CSP,
        "accept-ranges": "bytes",
        "etag": _etag(file),
        "cache-control": "private, no-cache",
    }


def disposition(path: str) -> str:
    """A header that has a file saved, under its own name as far as that is harmless (RFC 6266)."""
    name = wording.line(path.rpartition("/")[2], NAME_CHARS) or "artifact"
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


class _Download(Response):
    """Sends a file, or a part of it."""

    def __init__(
        self,
        request: Request,
        file: PublishedFile,
        media_type: str,
        limiter: anyio.CapacityLimiter,
        stack: contextlib.ExitStack,
    ) -> None:
        span = _span(request, file)
        assert span is not None  # noqa: S101  otherwise answered without a body
        part = span != Span(0, file.size - 1)
        headers = {**_headers(file, media_type), "content-length": str(span.last + 1 - span.first)}
        if part:
            headers["content-range"] = f"bytes {span.first}-{span.last}/{file.size}"
        super().__init__(status_code=206 if part else 200, headers=headers)
        self.raw_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        self._file, self._span, self._limiter, self._stack = file, span, limiter, stack
        self._bodiless = request.method == "HEAD"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stack:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if self._bodiless:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                pieces = _verified(self._file, self._span)
                await while_there(receive, functools.partial(send_all, send, pieces, self._limiter))


async def send_all(send: Send, pieces: Iterator[bytes], limiter: anyio.CapacityLimiter) -> None:
    """Send pieces that are read in a thread; where one fails, the body ends before its end."""
    try:
        while True:
            with anyio.CancelScope(shield=True):  # the file is not closed under the thread that reads it
                piece = await anyio.to_thread.run_sync(next, pieces, None, limiter=limiter)
            if piece is None:
                break
            with anyio.fail_after(SEND_SECONDS):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    except (TimeoutError, ArtifactNotFound) as error:
        # Cut off, which its length or the missing end tells the client.
        logger.warning("a download was cut off: %s", str(error) or "its client took nothing")
    else:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _verified(file: PublishedFile, span: Span) -> Iterator[bytes]:
    """The bytes of a span; the last of them once the whole file has proved to be what was published.

    Raises:
        ArtifactNotFound: it was not.
    """
    at, held = 0, b""
    for piece in file.pieces():
        part = piece[max(0, span.first - at) : max(0, span.last + 1 - at)]
        at += len(piece)
        if part:
            if held:
                yield held
            held = part
    if held:
        yield held
