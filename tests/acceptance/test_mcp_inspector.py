"""The official MCP Inspector's command line against `vp mcp` over stdio, and the skill against the open spec."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.harness import BIN, GENERAL, ROOT, Home, ok
from tests.hosts import installed
from tests.hosts.installed import needs_hosts
from vp_queue import tools

pytestmark = needs_hosts

WITHIN_SECONDS = 120


def inspect(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [str(installed.BIN / "mcp-inspector"), "--cli", str(BIN / "vp"), "mcp", "-e", f"VP_HOME={home.path}"]
    environment = {"PATH": installed.PATH, "HOME": str(home.path.parent)}
    return subprocess.run([*argv, *arguments], env=environment, capture_output=True, text=True, timeout=WITHIN_SECONDS)


def test_the_schemas_are_portable_to_the_strictest(home: Home) -> None:
    done = inspect(home, "--method", "tools/list", "--strict")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower(), done.stderr
    listed: list[dict[str, Any]] = json.loads(done.stdout)["tools"]
    assert [tool["name"] for tool in listed] == list(tools.DEFINITIONS)


def test_a_mission_is_dispatched_through_it(home: Home) -> None:
    given = ("--tool-arg", f"vp_id={GENERAL}", "objective=Write a poem.")
    done = inspect(home, "--method", "tools/call", "--tool-name", "vp_dispatch_mission", *given)
    assert done.returncode == 0, done.stderr
    mission = json.loads(done.stdout)["structuredContent"]["mission"]
    assert [row["mission_id"] for row in ok(tools.vp_list_missions())["missions"]] == [mission["mission_id"]]


def test_the_skill_keeps_to_the_open_spec() -> None:
    argv = [str(BIN / "agentskills"), "validate", str(ROOT / "skills" / "vp-orchestration")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=WITHIN_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
