"""Somebody who is told over HTTP: a server on loopback that checks each signature by a computation of its own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

KEY_BYTES = b"a key of 32 bytes for the tests!"
KEY = f"whsec_{base64.b64encode(KEY_BYTES).decode()}"
VARIABLE = "VP_TEST_HOOK_KEY"
PATH = "/a-path-that-nobody-may-see"


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    raw: bytes
    signed: bool

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.raw)
        return event

    @property
    def id(self) -> str:
        return str(self.event["id"])

    @property
    def what(self) -> tuple[str, str | None]:
        """The type without its prefix, and the mission."""
        return str(self.event["type"]).removeprefix("vp_queue."), self.event.get("subject")


Turn = Callable[["_Handler"], None]


def status(code: int, body: bytes = b"", **headers: str) -> Turn:
    """Answer with this status."""

    def turn(handler: _Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return turn


def stall(handler: _Handler) -> None:
    """Answer nothing until the receiver is let go."""
    handler.server.receiver.stalled.set()
    handler.server.receiver.release.wait(60)


def drip(handler: _Handler) -> None:
    """Answer byte by byte, without an end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not handler.server.receiver.release.wait(0.02):
        handler.wfile.write(b"x")
        handler.wfile.flush()


def flood(handler: _Handler) -> None:
    """Answer 500 with a body without an end."""
    handler.wfile.write(b"HTTP/1.1 500 No\r\nConnection: close\r\n\r\n")
    while not handler.server.receiver.release.is_set():
        handler.wfile.write(b"x" * 65_536)


@dataclass
class Receiver:
    """The running server; a script has one turn per request, the last is repeated."""

    script: Sequence[Turn] = (status(204),)
    port: int = 0
    received: list[Received] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PATH}"

    @property
    def table(self) -> str:
        """The lines of ``[notify]`` that lead here."""
        return f'secret_env = "{VARIABLE}"\nurl = "{self.url}"\nretry_backoff_seconds = 0.05\n'

    def told(self) -> list[tuple[str, str | None]]:
        """What was received, in order."""
        return [each.what for each in self.received]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        receiver = self.server.receiver
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.lock:
            receiver.received.append(Received(self.path, headers, raw, _is_signed(headers, raw)))
            turn = receiver.script[min(len(receiver.received), len(receiver.script)) - 1]
        self.close_connection = True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            turn(self)


def _is_signed(headers: dict[str, str], raw: bytes) -> bool:
    message = b".".join((headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), raw))
    wanted = base64.b64encode(hmac.digest(KEY_BYTES, message, hashlib.sha256)).decode()
    return f"v1,{wanted}" in headers["webhook-signature"].split()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, receiver: Receiver) -> None:
        super().__init__(("127.0.0.1", receiver.port), _Handler)
        self.receiver, self.lock = receiver, threading.Lock()
        receiver.port = self.server_port


@contextlib.contextmanager
def listening(receiver: Receiver) -> Iterator[Receiver]:
    """Receive within a ``with`` block; a second block listens at the same port again."""
    with _Server(receiver) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.release.set()
            server.shutdown()
            thread.join()
