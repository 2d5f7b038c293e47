"""Real agent hosts delegate over MCP: by tools alone, and to the end.

The failed run that began all this: asked for a story by the general VP, an agent without tools for it searched the
code, tried curl and shell, and wrote the story itself, into its own session. Here opencode, Codex and Qwen Code are
asked the same. What they say to the model, how they call `vp mcp`, and what they hand on of its answers is theirs;
only the model is scripted, and it knows the story from nowhere but the artifact's text that the host sent it.
"""

from __future__ import annotations

import threading
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.harness import GENERAL, Home, ok
from tests.hosts.agents import Host, Turn, codex, opencode, qwen
from tests.hosts.installed import needs_hosts
from tests.hosts.scripted import Call, Conversation, Script, ScriptedModel, scripted_model
from vp_queue import tools

pytestmark = needs_hosts

# Words that nobody can guess, so that they came from the VP if they are in an answer.
STORY = "echo Once upon a time there was $(cat /proc/sys/kernel/random/uuid)"
DELEGATION = ["vp_list_vps", "vp_dispatch_mission", "vp_wait_mission", "vp_read_result_artifacts"]
SHELLS = ("bash", "shell", "exec_command", "local_shell", "run_shell_command")
WRITERS = ("apply_patch", "edit", "write", "write_file")
ANSWERS_MAX = 6


@pytest.fixture
def storyteller(home: Home) -> Home:
    """A home whose generalist writes a story, with its worker."""
    config = home.path / "vp_queue.toml"
    lines = config.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("argv = "))
    lines[at] = f"""argv = ["sh", "-c", '{STORY} > "$VP_WORK_PRODUCTS/story.md"']"""
    config.write_text("\n".join(lines))
    home.consumer()
    return home


def delegates(session_id: str) -> Script:
    """What a model does that keeps to the skill; without the tools it does as the failed run did."""

    def script(said: Conversation) -> Call | str:
        if "vp_list_vps" not in said.offered:
            return improvises(said)
        answers = said.answers
        if not answers:
            return Call("vp_list_vps", {})
        if not answers[-1]["ok"]:
            return f"It went wrong: {answers[-1]['error']['message']}"
        if len(answers) == 1:
            if GENERAL not in [row["vp_id"] for row in answers[0]["vps"]]:
                return "There is no generalist."
            asked = {"vp_id": GENERAL, "objective": "Write a story.", "source_session_id": session_id}
            return Call("vp_dispatch_mission", {**asked, "idempotency_key": f"{session_id}-story"})
        mission_id = answers[1]["mission"]["mission_id"]
        last = answers[-1]
        if "artifacts" in last:
            return f"The generalist wrote: {last['artifacts'][0]['content']}"
        if last["mission"]["terminal"]:
            return Call("vp_read_result_artifacts", {"mission_id": mission_id})
        if len(answers) >= ANSWERS_MAX:
            return "It is not done yet."
        return Call("vp_wait_mission", {"mission_id": mission_id, "timeout_seconds": 40})

    return script


def improvises(said: Conversation) -> Call | str:
    """By the first shell there is, into the session's folder."""
    shell = next((name for name in SHELLS if name in said.offered), None)
    if shell is None or said.results:
        return "Once upon a time, I did it myself."
    line = "echo Once upon a time > story.md"
    arguments = {"cmd": line} if shell == "exec_command" else {"command": line, "description": "Write the story"}
    return Call(shell, {**arguments, **({"is_background": False} if shell == "run_shell_command" else {})})


def own_missions(session_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ok(tools.vp_list_missions(source_session_id=session_id))["missions"]
    return found


def assert_delegated(home: Home, turn: Turn, model: ScriptedModel, session_id: str) -> None:
    """The whole promise: by tools alone, to the end, in the VP's place and not in the session's."""
    # As often as need be: a wait is bounded.
    assert [tool for tool, _ in groupby(call.tool for call in model.called)] == DELEGATION, (turn.errors, turn.events)
    assert len(turn.tools) == len(model.called), turn.tools
    assert all("vp_" in tool for tool in turn.tools), turn.tools
    assert not model.offered & {*SHELLS, *WRITERS}
    (mission,) = own_missions(session_id)
    assert mission["status"] == "completed"
    story = (home.workspace(mission["mission_id"]) / "work_products" / "story.md").read_text()
    assert story.strip() in turn.answer
    assert turn.left_behind == []
    assert turn.code == 0


@pytest.mark.parametrize("host", [codex, qwen])  # and opencode, below
def test_a_host_delegates_a_story_and_shows_it(storyteller: Home, tmp_path: Path, host: Host) -> None:
    with scripted_model(delegates("s-1")) as model:
        turn = host(tmp_path / "host", model.server.base_url, storyteller.path)
    assert_delegated(storyteller, turn, model, "s-1")
    oracle.check(storyteller.database, storyteller.path / "AGENT_RUN_WORKSPACES")


SLOW = [pytest.param(host, marks=pytest.mark.slow) for host in (opencode, qwen)]


@pytest.mark.parametrize("host", [codex, *SLOW])
def test_without_the_server_the_same_host_fails_the_same_test(storyteller: Home, tmp_path: Path, host: Host) -> None:
    """The control, and the failed run itself: no vp_* tools, a shell, and the story lands in the session."""
    with scripted_model(delegates("s-1")) as model:
        turn = host(tmp_path / "host", model.server.base_url, storyteller.path, server=("false",), shell=True)
    with pytest.raises(AssertionError):
        assert_delegated(storyteller, turn, model, "s-1")
    assert turn.left_behind == ["story.md"]
    assert own_missions("s-1") == []


def test_two_hosts_at_once_each_see_their_own_mission(storyteller: Home, tmp_path: Path) -> None:
    done: dict[str, tuple[Turn, ScriptedModel]] = {}

    def run(host: Host, session_id: str) -> None:
        with scripted_model(delegates(session_id)) as model:
            done[session_id] = host(tmp_path / session_id, model.server.base_url, storyteller.path), model

    threads = [threading.Thread(target=run, args=asked) for asked in ((codex, "s-1"), (opencode, "s-2"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for session_id, (turn, model) in done.items():
        assert_delegated(storyteller, turn, model, session_id)
    assert len(done) == 2
    oracle.check(storyteller.database, storyteller.path / "AGENT_RUN_WORKSPACES")
