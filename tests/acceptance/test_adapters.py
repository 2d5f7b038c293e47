"""Agents with the tools in their own process: each example runs as it stands, against a scripted model on loopback.

The model asks for a story; the example's agent dispatches it to a real consumer, waits, reads the artifact, and has its
text in the answer. It has the nine tools and no shell, so what was made lies in the VP's workspace and nowhere else.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import oracle
from tests.harness import GENERAL, ROOT, Home, ok
from tests.hosts.scripted import Call, Conversation, scripted_model
from vp_queue import tools

EXAMPLES = {
    "claude_agent": ["claude_agent_sdk"],
    "openai_agent": ["openai"],
    "pydantic_ai_agent": ["pydantic_ai", "openai"],
}
# A stand-in that Claude Code always offers: it is answered by nobody.
PLACEHOLDERS = {"DeferredToolPlaceholder"}
NOWHERE = "http://127.0.0.1:9"


def needs(*modules: str) -> None:
    """Skip where an extra is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; make hosts installs what agents need")


def story(conversation: Conversation) -> Call | str:
    """What a model does that was asked for a poem: the tools' answers tell it how far it is."""
    if not conversation.answers:
        return Call("vp_list_vps", {})
    answer = conversation.answers[-1]
    if "vps" in answer:
        wanted = {"vp_id": GENERAL, "objective": "Write a poem.", "idempotency_key": "poem"}
        return Call("vp_dispatch_mission", {**wanted, "constraints": {"require_artifacts": ["poem.md"]}})
    if "created" in answer or answer.get("timed_out"):
        return Call("vp_wait_mission", {"mission_id": answer["mission"]["mission_id"], "timeout_seconds": 45})
    if "timed_out" in answer:
        return Call("vp_read_result_artifacts", {"mission_id": answer["mission"]["mission_id"]})
    return f"The VP wrote: {answer['artifacts'][0]['content']}"


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_delegates_and_shows_what_came_of_it(home: Home, tmp_path: Path, example: str) -> None:
    needs(*EXAMPLES[example])
    session = tmp_path / "session"
    session.mkdir()
    home.consumer()
    with scripted_model(story) as model:
        base_url = model.server.base_url
        environment = {
            **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
            **{"VP_HOME": str(home.path), "HOME": str(tmp_path)},
            **{"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "none", "OPENAI_MODEL": "scripted"},
            **{"ANTHROPIC_BASE_URL": base_url.removesuffix("/v1"), "ANTHROPIC_API_KEY": "none"},
            **{"MODEL": "openai-chat:scripted", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
            # Whatever else an agent wants to tell somebody, it reaches nobody.
            **{"HTTPS_PROXY": NOWHERE, "HTTP_PROXY": NOWHERE, "NO_PROXY": "127.0.0.1"},
        }
        done = subprocess.run(
            [sys.executable, str(ROOT / f"examples/adapters/{example}.py"), "Have the generalist write a poem."],
            cwd=session,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "The VP wrote: Roses are red"
    assert "Traceback" not in done.stderr
    assert "rror" not in done.stderr
    called = [call.tool for call in model.called if call.tool != "vp_wait_mission"]
    assert called == ["vp_list_vps", "vp_dispatch_mission", "vp_read_result_artifacts"]
    assert model.offered - PLACEHOLDERS == set(tools.DEFINITIONS)

    (mission,) = ok(tools.vp_list_missions())["missions"]
    assert mission["status"] == "completed"
    assert (home.workspace(mission["mission_id"]) / "work_products/poem.md").read_text() == "Roses are red\n"
    assert list(session.iterdir()) == []
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")
