"""Who may speak to the server over HTTP: the right token, and no page of another site.

A browser will send requests to a loopback port for any page it shows, and a name that an attacker rebinds to
127.0.0.1 makes the page look local (DNS rebinding). So the Host must be one of ours, and an Origin, which only
browsers send, must be the very address that was asked. The token protects from everybody else on this machine.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import re
import stat
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, MutableMapping
from typing import Any, Final

import anyio

from vp_queue.config import Settings
from vp_queue.errors import ConfigurationError, Unauthorized
from vp_queue.mcp.server import DISCONNECTED

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
SHORTEST_TOKEN: Final = 16
NO_TOKEN: Final = "A valid bearer token is needed: VP_TOKEN, or what stands in the file `token` of VP_HOME."
_SINGLE: Final = frozenset({b"host", b"origin", b"authorization", b"cookie", b"x-csrf-token", b"sec-fetch-site"})
_HOST: Final = re.compile(r"(?:\[([0-9a-z:.%]+)\]|([^\[\]:@/\s]+))(?::[0-9]*)?")


def token_of(settings: Settings) -> str:
    """The bearer token: ``VP_TOKEN``, else what stands in VP_HOME's ``token``, which is made if need be.

    Raises:
        ConfigurationError: it is too short to keep anybody out, others could read it, or it cannot be read or made.
    """
    from vp_queue.operations import installation

    token = os.environ.get("VP_TOKEN", "").strip()
    source = "VP_TOKEN"
    if not token:
        source = str(settings.token_path)
        installation.ensure_token(settings)
        try:
            with settings.token_path.open(encoding="ascii") as file:
                if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                    raise ConfigurationError(f'others can read {source}; run: chmod 600 "{source}"', file=source)
                token = file.read(4096).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"cannot read {source}: {error}", file=source) from None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise ConfigurationError(
            f"{source} holds no usable token: give {SHORTEST_TOKEN} or more printable ASCII characters", file=source
        )
    return token


class Guard:
    """An ASGI application in front of another, which lets through only what may pass.

    It also notes in the scope when the client of a request goes away.
    """

    def __init__(self, app: App, *, token: str | None, hosts: Collection[str]) -> None:
        """
        Args:
            app: what is guarded.
            token: the bearer token; None lets anybody in.
            hosts: the names and addresses, without port, by which this server may be asked.
        """
        self._app = app
        self._token = token
        self._hosts = hosts_of(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # nothing here speaks it
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = headers_of(scope)
        foreign = why_foreign(headers, self._hosts)
        if foreign is not None:
            await _refuse(403, foreign, send)
        elif self._token is not None and not bears(headers, self._token):
            await _refuse(401, NO_TOKEN, send)
        else:
            with noting_departure(scope, receive) as noting:
                await self._app(scope, noting, send)


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """A request's headers; of those that access depends on, one that stands twice is empty."""
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        # Of two, which one counts would be a matter of taste.
        headers[name] = b"" if name in headers and name in _SINGLE else value
    return headers


def hosts_of(names: Collection[str]) -> frozenset[str]:
    """Names and addresses, without port, in the form in which requests are compared with them."""
    return frozenset(name.lower() for name in names if name)


def why_foreign(headers: Mapping[bytes, bytes], hosts: frozenset[str]) -> str | None:
    """Why a request is not for this server, or comes from another site's page; None: it is and does not."""
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if without_port(host) not in hosts:
        return f"Requests must be for one of these hosts: {', '.join(sorted(hosts))}."
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").lower() not in (f"http://{host}", f"https://{host}"):
        return "Requests from pages of other sites are not answered."
    return None


def bears(headers: Mapping[bytes, bytes], token: str) -> bool:
    """Whether a request carries the bearer token."""
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode())


@contextlib.contextmanager
def noting_departure(scope: Scope, receive: Receive) -> Iterator[Receive]:
    """Note in the scope when the client has gone away; within the block, messages are received by what it gives."""
    gone = scope[DISCONNECTED] = anyio.Event()

    async def noting() -> Message:
        message = await receive()
        if message["type"] == "http.disconnect":
            gone.set()
        return message

    try:
        yield noting
    finally:
        gone.set()


def without_port(host: str) -> str:
    """The name or address of a Host header; empty if it is malformed."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]) if found else ""


async def _refuse(status: int, message: str, send: Send) -> None:
    body = json.dumps({"ok": False, "error": Unauthorized(message).as_dict()}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == Unauthorized.http_status:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
