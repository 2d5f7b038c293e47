"""The MCP server over HTTP, as a real process: who may speak to it, and how it ends."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import httpx2
import mcp_types as types
import pytest
import uvicorn
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from tests.harness import BIN, Home, ok, shell, until
from tests.mcp_waits import watch_waits
from vp_queue import missions_inbox, tools
from vp_queue.errors import ConfigurationError
from vp_queue.mcp import access, calls, http, sockets

WITHIN_SECONDS = 30.0
LIST = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/list",
    "params": {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    },
}
HEADERS = {
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/list",
}


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str
    warnings: str


@contextmanager
def serving(home: Home, *options: str, **extra: str) -> Iterator[Server]:
    process = subprocess.Popen(
        [str(BIN / "vp"), "mcp", "--http", "--port", "0", *options],
        env={**home.environment, **extra},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines: list[str] = []
    with process:
        try:
            for line in process.stderr:
                lines.append(line)
                if line.startswith("MCP server on "):
                    break
            url = lines[-1].split()[-1]
            yield Server(process, url, "".join(lines[:-1]))
        finally:
            process.terminate()
            process.wait(WITHIN_SECONDS)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(4 * WITHIN_SECONDS):
            await test()

    anyio.run(bounded)


def ask(url: str, token: str | None = None, **headers: str) -> httpx.Response:
    given = {**HEADERS, **({"authorization": f"Bearer {token}"} if token else {}), **headers}
    return httpx.post(url, json=LIST, headers=given, timeout=WITHIN_SECONDS)


def test_only_who_has_the_token_is_answered(home: Home) -> None:
    with serving(home) as server:
        token_file = home.path / "token"
        token = token_file.read_text().strip()
        assert token_file.stat().st_mode & 0o777 == 0o600
        assert len(ask(server.url, token).json()["result"]["tools"]) == 9
        for wrong in (None, "wrong", token[:-1], token + "x", f"{token} x"):
            refused = ask(server.url, wrong)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert refused.json()["error"]["code"] == "unauthorized"
        assert ask(server.url, None, authorization=f"Basic {token}").status_code == 401


def test_a_token_of_the_environment_comes_first(home: Home) -> None:
    with serving(home, VP_TOKEN="0123456789abcdef") as server:
        assert ask(server.url, "0123456789abcdef").status_code == 200
        assert not (home.path / "token").exists()


def test_a_token_that_others_can_read_or_that_is_none_is_not_used(home: Home) -> None:
    (home.path / "token").write_text("0123456789abcdef\n")
    (home.path / "token").chmod(0o644)
    for extra in ({}, {"VP_TOKEN": "short"}):
        done = subprocess.run(
            [str(BIN / "vp"), "mcp", "--http", "--port", "0", "--json"],
            env={**home.environment, **extra},
            capture_output=True,
            text=True,
            timeout=WITHIN_SECONDS,
        )
        assert json.loads(done.stdout)["error"]["code"] == "configuration_error"
        assert done.returncode == 2


def test_pages_of_other_sites_are_turned_away(home: Home) -> None:
    with serving(home, "--no-auth") as server:
        assert "without a token" in server.warnings
        for host in ("evil.example", "127.0.0.1.evil.example:1", "", "[::1].evil.example", "localhost:evil.example"):
            assert ask(server.url, host=host).status_code == 403, host
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
            assert ask(server.url, origin=origin).status_code == 403, origin
        for host in ("localhost:1234", "LocalHost", "[::1]:1"):
            assert ask(server.url, host=host).status_code == 200, host
        assert ask(server.url, origin=server.url.removesuffix("/mcp")).status_code == 200


def test_nothing_but_http_comes_past_the_guard() -> None:
    async def unguarded(*_: Any) -> None:
        raise AssertionError("reached")

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def test() -> None:
        scope = {"type": "websocket", "headers": [(b"host", b"localhost")]}
        await access.Guard(unguarded, token=None, hosts=access.LOOPBACK)(scope, receive, send)

    run(test)
    assert sent == [{"type": "websocket.close"}]


def test_a_task_asked_for_under_another_name_is_refused(home: Home) -> None:
    """A proxy may have routed by the header, and not by the body."""
    task_id = f"{shell('true')['mission_id']}.1"
    version = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    declared = {"extensions": {"io.modelcontextprotocol/tasks": {}}}
    meta = {**version, "io.modelcontextprotocol/clientCapabilities": declared}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": {"taskId": task_id, "_meta": meta}}
    headers = {**HEADERS, "mcp-method": "tasks/get"}
    with serving(home, "--no-auth") as server:
        wrong = httpx.post(server.url, json=asked, headers={**headers, "mcp-name": "another"}, timeout=WITHIN_SECONDS)
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, types.HEADER_MISMATCH)
        for right in ({"mcp-name": task_id}, {}):
            answer = httpx.post(server.url, json=asked, headers={**headers, **right}, timeout=WITHIN_SECONDS)
            assert answer.json()["result"]["status"] == "working", answer.text


@pytest.mark.parametrize("more", [["--host", "0.0.0.0"], ["--allow-host", "agents.example"]])
def test_no_auth_is_for_loopback_only(home: Home, more: list[str]) -> None:
    argv = [str(BIN / "vp"), "mcp", "--http", "--no-auth", *more, "--port", "0"]
    done = subprocess.run(argv, env=home.environment, capture_output=True, text=True, timeout=WITHIN_SECONDS)
    assert done.returncode == 2
    assert "would let" in " ".join(done.stderr.split())


@pytest.mark.parametrize("host", ["x" * 64, "203.0.113.1"])
def test_an_address_that_cannot_be_had_is_told(host: str) -> None:
    with pytest.raises(ConfigurationError, match="--host"):
        sockets.listen(host, 0)


def test_a_large_body_is_refused(home: Home) -> None:
    with serving(home, "--no-auth") as server:
        large = b" " * (2 * 1024 * 1024 + 1)
        assert httpx.post(server.url, content=large, headers=HEADERS, timeout=WITHIN_SECONDS).status_code == 413


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_and_answers_what_waits(home: Home, mode: str, how: signal.Signals) -> None:
    mission_id = shell("true")["mission_id"]

    async def test() -> None:
        with serving(home) as server:
            token = (home.path / "token").read_text().strip()
            waits = anyio.Event()
            answers: list[Any] = []

            async def note(*_: Any) -> None:
                waits.set()

            with contextlib.suppress(ExceptionGroup):  # the client, in leaving, finds nobody to say goodbye to
                async with httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=60) as web:
                    async with Client(streamable_http_client(server.url, http_client=web), mode=mode) as host:
                        await host.list_tools()  # whose schemas it holds the answer to

                        async def wait() -> None:
                            asked = {"mission_id": mission_id, "timeout_seconds": 600}
                            answers.append(await host.call_tool("vp_wait_mission", asked, progress_callback=note))

                        async with anyio.create_task_group() as tasks:
                            tasks.start_soon(wait)
                            await waits.wait()
                            server.process.send_signal(how)
            assert answers[0].structured_content["timed_out"]
            assert await anyio.to_thread.run_sync(server.process.wait, WITHIN_SECONDS) == 0

    run(test)


@contextmanager
def serving_here() -> Iterator[int]:
    """A server in this process, whose threads a test can watch; gives its port."""
    app, close = http.asgi_app(token=None)
    opened = sockets.listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        yield opened.getsockname()[1]
    finally:
        close()
        server.should_exit = True
        thread.join(WITHIN_SECONDS)


def post(port: int, body: dict[str, Any], headers: dict[str, str]) -> socket.socket:
    """A request whose connection the test can drop in the middle of the answer."""
    stream = socket.create_connection(("127.0.0.1", port), timeout=WITHIN_SECONDS)
    content = json.dumps(body).encode()
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    fixed = f"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n"
    stream.sendall(f"{fixed}content-type: application/json\r\n{lines}\r\n".encode() + content)
    return stream


def read_until(stream: socket.socket, wanted: bytes) -> bytes:
    read = b""
    while wanted not in read:
        piece = stream.recv(65536)
        assert piece, read
        read += piece
    return read


def wait_request(era: str, port: int, mission_id: str) -> tuple[dict[str, Any], dict[str, str]]:
    """A wait as a host of either era asks for it; for the older one, after its handshake."""
    arguments = {"mission_id": mission_id, "timeout_seconds": 20}
    meta: dict[str, Any] = {"progressToken": "t"}
    body = {"jsonrpc": "2.0", "id": 7, "method": "tools/call"}
    if era == "modern":
        meta |= LIST["params"]["_meta"]  # type: ignore[index]
        headers = {**HEADERS, "mcp-method": "tools/call", "mcp-name": "vp_wait_mission"}
        return {**body, "params": {"name": "vp_wait_mission", "arguments": arguments, "_meta": meta}}, headers
    url = f"http://127.0.0.1:{port}/mcp"
    accept = {"accept": HEADERS["accept"]}
    info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    begun = httpx.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": info}, headers=accept)
    headers = {**accept, "mcp-session-id": begun.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
    httpx.post(url, json={"jsonrpc": "2.0", "method": "notifications/initialized"}, headers=headers)
    return {**body, "params": {"name": "vp_wait_mission", "arguments": arguments, "_meta": meta}}, headers


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The missions for which a thread of this process waits right now."""
    return watch_waits(monkeypatch)


