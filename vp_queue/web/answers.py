"""Answers of the API: the tools' own JSON, with the status and headers that HTTP has for it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from vp_queue import clock, errors
from vp_queue.errors import InternalError, Unauthorized, ValidationError, VpError

logger = logging.getLogger("vp_queue.web")


class Json(Response):
    """JSON as every face writes it."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body; half a character, which UTF-8 has no bytes for, becomes a question mark."""
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def answer_of(answer: Mapping[str, Any], status: int = 200) -> Response:
    """A tool's answer.

    Args:
        status: of a success; a failure has its error's own.
    """
    return Json(answer, status) if answer["ok"] else failure(answer["error"])


def failure(error: Mapping[str, Any], status: int | None = None, headers: Mapping[str, str] | None = None) -> Response:
    """An error object.

    Args:
        status: instead of the error's own.
        headers: besides those that follow from the error.
    """
    code = errors.by_code(error["code"]).http_status if status is None else status
    sent = dict(headers or {})
    if error.get("retry_after_seconds") is not None:
        sent["retry-after"] = str(max(1, math.ceil(error["retry_after_seconds"])))
    elif error["retryable"]:
        sent["retry-after"] = "1"
    if code == Unauthorized.http_status:
        sent["www-authenticate"] = "Bearer"
    return Json({"ok": False, "error": error}, code, headers=sent)


def told(
    request: Request, error: VpError, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """An error as this request's sender reads it: a page for a browser's navigation, else the error object."""
    if wants_page(request):
        from vp_queue.web import pages

        shown = pages.refused(request, error.as_dict(), status or error.http_status)
        shown.headers.update({**failure(error.as_dict(), status, headers).headers, **shown.headers})
        return shown
    return failure(error.as_dict(), status, headers)


def wants_page(request: Request) -> bool:
    """Whether a browser shows the answer to a person."""
    path = request.url.path
    return "text/html" in request.headers.get("accept", "") and not path.startswith(("/api/", "/mcp", "/metrics"))


async def on_vp_error(request: Request, error: Exception) -> Response:
    """For what a use case raised."""
    assert isinstance(error, VpError)  # noqa: S101  for the type checker: registered for this class only
    return told(request, error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """For what the router and Starlette raise: no such address, no such method."""
    assert isinstance(error, HTTPException)  # noqa: S101  as above
    if error.status_code == 404:
        text = "There is nothing at this address; /api/v1/openapi.json lists the API's."
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        text = f"This address does not take {request.method}" + (f"; it takes {allowed}." if allowed else ".")
    else:
        text = error.detail
    return told(request, ValidationError(text), error.status_code, error.headers)


async def on_trouble(request: Request, error: Exception) -> Response:
    """For what nobody foresaw: the server logs it, under the id that the answer names."""
    error_id = clock.new_token()[:12]
    logger.error("%s %r failed, error id %s: %r", request.method, request.url.path, error_id, error)
    text = f"vp-queue failed inside; the log has the details under error id {error_id}."
    return told(request, InternalError(text, error_id=error_id))
