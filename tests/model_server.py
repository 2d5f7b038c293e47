"""A scripted chat endpoint on loopback, OpenAI's wire format, that plays what real ones do on bad days.

A script is a list of turns, one per request; the last one is repeated. Each turn gets the request's handler
and writes the raw answer.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.harness import GENERAL, Home

KEY = "sk-thekeythatnobodymaysee"
Turn = Callable[["_Handler"], None]
Ask = Callable[..., dict[str, Any]]


@dataclass
class ModelServer:
    """The running server.

    Attributes:
        base_url: for ``options.base_url``.
        requests: what was asked, in order.
        release: what a stalling turn waits for.
        dropped: set when a stalling turn saw its peer go.
        stalled: set when a turn stalls.
    """

    base_url: str = ""
    script: Sequence[Turn] = ()
    requests: list[Request] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    dropped: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)

    @property
    def profile(self) -> str:
        """The options table's lines that lead here."""
        return f'base_url = "{self.base_url}"\nmodel = "scripted"\n'


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    request_read: Request

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        model = self.server.model
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.request_read = Request(self.path, headers, body, time.monotonic())
        model.requests.append(self.request_read)
        self.close_connection = True
        turn = model.script[min(len(model.requests), len(model.script)) - 1]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            turn(self)

    def do_GET(self) -> None:
        self.server.model.requests.append(Request(self.path, dict(self.headers.items()), {}, time.monotonic()))
        self.send_error(405)

    def begin(self, status: int, content_type: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Connection": "close", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def data(self, chunk: object) -> None:
        text = chunk if isinstance(chunk, str) else json.dumps(chunk)
        self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.flush()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    model: ModelServer


@contextlib.contextmanager
def model_server(*script: Turn) -> Iterator[ModelServer]:
    """Serve a script for the time of the block."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.model = ModelServer(f"http://127.0.0.1:{server.server_port}/v1", script)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.model
        finally:
            server.model.release.set()
            server.shutdown()
            thread.join()


# --- turns --------------------------------------------------------------------------------------


def delta(text: str | None = None, finish: str | None = None, **more: object) -> dict[str, Any]:
    """One chunk of a stream."""
    content = {} if text is None else {"content": text}
    return {"choices": [{"index": 0, "delta": {**content, **more}, "finish_reason": finish}]}


def usage(prompt: int, completion: int) -> dict[str, Any]:
    """The chunk that tells usage."""
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


def says(
    *texts: str, finish: str | None = "stop", tokens: tuple[int, int] | None = (12, 34), done: bool = True
) -> Turn:
    """A streamed answer in pieces."""

    def turn(handler: _Handler) -> None:
        handler.begin(200, "text/event-stream; charset=utf-8")
        handler.wfile.write(b": keep-alive\n\n")
        handler.data(delta(role="assistant"))
        for text in texts:
            handler.data(delta(text))
        if finish:
            handler.data(delta(finish=finish))
        if tokens:
            handler.data(usage(*tokens))
        if done:
            handler.data("[DONE]")

    return turn


def streams(*chunks: object) -> Turn:
    """These chunks, and no closing mark."""

    def turn(handler: _Handler) -> None:
        handler.begin(200, "text/event-stream")
        for chunk in chunks:
            handler.data(chunk)

    return turn


def answers_whole(text: str, tokens: tuple[int, int] = (12, 34)) -> Turn:
    """An answer in one piece of JSON, from a server that does not stream."""
    body = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        **{"usage": usage(*tokens)["usage"]},
    }
    return raw(json.dumps(body).encode(), "application/json")


def raw(body: bytes, content_type: str = "text/event-stream") -> Turn:
    """These bytes."""

    def turn(handler: _Handler) -> None:
        handler.begin(200, content_type)
        handler.wfile.write(body)

    return turn


def byte_by_byte(body: bytes) -> Turn:
    """These bytes of a stream, each in a packet of its own as far as the kernel will have it."""

    def turn(handler: _Handler) -> None:
        handler.begin(200, "text/event-stream")
        for position in range(len(body)):
            handler.wfile.write(body[position : position + 1])
            handler.wfile.flush()

    return turn


def fails(status: int, code: str | None = None, message: str = "something is wrong", **headers: str) -> Turn:
    """An error."""

    def turn(handler: _Handler) -> None:
        handler.begin(status, "application/json", **headers)
        handler.wfile.write(json.dumps({"error": {"message": message, "code": code}}).encode())

    return turn


def echoes_the_key(handler: _Handler) -> None:
    """An error that quotes what it was sent."""
    fails(401, message=f"no such key: {handler.headers['Authorization']}")(handler)


def stalls_after(*texts: str) -> Turn:
    """Some text, then silence until it is released or its peer goes; then the rest."""

    def turn(handler: _Handler) -> None:
        model = handler.server.model
        handler.begin(200, "text/event-stream")
        for text in texts:
            handler.data(delta(text))
        model.stalled.set()
        handler.connection.settimeout(0.05)
        while not model.release.is_set():
            try:
                if not handler.connection.recv(1):
                    model.dropped.set()
                    return
            except TimeoutError:
                continue
            except OSError:
                model.dropped.set()
                return
        handler.connection.settimeout(None)
        handler.data(delta("the end", finish="stop"))
        handler.data("[DONE]")

    return turn


def pause_of(seconds: float) -> Turn:
    """Some text, silence for so long, and the rest."""

    def turn(handler: _Handler) -> None:
        handler.begin(200, "text/event-stream")
        handler.data(delta("before, "))
        handler.server.model.release.wait(seconds)
        handler.data(delta("after", finish="stop"))
        handler.data("[DONE]")

    return turn


def talks_on(handler: _Handler) -> None:
    """An answer that never ends."""
    model = handler.server.model
    handler.begin(200, "text/event-stream")
    try:
        while not model.release.wait(0.01):
            handler.data(delta("word "))
            model.stalled.set()
    except OSError:
        model.dropped.set()


# --- a home whose generalist asks it ------------------------------------------------------------


def configure(home: Home, server: ModelServer, options: str = "", profile: str = "") -> None:
    (home.path / "vp_queue.toml").write_text(
        f'[vp."{GENERAL}"]\nretry_backoff_seconds = 0\n{profile}\n[vp."{GENERAL}".options]\n{server.profile}{options}\n'
    )


def products(home: Home, mission: dict[str, Any]) -> dict[str, bytes]:
    folder = home.workspace(mission["mission_id"]) / "work_products"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def log(home: Home, mission: dict[str, Any]) -> str:
    return (home.workspace(mission["mission_id"]) / "run.log").read_text()
