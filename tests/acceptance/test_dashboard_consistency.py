"""One mission through every face: tool, MCP, HTTP API, command line and dashboard say the same, in the same order.

Each face is asked again and again while a mission goes its way; what it said, without repetitions, must be the states
that the mission's events tell, in that order. The mission waits at each state until all faces have been asked.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from itertools import groupby
from typing import Any

import httpx
from playwright.sync_api import expect

from tests.browser import Dashboard, Watched
from tests.harness import BIN, GENERAL, command, ended, ok, until
from tests.oracle import STATUS_AFTER
from vp_queue import missions, tools

PROTOCOL = "2026-07-28"


def by_tool(mission_id: str) -> str:
    return str(ok(tools.vp_get_mission(mission_id=mission_id))["mission"]["status"])


def by_mcp(client: httpx.Client, mission_id: str) -> str:
    answer = client.post(
        "/mcp",
        headers={
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": PROTOCOL,
            "mcp-method": "tools/call",
            "mcp-name": "vp_get_mission",
        },
        json={
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {
                "name": "vp_get_mission",
                "arguments": {"mission_id": mission_id},
                "_meta": {
                    "io.modelcontextprotocol/protocolVersion": PROTOCOL,
                    "io.modelcontextprotocol/clientCapabilities": {},
                },
            },
        },
    )
    assert answer.status_code == 200, answer.text
    text = answer.text
    if answer.headers["content-type"].startswith("text/event-stream"):
        text = next(line for line in text.splitlines() if line.startswith("data: ")).removeprefix("data: ")
    return str(ok(json.loads(text)["result"]["structuredContent"])["mission"]["status"])


def by_api(client: httpx.Client, mission_id: str) -> str:
    return str(ok(client.get(f"/api/v1/missions/{mission_id}").json())["mission"]["status"])


def by_command_line(dashboard: Dashboard, mission_id: str) -> str:
    argv = [str(BIN / "vp"), "get", mission_id, "--json"]
    told = subprocess.run(argv, env=dashboard.home.environment, capture_output=True, check=True).stdout
    return str(ok(json.loads(told))["mission"]["status"])


class Faces:
    """What each face has said of one mission."""

    def __init__(self, asked: dict[str, Callable[[], str]]) -> None:
        self._asked = asked
        self.said: dict[str, list[str]] = {name: [] for name in asked}

    def ask(self, expected: str) -> None:
        """Every face, which must say this; the dashboard in its own time, for it is told."""
        for name, ask in self._asked.items():
            until(lambda ask=ask, name=name: self._note(name, ask()) == expected, f"{name} says {expected}")

    def _note(self, name: str, status: str) -> str:
        self.said[name].append(status)
        return status

    def order(self) -> dict[str, list[str]]:
        """What each said, without repetitions."""
        return {name: [status for status, _ in groupby(said)] for name, said in self.said.items()}


def states_of_events(mission_id: str) -> list[str]:
    """The states that a mission went through, by its events."""
    events = ok(tools.vp_get_mission(mission_id=mission_id, events_limit=500))["events"]
    found = [STATUS_AFTER[each["type"]] for each in events if each["type"] in STATUS_AFTER]
    return [status for status, _ in groupby(found)]


def follow(dashboard: Dashboard, watched: Watched, client: httpx.Client, mission_id: str) -> Faces:
    page = watched.live(f"/missions/{mission_id}")
    badge = page.locator("#live > .row .badge").first
    listed = page.context.new_page()
    listed.goto(f"{dashboard.url}/missions?session=consistency")
    row = listed.locator(f"#row-{mission_id} .badge").first
    return Faces(
        {
            "tool": lambda: by_tool(mission_id),
            "MCP": lambda: by_mcp(client, mission_id),
            "HTTP": lambda: by_api(client, mission_id),
            "command line": lambda: by_command_line(dashboard, mission_id),
            "dashboard, mission": lambda: str(badge.text_content()),
            "dashboard, list": lambda: str(row.text_content()),
        }
    )


def wait_for_go(**more: Any) -> str:
    script = 'until [ -e "$VP_WORKSPACE/go" ]; do sleep 0.05; done'
    return str(command("sh", "-c", script, source_session_id="consistency", **more)["mission_id"])


def test_every_face_tells_a_mission_that_completes_in_the_order_of_its_events(
    dashboard: Dashboard, watched: Watched
) -> None:
    with dashboard.server.client() as client:
        missions.pause(GENERAL, "so that it is queued for a while")
        mission_id = wait_for_go()
        faces = follow(dashboard, watched, client, mission_id)
        faces.ask("queued")
        missions.resume(GENERAL)
        faces.ask("running")
        (dashboard.home.workspace(mission_id) / "go").touch()
        faces.ask("completed")
    for said in faces.order().values():
        assert said == ["queued", "running", "completed"]
    assert states_of_events(mission_id) == ["queued", "running", "completed"]
    expect(watched.page.locator(".timeline").first).to_contain_text("completed")


def test_every_face_tells_a_mission_that_is_cancelled_in_the_order_of_its_events(
    dashboard: Dashboard, watched: Watched
) -> None:
    with dashboard.server.client() as client:
        mission_id = wait_for_go()
        faces = follow(dashboard, watched, client, mission_id)
        faces.ask("running")
        cancelled = client.post(f"/api/v1/missions/{mission_id}/cancel", json={"reason": "by another face"})
        assert cancelled.status_code == 200, cancelled.text
        ended(mission_id)
        faces.ask("cancelled")
    for said in faces.order().values():
        assert said[-2:] == ["running", "cancelled"]
        assert said[:-2] in ([], ["queued"])
    assert states_of_events(mission_id) == ["queued", "running", "cancelled"]
