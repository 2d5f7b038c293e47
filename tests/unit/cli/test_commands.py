"""The commands on a real ledger, without a worker: arguments, exit codes, JSON, what is printed."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import CODER, GENERAL, Home
from tests.unit.cli.driver import UNKNOWN, Cli
from vp_queue.cli.main import COMMANDS, vp

SLEEP = json.dumps({"command": ["sleep", "0"]})


def test_help_of_the_group_imports_no_library() -> None:
    code = (
        "import sys; sys.argv = ['vp', '--help']\n"
        "from vp_queue.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('pydantic', 'peewee', 'rich', 'huey', 'cysqlite') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_that_the_group_shows_is_the_commands_own(name: str) -> None:
    command = vp.get_command(None, name)  # type: ignore[arg-type]  no context is needed
    assert command is not None
    assert command.name == name
    assert command.help is not None
    assert command.help.splitlines()[0] == COMMANDS[name][1]


def test_dispatch_prints_the_tools_json_and_hands_everything_on(cli: Cli, tmp_path: Path) -> None:
    budget = tmp_path / "budget.json"
    budget.write_text('{"max_duration_seconds": 9}')
    code, answer = cli.json(
        *("dispatch", GENERAL, "x", "--type", "command", "--constraints", SLEEP, "--budget", f"@{budget}"),
        *("--key", "k", "--priority", "-5", "--max-attempts", "2", "--session", "s"),
        *("--not-before", "2099-01-01T00:00:00Z", "--expires-at", "2099-01-02T00:00:00+02:00"),
        *("--metadata", "a=1", "--metadata", "b=x=y"),
    )
    assert code == 0
    assert answer["ok"] is True
    assert answer["created"] is True
    mission = answer["mission"]
    assert mission["constraints"] == {"command": ["sleep", "0"]}
    assert mission["budget"] == {"max_duration_seconds": 9}
    assert (mission["priority"], mission["max_attempts"], mission["source_session_id"]) == (-5, 2, "s")
    assert mission["metadata"] == {"a": "1", "b": "x=y"}
    assert mission["expires_at"] == "2099-01-01T22:00:00Z"


def test_dispatch_reads_the_objective_from_standard_input(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe\n"))
    _, answer = cli.json("dispatch", GENERAL, "-")
    assert answer["mission"]["objective"] == "from a pipe\n"


@pytest.mark.parametrize(
    ("args", "exit_code", "error"),
    [
        (["get", "nonsense"], 2, "validation_error"),
        (["get", UNKNOWN], 3, "mission_not_found"),
        (["get"], 2, "validation_error"),
        (["list", "--limit", "0"], 2, "validation_error"),
        (["list", "--limit", "many"], 2, "validation_error"),
        (["list", "--status", "sleeping"], 2, "validation_error"),
        (["wait", UNKNOWN, "--timeout", "nan"], 2, "validation_error"),
        (["cancel", UNKNOWN], 3, "mission_not_found"),
        (["retry", UNKNOWN], 3, "mission_not_found"),
        (["artifacts", UNKNOWN], 3, "mission_not_found"),
        (["logs", UNKNOWN], 3, "mission_not_found"),
        (["logs", UNKNOWN, "--follow"], 3, "mission_not_found"),
        (["events", "--mission", UNKNOWN, "--follow"], 3, "mission_not_found"),
        (["dispatch", "vp.nobody", "x"], 3, "unknown_vp"),
        (["dispatch", GENERAL, ""], 2, "validation_error"),
        (["dispatch", GENERAL, "x", "--constraints", "{"], 2, "validation_error"),
        (["dispatch", GENERAL, "x", "--constraints", "[]"], 2, "validation_error"),
        (["dispatch", GENERAL, "x", "--constraints", "@/nowhere"], 2, "validation_error"),
        (["dispatch", GENERAL, "x", "--constraints", '{"nope": 1}'], 2, "validation_error"),
        (["dispatch", GENERAL, "x", "--constraints", '{"target_path": "/etc"}'], 4, "target_path_denied"),
        (["dispatch", GENERAL, "x", "--metadata", "novalue"], 2, "validation_error"),
        (["dispatch", GENERAL, "x", "--wait=soon"], 2, "validation_error"),
        (["dispatch", CODER, "x"], 4, "executor_unavailable"),
        (["pause", "vp.nobody"], 3, "unknown_vp"),
        (["resume", "vp.nobody"], 3, "unknown_vp"),
        (["worker", "vp.nobody"], 3, "unknown_vp"),
        (["schema", "vp_nothing"], 2, "validation_error"),
        (["up"], 2, "validation_error"),
        (["no-such-command"], 2, "validation_error"),
    ],
)
def test_errors_are_one_json_document_and_an_exit_code(cli: Cli, args: list[str], exit_code: int, error: str) -> None:
    code, answer = cli.json(*args)
    assert (code, answer["ok"], answer["error"]["code"]) == (exit_code, False, error)


def test_errors_for_people_go_to_stderr_and_cannot_play_tricks(cli: Cli) -> None:
    code, out, err = cli("get", UNKNOWN)
    assert (code, out) == (3, "")
    assert err.startswith("Error: ")
    _, _, err = cli("dispatch", "vp.\x1b[2Jnobody", "x")
    assert "\x1b" not in err


def test_a_disabled_vp_has_no_worker(cli: Cli, home: Home) -> None:
    config = home.path / "vp_queue.toml"
    config.write_text(config.read_text().replace(f'[vp."{CODER}"]', f'[vp."{CODER}"]\nenabled = false'))
    code, answer = cli.json("worker", CODER)
    assert (code, answer["error"]["code"]) == (4, "vp_disabled")


def test_a_broken_configuration_is_named_and_starts_nothing(cli: Cli, home: Home) -> None:
    (home.path / "vp_queue.toml").write_text('[vp."vp.general.primary"]\nconcurency = 1\n')
    code, answer = cli.json("up", "--detach")
    assert (code, answer["error"]["code"]) == (2, "configuration_error")
    assert "concurency" in answer["error"]["message"]


def test_wait_and_cancel_of_a_queued_mission(cli: Cli) -> None:
    mission_id = cli.dispatched()
    code, answer = cli.json("wait", mission_id, "--timeout", "0")
    assert (code, answer["timed_out"]) == (5, True)
    assert cli.json("cancel", mission_id, "--reason", "why")[1]["changed"] is True
    assert cli.json("cancel", mission_id)[1]["changed"] is False
    code, answer = cli.json("wait", mission_id)
    assert (code, answer["mission"]["status"]) == (1, "cancelled")
    assert cli("get", mission_id)[0] == 0
    code, answer = cli.json("retry", mission_id, "--guidance", "otherwise", "--key", "again")
    assert (code, answer["mission"]["retry_of"]) == (0, mission_id)
    assert cli.json("retry", mission_id, "--guidance", "otherwise", "--key", "again")[1]["created"] is False


def test_dispatch_wait_gives_up_in_time_and_takes_a_value_or_none(cli: Cli) -> None:
    code, answer = cli.json("dispatch", "--wait", "0.05", GENERAL, "x")
    assert (code, answer["timed_out"], answer["created"]) == (5, True, True)
    code, out, _ = cli("dispatch", "--wait=0", GENERAL, "x")
    assert code == 5
    assert "mission.dispatched" in out
    # Without a value before another argument: the mission of this key has ended already.
    mission_id = cli.dispatched("--key", "k")
    cli("cancel", mission_id)
    code, answer = cli.json("dispatch", "--wait", GENERAL, "an objective", "--key", "k")
    assert (code, answer["mission"]["status"], answer["created"]) == (1, "cancelled", False)


def test_list_filters_and_pages(cli: Cli) -> None:
    first, second = cli.dispatched("--session", "s"), cli.dispatched("--session", "s")
    cli("cancel", first)
    _, answer = cli.json("list", "--status", "cancelled", "--status", "failed", "--vp", GENERAL)
    assert [m["mission_id"] for m in answer["missions"]] == [first]
    _, answer = cli.json("list", "--session", "s", "--limit", "1")
    assert [m["mission_id"] for m in answer["missions"]] == [second]
    _, answer = cli.json("list", "--session", "s", "--limit", "1", "--cursor", answer["next_cursor"])
    assert [m["mission_id"] for m in answer["missions"]] == [first]
    _, out, _ = cli("list")
    assert first in out
    assert second in out
    assert "cancelled: 1" in out


def test_hostile_objectives_are_harmless_on_a_terminal(cli: Cli) -> None:
    _, answer = cli.json("dispatch", GENERAL, "\x1b]0;owned\x07[red]hi[/red]\x1b[2J\u202eevil")
    mission_id = answer["mission"]["mission_id"]
    for args in (["get", mission_id], ["list"], ["cancel", mission_id], ["events"]):
        _, out, _ = cli(*args)
        assert "\x1b" not in out
        assert "\u202e" not in out
    assert "[red]hi[/red]" in cli("get", mission_id)[1]


def test_events_page_and_filter(cli: Cli) -> None:
    first, second = cli.dispatched(), cli.dispatched()
    _, answer = cli.json("events", "--since", "0", "--limit", "1")
    assert [event["mission_id"] for event in answer["events"]] == [first]
    _, answer = cli.json("events", "--since", str(answer["next_after"]))
    assert [event["mission_id"] for event in answer["events"]] == [second]
    _, answer = cli.json("events", "--type", "mission.cancelled", "--since", "0")
    assert answer["events"] == []
    cli("cancel", first)
    _, answer = cli.json("events", "--type", "mission.cancelled", "--type", "mission.failed")
    assert [event["mission_id"] for event in answer["events"]] == [first]
    _, answer = cli.json("events", "--mission", first)
    assert {event["mission_id"] for event in answer["events"]} == {first}


def test_logs_of_a_mission_that_has_not_started(cli: Cli) -> None:
    mission_id = cli.dispatched()
    code, answer = cli.json("logs", mission_id)
    assert (code, answer["attempt"], answer["log"]) == (0, None, "")
    assert cli.json("logs", mission_id, "--attempt", "3")[0] == 2


def test_vps_pause_resume(cli: Cli) -> None:
    code, answer = cli.json("pause", GENERAL, "--reason", "quota \x1b[2J")
    assert (code, answer["ok"], answer["vp"]["paused"]) == (0, True, True)
    _, out, _ = cli("vps")
    assert "paused" in out
    assert "\x1b" not in out
    assert cli.json("resume", GENERAL)[1]["vp"]["paused"] is False
    assert {each["vp_id"] for each in cli.json("vps")[1]["vps"]} == {GENERAL, CODER}


def test_schema_is_the_tools_own(cli: Cli) -> None:
    _, answer = cli.json("schema", "vp_wait_mission")
    assert {"tool", "description", "arguments", "answer", "error"} <= answer.keys()
    assert "timeout_seconds" in answer["arguments"]["properties"]
    assert "vp_wait_mission" in {each["tool"] for each in cli.json("schema")[1]["tools"]}


def test_init_makes_everything_private_and_keeps_what_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli, made = Cli(capsys), tmp_path / "new" / "home"
    monkeypatch.setenv("VP_HOME", str(made))
    code, answer = cli.json("init")
    assert (code, answer["created"]) == (0, ["configuration", "token", "ledger"])
    token = (made / "token").read_text()
    assert len(token.strip()) >= 43
    for name, mode in (("", 0o700), ("token", 0o600), ("vp_queue.toml", 0o600), ("vp_state.db", 0o600)):
        assert stat.S_IMODE((made / name).stat().st_mode) == mode
    _, out, _ = cli("init")
    assert token.strip() not in out
    assert cli.json("init")[1]["created"] == []
    assert (made / "token").read_text() == token
    assert cli.json("migrate")[1]["applied"] == []


@pytest.mark.parametrize("command", ["doctor", "status", "down"])
def test_looking_at_nothing_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("VP_HOME", str(tmp_path / "absent"))
    code, answer = Cli(capsys).json(command)
    assert not (tmp_path / "absent").exists()
    assert code == (1 if command == "doctor" else 0)
    if command == "doctor":
        home = next(check for check in answer["checks"] if check["name"] == "VP_HOME")
        assert (home["ok"], home["fix"]) == (False, "Run: vp init")


def test_doctor_finds_what_is_wrong_and_passes_what_is_not(cli: Cli, home: Home) -> None:
    cli("init")
    checks = {check["name"]: check for check in cli.json("doctor")[1]["checks"]}
    assert checks["VP_HOME"]["ok"] is True
    assert checks["journal mode"] == {"name": "journal mode", "ok": True, "detail": "wal", "fix": None}
    assert checks["schema"]["ok"] is True
    assert checks[GENERAL]["ok"] is True
    assert checks[CODER]["ok"] is None  # commands of missions only
    assert checks["supervisord"]["ok"] is None
    home.path.chmod(0o755)
    os.chmod(home.path / "token", 0o644)
    code, answer = cli.json("doctor")
    checks = {check["name"]: check for check in answer["checks"]}
    assert (code, checks["VP_HOME"]["ok"], checks["token"]["ok"]) == (1, False, False)


def test_an_unexpected_failure_is_an_internal_error_with_an_id(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vp_queue.operations.supervision.report", lambda _: 1 / 0)
    code, answer = cli.json("status")
    assert (code, answer["error"]["code"]) == (70, "internal_error")
    assert answer["error"]["details"]["error_id"] in answer["error"]["message"]


def test_a_reader_that_leaves_early_is_no_error(home: Home) -> None:
    done = subprocess.run(
        f"{sys.executable} -m vp_queue.cli.main schema vp_dispatch_mission | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
