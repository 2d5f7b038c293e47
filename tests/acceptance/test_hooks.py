"""The ready-made hooks, run as an agent's host runs them: the very commands, with the host's JSON on stdin."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import json
import os
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import cysqlite
import pytest

from tests import ended, oracle
from tests.harness import BIN, ROOT, Home, forget_ledger, ok, shell
from tests.harness import ended as mission_ended
from vp_queue import missions, tools
from vp_queue.contracts import Status

HOOKS = ROOT / "examples" / "hooks"
SETTINGS = json.loads((HOOKS / "claude-code" / "settings.json").read_text())
READER = "claude-code"


def run(home: Home, event: str, **given: Any) -> str:
    """What the hook of this event printed; it ended well and said nothing else."""
    (entry,) = SETTINGS["hooks"][event]
    (hook,) = entry["hooks"]
    document = {
        "hook_event_name": event,
        "session_id": "0b9a7c1e-session",
        "transcript_path": "/tmp/transcript.jsonl",
        "cwd": "/",
        "permission_mode": "default",
        **given,
    }
    done = subprocess.run(
        ["sh", "-c", hook["command"]],
        input=json.dumps(document),
        capture_output=True,
        text=True,
        env={**home.environment, "PATH": f"{BIN}:{os.environ['PATH']}"},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def acknowledged(home: Home) -> int:
    with contextlib.closing(cysqlite.connect(str(home.database))) as connection:
        rows = connection.execute("SELECT acknowledged_seq FROM vp_inbox WHERE reader = ?", (READER,)).fetchall()
    return int(rows[0][0]) if rows else 0


def test_a_conversation_of_claude_code(home: Home) -> None:
    home.consumer()
    start = json.loads(run(home, "SessionStart", source="startup"))
    told = start["hookSpecificOutput"]["additionalContext"]
    assert 'vp_dispatch_mission(source_session_id="0b9a7c1e-session"' in told
    assert run(home, "UserPromptSubmit", prompt="Have it done.") == "", "nothing is new"

    mission_id = shell("echo done > $VP_WORK_PRODUCTS/a.txt", source_session_id="0b9a7c1e-session")["mission_id"]
    mission_ended(mission_id)
    stop = json.loads(run(home, "Stop", stop_hook_active=False))
    assert stop["decision"] == "block"
    assert mission_id in stop["reason"]
    assert '"status":"completed"' in stop["reason"]
    assert run(home, "Stop", stop_hook_active=True) == ""
    assert acknowledged(home) == missions.newest_seq()

    other = ended.mission(timedelta(0), Status.CANCELLED)
    assert run(home, "Stop", stop_hook_active=False) == "", "of another session: told at the next prompt"
    prompt = json.loads(run(home, "UserPromptSubmit", prompt="What is new?"))
    assert prompt["hookSpecificOutput"]["hookEventName"] == "UserPromptSubmit"
    assert other in prompt["hookSpecificOutput"]["additionalContext"]
    assert mission_id not in prompt["hookSpecificOutput"]["additionalContext"]
    assert run(home, "SessionEnd", reason="exit") == ""
    assert acknowledged(home) == missions.newest_seq()
    forget_ledger()
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [mission_id, other], rescued=True)


def test_without_a_ledger_nothing_is_said_and_nothing_made(home: Home) -> None:
    before = sorted(home.path.iterdir())
    for event in SETTINGS["hooks"]:
        assert run(home, event) == ""
    assert sorted(home.path.iterdir()) == before


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    with contextlib.closing(cysqlite.connect(str(database))) as outsider:
        outsider.execute("BEGIN IMMEDIATE")
        yield
        outsider.execute("ROLLBACK")


def test_while_the_ledger_is_locked_the_host_is_answered_and_the_acknowledgement_comes_later(home: Home) -> None:
    missions.ready()
    first = ended.mission(timedelta(0), Status.CANCELLED)
    assert first in run(home, "UserPromptSubmit")
    second = ended.mission(timedelta(0), Status.CANCELLED)
    with locked(home.database):
        assert second in run(home, "UserPromptSubmit")
    assert acknowledged(home) == 0
    assert run(home, "UserPromptSubmit") == ""
    assert acknowledged(home) == missions.newest_seq()


def test_a_broken_ledger_does_not_break_the_host(home: Home) -> None:
    home.database.write_bytes(b"no database at all\n" * 1_000)
    (hook,) = SETTINGS["hooks"]["UserPromptSubmit"][0]["hooks"]
    done = subprocess.run(
        ["sh", "-c", hook["command"]],
        input='{"hook_event_name": "UserPromptSubmit", "session_id": "s"}',
        capture_output=True,
        text=True,
        env={**home.environment, "PATH": f"{BIN}:{os.environ['PATH']}"},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("vp-queue: the inbox cannot be read now: LedgerUnavailable")
    assert done.stderr.count("\n") == 1


def test_a_host_that_never_writes_is_not_waited_for(home: Home) -> None:
    missions.ready()
    mission_id = ended.mission(timedelta(0), Status.CANCELLED)
    process = subprocess.Popen(
        [str(BIN / "vp"), "inbox", READER, "--format", "context"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=home.environment,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert mission_id in process.stdout.read().decode(), "as on a terminal: the plain block"
    assert process.wait(60) == 0
    process.stdin.close()


def test_a_host_that_stops_in_the_middle_of_its_json_is_left_alone_in_time(home: Home) -> None:
    missions.ready()
    ended.mission(timedelta(0), Status.CANCELLED)
    process = subprocess.Popen(
        [str(BIN / "vp"), "inbox", READER, "--format", "context"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=home.environment,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdin.write(b'{"hook_event_name": "UserPro')
    process.stdin.flush()
    assert process.stdout.read() == b""
    assert process.wait(60) == 0
    process.stdin.close()


def example() -> Any:
    """examples/hooks/agent_sdk.py as a module; it imports the SDK only to run an agent."""
    spec = importlib.util.spec_from_file_location("agent_sdk", HOOKS / "agent_sdk.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(hook: Any, event: str, **given: Any) -> dict[str, Any]:
    answer: dict[str, Any] = asyncio.run(hook({"hook_event_name": event, "session_id": "s-1", **given}, None, {}))
    return answer


def test_the_callables_for_the_agent_sdk(home: Home) -> None:
    missions.ready()
    (hook,) = example().hooks("sdk")["UserPromptSubmit"]
    assert call(hook, "UserPromptSubmit", prompt="hello") == {}
    mission_id = ended.mission(timedelta(0), Status.CANCELLED, source_session_id="s-1")
    stop = call(hook, "Stop", stop_hook_active=False)
    assert stop["decision"] == "block"
    assert mission_id in stop["reason"]
    assert ok(tools.vp_read_events(reader="sdk"))["events"], "not acknowledged before the agent went on"
    assert call(hook, "Stop", stop_hook_active=True) == {}
    assert ok(tools.vp_read_events(reader="sdk"))["events"] == []


def test_the_callables_of_a_new_process_tell_again_what_was_not_acknowledged(home: Home) -> None:
    missions.ready()
    mission_id = ended.mission(timedelta(0), Status.CANCELLED)
    for _ in range(2):
        (hook,) = example().hooks("sdk")["UserPromptSubmit"]
        assert mission_id in call(hook, "UserPromptSubmit")["hookSpecificOutput"]["additionalContext"]


def test_the_callables_fit_the_sdks_options() -> None:
    if importlib.util.find_spec("claude_agent_sdk") is None:
        pytest.skip("claude_agent_sdk not installed; make hosts installs what agents need")
    sdk = importlib.import_module("claude_agent_sdk")
    matchers = {event: [sdk.HookMatcher(hooks=found)] for event, found in example().hooks().items()}
    assert sdk.ClaudeAgentOptions(hooks=matchers).hooks == matchers
