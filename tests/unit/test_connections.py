"""Connections on which nobody says anything keep nobody out, and are given up."""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn

from tests.harness import until
from vp_queue.mcp import connections, sockets


async def _answers(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def port() -> Iterator[int]:
    opened = sockets.listen("127.0.0.1", 0)
    config = uvicorn.Config(_answers, log_level="warning", http=connections.Connection, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        yield opened.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


def _over(silent: socket.socket) -> bool:
    try:
        while silent.recv(4096):
            pass
        return True
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def _silent(port: int, said: bytes = b"") -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", port), 10)
    opened.sendall(said)
    opened.setblocking(False)
    return opened


def test_the_longest_silent_one_makes_room(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 5)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        silent = [_silent(port, b"GET / HT") for _ in range(20)]
        assert client.get("/").text == "ok"
        until(lambda: sum(map(_over, silent)) >= 15, "most of them are closed")
        assert not _over(silent[-1])
        for each in silent:
            each.close()


def test_who_does_not_ask_within_a_while_is_given_up(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    for said in (b"", b"GET / HTTP/1.1\r\nhost: x\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET /"):
        with _silent(port, said) as silent:
            until(functools.partial(_over, silent), f"who said {said!r} is given up")
