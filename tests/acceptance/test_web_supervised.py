"""The web face under `vp up`: it is there, and where it cannot be, missions go on and `vp status` says why."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.harness import BIN, GENERAL, Home, ended, ok, until
from vp_queue import tools


def vp(home: Home, *args: str) -> dict[str, Any]:
    done = subprocess.run(
        [BIN / "vp", *args, "--json"], env=home.environment, capture_output=True, text=True, timeout=90
    )
    return ok(json.loads(done.stdout))


def program(home: Home, name: str) -> dict[str, Any]:
    return next(each for each in vp(home, "status")["programs"] if each["name"] == name)


def doctor(home: Home) -> str:
    argv = [BIN / "vp", "doctor", "--json"]
    done = subprocess.run(argv, env=home.environment, capture_output=True, text=True, timeout=90)
    return next(str(each["detail"]) for each in json.loads(done.stdout)["checks"] if each["name"] == "supervisord")


@contextlib.contextmanager
def a_port() -> Iterator[socket.socket]:
    """A port that was free, taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken


@pytest.fixture
def supervised(home: Home) -> Iterator[Home]:
    yield home
    subprocess.run([BIN / "vp", "down"], env=home.environment, capture_output=True, timeout=90)


def test_vp_up_serves_it_and_a_taken_port_is_told_while_missions_go_on(supervised: Home) -> None:
    home = supervised
    with a_port() as taken:
        port = taken.getsockname()[1]
        home.configure(web=f"port = {port}")
        vp(home, "up", "--detach")
        mission = ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="a poem"))["mission"]
        assert ended(mission["mission_id"])["status"] == "completed"
        until(lambda: f"cannot listen on 127.0.0.1 port {port}" in program(home, "web")["detail"], "it is told", 60)
        until(lambda: "cannot listen" in doctor(home), "vp doctor tells it too", 60)
    until(lambda: program(home, "web")["state"] == "RUNNING", "it tries again, now that the port is free", 60)
    status = subprocess.run([BIN / "vp", "status"], env=home.environment, capture_output=True, text=True, timeout=90)
    assert f"http://127.0.0.1:{port}/" in status.stdout
    ready = until(lambda: _ready(port), "all is well", 60)
    assert ready["checks"] == {
        "ledger_writable": True,
        "room_on_disk": True,
        "keeper_alive": True,
        "consumer_alive:vp.general.primary": True,
        "consumer_alive:vp.coder.primary": True,
    }
    home.configure(web="enabled = false")
    assert "web" in vp(home, "up", "--detach")["changes"]["restarted"]
    assert "web" not in {each["name"] for each in vp(home, "status")["programs"]}


def _ready(port: int) -> dict[str, Any] | None:
    with contextlib.suppress(httpx.TransportError):
        answer = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=30)
        if answer.status_code == 200:
            return dict(answer.json())
    return None
