"""Claude Code itself, as it comes with the Claude Agent SDK: it delegates through `vp mcp`, and the ready-made hooks
tell it what ended meanwhile. The model is scripted, on loopback.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from tests import ended, oracle
from tests.acceptance.test_adapters import NOWHERE, story
from tests.harness import BIN, ROOT, Home, ok
from tests.hosts.scripted import ScriptedModel, scripted_model
from vp_queue import tools
from vp_queue.contracts import Status

SETTINGS = ROOT / "examples/hooks/claude-code/settings.json"


def claude() -> str:
    """The program that the SDK brings along."""
    found = importlib.util.find_spec("claude_agent_sdk")
    if found is None or found.origin is None:
        pytest.skip("claude_agent_sdk not installed; make hosts installs what agents need")
    return str(Path(found.origin).parent / "_bundled/claude")


def ask(home: Home, folder: Path, model: ScriptedModel, *more: str) -> str:
    """What it answers to one prompt, with our server and nothing else of the machine's settings."""
    server = {"command": str(BIN / "vp"), "args": ["mcp"], "env": {"VP_HOME": str(home.path)}}
    session = folder / "session"
    session.mkdir()
    done = subprocess.run(
        [claude(), "-p", "Have the generalist write a poem.", "--model", "scripted", "--strict-mcp-config",
         "--mcp-config", json.dumps({"mcpServers": {"vp": server}}), "--allowedTools", "mcp__vp", "--tools", "", *more],
        cwd=session,
        env={
            **home.environment,
            **{"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(folder), "CLAUDE_CONFIG_DIR": str(folder / "claude")},
            **{"ANTHROPIC_BASE_URL": model.server.base_url.removesuffix("/v1"), "ANTHROPIC_API_KEY": "none"},
            **{"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"},
            **{"HTTPS_PROXY": NOWHERE, "HTTP_PROXY": NOWHERE, "NO_PROXY": "127.0.0.1"},
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(session.iterdir()) == []
    return done.stdout.strip()


def told(model: ScriptedModel) -> str:
    """Everything that the model was sent."""
    return "\n".join(json.dumps(request.body, ensure_ascii=False) for request in model.server.requests)


@pytest.mark.parametrize("hooked", [True, False], ids=["hooks", "no hooks"])
def test_it_delegates_and_is_told_of_what_ended_meanwhile(home: Home, tmp_path: Path, hooked: bool) -> None:
    """Without the hooks, which is the control, it delegates as well, and learns nothing of the other mission."""
    claude()
    home.consumer()
    other = ended.mission(timedelta(0), Status.CANCELLED)
    with scripted_model(story) as model:
        answer = ask(home, tmp_path, model, *(["--settings", str(SETTINGS)] if hooked else []))
    assert answer == "The VP wrote: Roses are red"
    assert (other in told(model)) is hooked
    assert ("vp_dispatch_mission(source_session_id=" in told(model)) is hooked
    called = [call.tool for call in model.called if call.tool != "vp_wait_mission"]
    assert called == ["vp_list_vps", "vp_dispatch_mission", "vp_read_result_artifacts"]
    delegated = next(m for m in ok(tools.vp_list_missions())["missions"] if m["mission_id"] != other)
    assert delegated["status"] == "completed"
    inbox = ok(tools.vp_read_events(reader="claude-code"))
    unread = {event["mission_id"] for event in inbox["events"]}
    assert (other not in unread) is hooked, "what it was told is acknowledged when its session goes on, or ends"
    assert delegated["mission_id"] in unread, "that of no session is told at the next prompt"
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")
