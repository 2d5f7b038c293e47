"""The live events of a real `vp serve`, with missions that real consumers run: none missed, none doubled, in order."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests import mutants
from tests.event_stream import following
from tests.harness import CODER, Home, ended, ok, shell, until
from tests.web_server import API, serving
from vp_queue import missions, tools

RUN = ["mission.dispatched", "mission.started", "mission.completed"]


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def feed(after: int = 0) -> list[int]:
    """The seqs of the feed, by the ledger."""
    return [event.seq for event in missions.events_after(after, 1_000)]


@pytest.fixture
def api(home: Home) -> Iterator[httpx.Client]:
    with serving(home) as server, server.client() as client:
        yield client


def test_a_mission_is_followed_as_it_runs_and_nothing_before_it_is_told(home: Home, api: httpx.Client) -> None:
    home.consumer()
    ended(shell("true")["mission_id"])
    with following(api) as stream:
        mission_id = shell("true")["mission_id"]
        seen = stream.until("mission.completed")
    assert types(seen) == RUN
    assert {event["mission_id"] for event in seen} == {mission_id}
    page = api.get(f"{API}/events", params={"after": seen[0]["seq"] - 1}).json()["events"]
    assert page == seen


def test_who_comes_back_goes_on_after_what_it_saw_last(home: Home, api: httpx.Client) -> None:
    first, second, third = (shell("true")["mission_id"] for _ in range(3))
    seqs = feed()
    with following(api, last_event_id=seqs[0], after=0) as stream:  # the header comes first
        assert [next(stream.events())["mission_id"] for _ in range(2)] == [second, third]
    with following(api, after=0) as stream:
        assert next(stream.events())["mission_id"] == first
    for wrong in ("x", "-1", "1.5", "9" * 20, str(2**63)):
        refused = api.get(f"{API}/events", headers={"accept": "text/event-stream", "last-event-id": wrong})
        assert refused.status_code == 422, wrong
        assert refused.json()["error"]["details"]["field"] == "Last-Event-ID"
    assert api.get(f"{API}/events?after=x", headers={"accept": "text/event-stream"}).status_code == 422


def test_who_saw_more_than_the_ledger_holds_hears_what_happens_from_now_on(home: Home, api: httpx.Client) -> None:
    """As after the ledger was restored from a backup."""
    shell("true")
    with following(api, last_event_id=feed()[-1] + 1_000) as stream:
        mission_id = shell("true")["mission_id"]
        assert next(stream.events())["mission_id"] == mission_id


def test_a_stream_of_one_mission_one_session_or_one_type(home: Home, api: httpx.Client) -> None:
    mine = shell("true", source_session_id="mine")["mission_id"]
    with (
        following(api, after=0, mission_id=mine) as by_mission,
        following(api, after=0, source_session_id="mine") as by_session,
        following(api, after=0, types=["mission.cancelled"]) as by_type,
    ):
        other = shell("true", vp_id=CODER)["mission_id"]
        for each in (other, mine):
            ok(tools.vp_cancel_mission(mission_id=each))
        mine_only = ["mission.dispatched", "mission.cancelled"]
        for stream in (by_mission, by_session):
            seen = stream.until("mission.cancelled")
            assert types(seen) == mine_only
            assert {event["mission_id"] for event in seen} == {mine}
        assert [next(by_type.events())["mission_id"] for _ in range(2)] == [other, mine]
    absent = api.get(f"{API}/events?mission_id=m-0mdq3v8k2f-7x0k3w9c2h1", headers={"accept": "text/event-stream"})
    assert absent.status_code == 404


def test_a_server_that_is_stopped_and_started_again_loses_nothing_for_its_client(home: Home) -> None:
    home.consumer()
    with serving(home) as server, server.client() as client, following(client) as stream:
        port = server.port
        shell("true")
        seen = stream.until("mission.completed")
        assert server.stop() == 0
        assert list(stream.events()) == []  # ended in order, not torn
        assert "Traceback" not in server.log.read_text()
    ended(shell("true")["mission_id"])  # while it is away
    with serving(home, port=port) as server, server.client() as client:
        with following(client, last_event_id=seen[-1]["seq"]) as stream:
            seen += stream.until("mission.completed")
            shell("true")
            seen += stream.until("mission.completed")
    seqs = [event["seq"] for event in seen]
    assert seqs == feed(seqs[0] - 1)
    assert types(seen) == RUN * 3


def flood(count: int) -> None:
    """So many events, in two each of missions that nobody runs."""
    for _ in range(count // 2):
        ok(tools.vp_cancel_mission(mission_id=shell("true")["mission_id"], reason="y" * 2_000))


@pytest.fixture
def small_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    from vp_queue.web import streams

    monkeypatch.setattr(streams, "RING_EVENTS", 8)
    monkeypatch.setattr(streams, "PAGE", 5)


def slow_client(server_here: tuple[int, str]) -> None:
    """A client that takes nothing while two hundred events happen, and then all of them."""
    port, token = server_here
    begun = missions.newest_seq()
    with socket.socket() as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        stream.settimeout(60)
        stream.connect(("127.0.0.1", port))
        lines = [f"GET {API}/events HTTP/1.1", "host: localhost", f"authorization: Bearer {token}"]
        stream.sendall("\r\n".join([*lines, "accept: text/event-stream", "", ""]).encode())
        text = b""
        while b"retry:" not in text:  # from here on everything is to come
            text += stream.recv(64)
        flood(200)
        wanted = feed(begun)
        while f"id: {wanted[-1]}\n".encode() not in text:
            piece = stream.recv(65_536)
            assert piece
            text += piece
    got = [int(line[4:]) for line in text.splitlines() if line.startswith(b"id: ")]
    assert got == wanted


@pytest.fixture
def server_here(home: Home, small_ring: None) -> Iterator[tuple[int, str]]:
    """A server in this process, whose ring a test can make small; its port and token."""
    import uvicorn

    from vp_queue.mcp import sockets
    from vp_queue.web import app

    token = "0123456789abcdef"
    made = app.face(token=token)
    opened = sockets.listen("127.0.0.1", 0)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)  # so that the client's slowness is felt
    running = uvicorn.Server(uvicorn.Config(made.app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [opened]})
    thread.start()
    try:
        yield opened.getsockname()[1], token
    finally:
        made.close()
        running.should_exit = True
        thread.join(30)


def test_a_slow_client_is_sent_from_the_ledger_what_the_ring_no_longer_holds(server_here: tuple[int, str]) -> None:
    slow_client(server_here)


def test_control_a_stream_that_goes_on_with_the_ring_misses_events(server_here: tuple[int, str]) -> None:
    with mutants.removed("starts-a-stream-anew-from-the-ring"), pytest.raises(AssertionError):
        slow_client(server_here)


def test_as_many_streams_as_there_may_be_and_each_that_ends_makes_room(
    server_here: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vp_queue.web import streams

    monkeypatch.setattr(streams, "STREAMS", 2)
    port, token = server_here
    headers = {"authorization": f"Bearer {token}"}
    asked = {"accept": "text/event-stream"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client:
        with following(client), following(client):
            refused = client.get(f"{API}/events", headers=asked)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")

        def again() -> bool:
            with client.stream("GET", f"{API}/events", headers=asked) as answer:
                return answer.status_code == 200

        until(again, "there is room again")


def test_a_silent_stream_says_that_it_lives_and_ends_with_its_session(
    server_here: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vp_queue.web import streams

    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.05)
    port, token = server_here
    url = f"http://127.0.0.1:{port}/"
    with httpx.Client(base_url=url, headers={"accept": "text/html"}, timeout=60) as browser:
        browser.post("/login", data={"token": token})
        with following(browser) as stream:
            page = browser.get("/vps").text
            csrf = page.split('name="csrf_token" value="')[1].split('"')[0]
            browser.post("/logout", data={"csrf_token": csrf})
            assert list(stream.events()) == []
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=60) as client:
        with following(client, mission_id=shell("true")["mission_id"]) as stream:
            for line in stream._lines:
                if line.startswith(":"):
                    break