def leave_in_mid_wait(era: str, port: int, mission_id: str, waiting: set[str]) -> None:
    body, headers = wait_request(era, port, mission_id)
    stream = post(port, body, headers)
    read_until(stream, b"notifications/progress")
    assert waiting
    stream.close()


@pytest.mark.parametrize("era", ["modern", "handshake"])
def test_a_client_that_goes_away_leaves_no_thread(home: Home, waiting: set[str], era: str) -> None:
    mission_id = shell("true")["mission_id"]
    with serving_here() as port:
        leave_in_mid_wait(era, port, mission_id, waiting)
        until(lambda: not waiting, "the thread came back", 5)


@pytest.mark.parametrize("era", ["modern", "handshake"])
def test_a_client_that_goes_away_from_its_inbox_leaves_no_thread(
    home: Home, monkeypatch: pytest.MonkeyPatch, era: str
) -> None:
    mission_id = shell("true")["mission_id"]
    seq = ok(tools.vp_read_events(reader="simone"))["last_seq"]
    found, looking = missions_inbox.found_in_feed, threading.Event()

    def watched(*given: Any, **more: Any) -> Any:
        looking.set()
        try:
            return found(*given, **more)
        finally:
            looking.clear()

    monkeypatch.setattr(missions_inbox, "found_in_feed", watched)
    with serving_here() as port:
        body, headers = wait_request(era, port, mission_id)
        body["params"] |= {
            "name": "vp_read_events",
            "arguments": {"reader": "simone", "acknowledge": seq, "wait_seconds": 60},
        }
        if era == "modern":
            headers["mcp-name"] = "vp_read_events"
        with post(port, body, headers) as stream:
            read_until(stream, b"notifications/progress")
            assert looking.is_set()
        until(lambda: not looking.is_set(), "the thread came back", 5)


@pytest.mark.parametrize("era", ["modern", "handshake"])
def test_without_its_guard_a_client_that_goes_away_leaves_a_thread(
    home: Home, waiting: set[str], monkeypatch: pytest.MonkeyPatch, era: str
) -> None:
    """The control: with nobody to end the thread, it waits on for nobody."""
    mission_id = shell("true")["mission_id"]
    with serving_here() as port:
        with monkeypatch.context() as without:
            without.setattr(calls.Thread, "end", lambda self: None)
            leave_in_mid_wait(era, port, mission_id, waiting)
            with pytest.raises(AssertionError, match="never happened"):
                until(lambda: not waiting, "the thread came back", 2)
        ok(tools.vp_cancel_mission(mission_id=mission_id))
