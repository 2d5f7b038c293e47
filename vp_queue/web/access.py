"""Who may ask for what: the guard in front of every route.

In this order: the Host is one of ours and no page of another site asks; the request carries the bearer token or a
session's cookie, except where anybody may ask; a change that is authenticated by cookie carries the session's CSRF
token; a server that only shows changes nothing; a body is of bounded size and comes in bounded time. Then the
application is asked, and every answer, a refusal too, gets the headers that tell a browser how little it may do.

A body is read whole before the application sees it. So a limit is judged before anything is done, whether or not the
sender said how long it is, and the CSRF token of a plain form is found without JavaScript.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qs, quote

import anyio
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from vp_queue import origin
from vp_queue.errors import LimitExceeded, Unauthorized, ValidationError
from vp_queue.mcp import access
from vp_queue.mcp.access import App, Message, Receive, Scope, Send
from vp_queue.web import answers
from vp_queue.web.sessions import COOKIE, Session, Sessions, is_csrf_token

BODY_BYTES: Final = 2 * 1024 * 1024
LOGIN_BODY_BYTES: Final = 8 * 1024
DISCARDED_BYTES: Final = 16 * 1024 * 1024
BODY_SECONDS: Final = 30.0
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
FORM: Final = "application/x-www-form-urlencoded"
LOGIN: Final = "/login"
# Who has no token may learn that it runs, and log in.
OPEN: Final = frozenset({"/healthz", "/readyz", LOGIN})
OPEN_BELOW: Final = ("/static/",)
BEARER_ONLY: Final = ("/mcp",)  # agents ask there, and no page does
NOT_CHANGES: Final = frozenset({LOGIN, "/logout"})

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS: Final[dict[str, str]] = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    # Not no-referrer, with which a browser would send "Origin: null" with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Gate:
    """An ASGI application in front of the web face's, which lets through only what may pass.

    What it found out stands in ``request.state``: ``csrf_token`` and ``session`` (None without a session),
    ``read_only``, and ``holds``, which says later whether the request may still be answered.
    """

    def __init__(self, app: App, *, token: str, sessions: Sessions, hosts: Collection[str], read_only: bool) -> None:
        """
        Args:
            app: what is guarded.
            token: the bearer token.
            sessions: of that token.
            hosts: the names and addresses, without port, by which this server may be asked.
            read_only: refuse every change.
        """
        self._app = app
        self._token = token
        self._sessions = sessions
        self._hosts = access.hosts_of(hosts)
        self._read_only = read_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # nothing here speaks it
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sending = _with_headers(send)
        with access.noting_departure(scope, receive) as noting:
            request = Request(scope, noting)
            request.state.read_only, request.state.csrf_token, request.state.session = self._read_only, None, None
            request.state.holds = lambda: True
            refused = self._refused(request)
            body: bytes | None = b""
            if refused is None and scope["method"] not in SAFE_METHODS:
                limit = LOGIN_BODY_BYTES if scope["path"] in OPEN else BODY_BYTES
                body, refused = await _body(request, noting, limit)
                if body is None:  # its sender has gone
                    return
                refused = refused or self._forged(request, body)
            if refused is not None:
                await refused(scope, noting, sending)
                return
            with origin.acting(_face(request)):
                await self._app(scope, _replayed(body or b"", noting), sending)

    def _refused(self, request: Request) -> Response | None:
        """The answer that turns a request away by its headers; None: it may pass."""
        headers, path = access.headers_of(request.scope), request.scope["path"]
        change = request.method not in SAFE_METHODS
        foreign = access.why_foreign(headers, self._hosts)
        if foreign is None and change and headers.get(b"sec-fetch-site", b"none") not in (b"same-origin", b"none"):
            foreign = "Requests from pages of other sites are not answered."
        if foreign is not None:
            return answers.failure(Unauthorized(foreign).as_dict(), 403)
        unknown = self._unknown(request, headers)
        if unknown is not None:
            return unknown
        if change and self._read_only and path not in NOT_CHANGES:
            error = Unauthorized(
                "This server only shows (vp serve --read-only); changes go elsewhere, such as by `vp`."
            )
            return answers.told(request, error, 403)
        return None

    def _unknown(self, request: Request, headers: dict[bytes, bytes]) -> Response | None:
        """The answer to somebody who does not show the token or a session; None: who asks may."""
        path = request.scope["path"]
        if b"authorization" not in headers and not path.startswith(BEARER_ONLY):
            session = self._sessions.find(request.cookies.get(COOKIE, ""))
            if session is not None:
                request.state.session, request.state.csrf_token = session, session.csrf_token
                request.state.holds = lambda: self._sessions.holds(session)
                return None
        elif access.bears(headers, self._token):
            return None
        if path in OPEN or path.startswith(OPEN_BELOW):
            return None
        # Only what a person looks at leads to the login: a script would take that page for its answer.
        if request.method == "GET" and answers.wants_page(request) and "hx-request" not in request.headers:
            asked = path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"{LOGIN}?next={quote(asked, safe='/')}", 303)
        return answers.failure(Unauthorized(access.NO_TOKEN).as_dict())

    def _forged(self, request: Request, body: bytes) -> Response | None:
        """The answer to a change that does not come from a page of its session; None: it does, or has no session."""
        session: Session | None = request.state.session
        if session is None or request.scope["path"] == LOGIN:
            return None
        given = request.headers.get("x-csrf-token")
        if given is None and request.headers.get("content-type", "").partition(";")[0].strip().lower() == FORM:
            given = csrf_field(body)
        if given is not None and is_csrf_token(session, given):
            return None
        error = Unauthorized("This change carries no valid CSRF token (X-CSRF-Token or csrf_token); reload the page.")
        return answers.told(request, error, 403)


def csrf_field(body: bytes) -> str | None:
    """The CSRF token in a form that a browser posts."""
    try:
        found = parse_qs(body.decode("ascii"), max_num_fields=1_000).get("csrf_token", [])
    except ValueError:
        return None
    return found[0] if len(found) == 1 else None


def _face(request: Request) -> str:
    path = request.scope["path"]
    return "http" if path.startswith("/api/") else "mcp" if path.startswith(BEARER_ONLY) else "dashboard"


async def _body(request: Request, receive: Receive, limit: int) -> tuple[bytes | None, Response | None]:
    """A request's body, or the answer to one that is too long or too slow; neither: its sender has gone."""
    too_long = LimitExceeded(f"A request's body may have {limit:,} bytes.", limit_bytes=limit)
    refuse = functools.partial(answers.told, request, too_long, 413, {"connection": "close"})
    length = request.headers.get("content-length", "0")
    told = int(length) if length.isdigit() and len(length) < 20 else 0
    if told > DISCARDED_BYTES or (told > limit and "expect" in request.headers):  # which waits to be told to send it
        return b"", refuse()
    body, size = bytearray(), 0
    try:
        with anyio.fail_after(BODY_SECONDS):
            # What is too long is read on for a while: a client that is cut off while it sends sees no answer.
            while size <= DISCARDED_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None, None
                piece = message.get("body", b"")
                size += len(piece)
                body += piece if size <= limit else b""
                if not message.get("more_body"):
                    break
    except TimeoutError:
        error = ValidationError(f"The request's body did not come within {BODY_SECONDS:.0f} seconds; send it again.")
        return b"", answers.told(request, error, 408, {"connection": "close"})
    return (bytes(body), None) if size <= limit else (b"", refuse())


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, once; then what comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replaying() -> Message:
        return waiting.pop() if waiting else await receive()

    return replaying


def _with_headers(send: Send) -> Send:
    """Adds the headers that every answer has, where it has none of its own."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message.get("headers", [])}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await send(message)

    return sending
