"""Every error a person can cause says what to do next, and ends with the exit code of the contract."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import CODER, GENERAL, Home, ended, shell
from tests.unit.cli.driver import UNKNOWN, Cli, on_terminal
from vp_queue.cli import following
from vp_queue.contracts import limits
from vp_queue.ledger import database

DISPATCH = ("dispatch", GENERAL, "x")


def says(printed: str, *steps: str) -> None:
    """What was printed holds each of these steps, and no name that only tools have."""
    flat = " ".join(printed.split())
    for step in steps:
        assert step in flat, printed
    for foreign in ("vp_list_", "vp_get_", "source_session_id", "idempotency_key", "Traceback"):
        assert foreign not in flat, printed


@pytest.mark.parametrize(
    ("args", "code", "step"),
    [
        # commands and options
        (["dispach"], 2, "Did you mean: vp dispatch?"),
        (["help"], 2, "Did you mean: vp --help?"),
        (["xyzzy"], 2, "Try 'vp --help'"),
        (["model", "ftch"], 2, "Did you mean 'fetch'"),
        (["list", "--stauts", "failed"], 2, "Did you mean '--status'"),
        (["get"], 2, "Try 'vp get --help'"),
        (["completion", "tcsh"], 2, "'bash', 'zsh', 'fish'"),
        (["artifacts", UNKNOWN, "--force"], 2, "--save DIR"),
        # VPs
        (["dispatch", "vp.general.primry", "x"], 3, "did you mean vp.general.primary"),
        (["dispatch", "vp.nobody", "x"], 3, "Next: vp vps"),
        (["pause", "vp.nobody"], 3, "Next: vp vps"),
        (["worker", "vp.nobody"], 3, "Next: vp vps"),
        (["dispatch", CODER, "x"], 4, "Next: vp doctor"),
        # missions
        *((([command, UNKNOWN]), 3, "Next: vp list") for command in ("get", "wait", "cancel", "retry", "logs")),
        (["artifacts", UNKNOWN, "a"], 3, "Next: vp list"),
        (["artifacts", UNKNOWN, "--save", "x"], 3, "Next: vp list"),
        (["events", "--mission", UNKNOWN], 3, "Next: vp list"),
        (["get", "nonsense"], 2, "a mission's id looks like m-"),
        (["artifacts", "nonsense", "a"], 2, "a mission's id looks like m-"),
        # arguments
        ([*DISPATCH, "more", "words"], 2, 'vp dispatch VP_ID "Write a poem"'),
        (["dispatch", GENERAL, " "], 2, "OBJECTIVE: must not be empty"),
        ([*DISPATCH, "--key", ""], 2, "--key: must not be empty"),
        ([*DISPATCH, "--session", "x" * 300], 2, "--session: "),
        ([*DISPATCH, "--priority", "1000"], 2, "Next: vp dispatch --help"),
        ([*DISPATCH, "--budget", "{"], 2, "'{\"max_duration_seconds\": 600}', or @file"),
        ([*DISPATCH, "--budget", "[]"], 2, "'{\"max_duration_seconds\": 600}'"),
        ([*DISPATCH, "--constraints", "@/nowhere"], 2, "No such file"),
        ([*DISPATCH, "--constraints", '{"nope": 1}'], 2, "Next: vp schema vp_dispatch_mission"),
        ([*DISPATCH, "--constraints", '{"target_path": "/etc"}'], 4, "allowed_target_roots"),
        ([*DISPATCH, "--metadata", "novalue"], 2, "KEY=VALUE"),
        ([*DISPATCH, "--not-before", "tomorrow"], 2, "--not-before: must be an RFC 3339 time such as 2026-"),
        ([*DISPATCH, "--not-before", "2026-11-22T10:00:00"], 2, "add Z or +00:00"),
        ([*DISPATCH, "--expires-at", "2020-01-01T00:00:00Z"], 2, '--expires-at "$(date'),
        ([*DISPATCH, "--wait=soon"], 2, "such as 600"),
        ([*DISPATCH, "--wait", "1h"], 2, "Try 'vp dispatch --help'"),
        (["wait", UNKNOWN, "--timeout", "nan"], 2, "give 0 to 3600 seconds"),
        (["list", "--limit", "0"], 2, "--limit: Input should be greater than or equal to 1"),
        (["list", "--status", "sleeping"], 2, "'queued', 'running'"),
        (["events", "--type", "mission.slept"], 2, "'mission.failed'"),
        (["schema", "vp_nothing"], 2, "Next: vp schema"),
    ],
)
def test_a_mistake_names_the_way_on(cli: Cli, home: Home, args: list[str], code: int, step: str) -> None:
    if step == "Next: vp doctor":
        config = home.path / "vp_queue.toml"
        config.write_text(config.read_text().replace("allow_commands = true", ""))
    printed = cli(*args)
    assert printed[:2] == (code, "")
    if "vp_" not in step and args != ["schema", "vp_nothing"]:
        says(printed[2], step)
    assert step in " ".join(printed[2].split())


def test_the_json_of_a_usage_error_names_the_way_on_too(cli: Cli) -> None:
    for args, step in ((["get"], "See: vp get --help"), (["dispach"], "vp dispatch")):
        code, answer = cli.json(*args)
        assert (code, answer["error"]["code"]) == (2, "validation_error")
        assert step in answer["error"]["message"]


def test_json_is_the_tools_own_words(cli: Cli) -> None:
    _, answer = cli.json("get", UNKNOWN)
    assert "vp_list_missions" in answer["error"]["message"]


# --- states of missions -------------------------------------------------------------------------


def test_a_mission_that_has_ended(cli: Cli, home: Home) -> None:
    home.consumer()
    done = shell("echo made > work_products/a.txt")["mission_id"]
    failed = shell("exit 3")["mission_id"]
    ended(done)
    ended(failed)
    code, _, printed = cli("retry", done)
    assert code == 4
    says(printed, "Next: dispatch it as a new mission: vp dispatch")
    code, _, printed = cli("artifacts", done, "b.txt")
    assert code == 3
    says(printed, f"Next: vp artifacts {done}")
    code, _, printed = cli("logs", done, "--attempt", "3")
    assert code == 2
    says(printed, "it has had 1", f"Next: vp get {done}")
    code, _, printed = cli("logs", done)
    assert code == 0
    says(printed, "printed nothing", f"vp get {done}")
    code, out, _ = cli("artifacts", failed)
    assert code == 0
    says(out, "No artifacts: the mission is failed.", f"vp get {failed}")
    shutil.rmtree(home.workspace(done))
    code, _, printed = cli("logs", done)
    assert code == 3
    says(printed, f"Next: vp get {done}")
    code, _, printed = cli("artifacts", done, "a.txt")
    assert code == 3
    says(printed, "is gone", f"Next: vp artifacts {done}")


def test_a_mission_that_has_not_started(cli: Cli) -> None:
    mission_id = cli.dispatched("--key", "k")
    for args, code, steps in (
        (["logs", mission_id], 0, [f"vp logs {mission_id} --follow", "vp up --detach"]),
        (["artifacts", mission_id], 0, [f"vp wait {mission_id}"]),
        (["artifacts", mission_id, "a"], 3, [f"Next: vp wait {mission_id}"]),
        (["retry", mission_id], 4, [f"vp wait {mission_id}, or vp cancel {mission_id}"]),
        (["wait", mission_id, "--timeout", "0"], 5, [f"vp wait {mission_id} --timeout 3600", "vp up --detach"]),
        (["dispatch", GENERAL, "another", "--key", "k"], 4, [f"Next: vp get {mission_id}"]),
    ):
        got, out, err = cli(*args)
        assert got == code
        says(out + err, *steps)


def test_a_file_that_is_there_already(cli: Cli, home: Home, tmp_path: Path) -> None:
    home.consumer()
    done = shell("echo made > work_products/a.txt")["mission_id"]
    ended(done)
    assert cli("artifacts", done, "--save", str(tmp_path / "out"))[0] == 0
    code, _, printed = cli("artifacts", done, "--save", str(tmp_path / "out"))
    assert code == 2
    says(printed, "a.txt exists", "--force")
    assert cli("artifacts", done, "--save", str(tmp_path / "out"), "--force")[0] == 0
    (tmp_path / "file").write_text("")
    code, _, printed = cli("artifacts", done, "--save", str(tmp_path / "file" / "x"))
    assert code == 2
    says(printed, "cannot be written", "Next: vp artifacts --help")


# --- hints --------------------------------------------------------------------------------------


def test_a_dispatch_that_nobody_will_take_says_so(cli: Cli, home: Home) -> None:
    code, out, err = cli("dispatch", GENERAL, "x")
    assert code == 0
    assert err == f"Hint: no worker of {GENERAL} is running; start it: vp up --detach\n"
    assert "Follow: vp wait m-" in out
    assert cli("dispatch", GENERAL, "x", "--json")[2] == ""
    assert cli("dispatch", GENERAL, "x", "--not-before", "2099-01-01T00:00:00Z")[2] == ""  # it waits for that
    cli("pause", GENERAL)
    assert f"vp resume {GENERAL}" in cli("dispatch", GENERAL, "x")[2]
    cli("resume", GENERAL)
    home.consumer()
    assert cli("dispatch", GENERAL, "x")[2] == ""


def test_waiting_for_nobody_is_explained_after_a_moment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "HINT_AFTER_SECONDS", 0.05)
    code, _, err = cli("dispatch", GENERAL, "x", "--wait", "0.3")
    assert code == 5
    assert err.count("start it: vp up --detach") == 1


def test_on_a_terminal_too(home: Home) -> None:
    code, printed = on_terminal("dispatch", GENERAL, "x", "--wait", "4")
    assert code == 5
    assert "start it: vp up --detach" in printed
    assert "Still queued; it goes on." in printed


def test_a_home_that_was_not_set_up(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VP_HOME", str(tmp_path / "other"))
    code, out, err = cli("list")
    assert code == 0
    says(out, "vp dispatch")
    says(err, "vp init", "VP_HOME")
    code, _, err = cli("get", UNKNOWN)
    assert code == 3
    says(err, "Next: vp init", "VP_HOME")
    assert "vp init" in cli("status")[1]


# --- the installation ---------------------------------------------------------------------------


def test_a_broken_configuration_and_a_home_that_cannot_be(
    cli: Cli, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.path / "vp_queue.toml").write_text("lease_secnds = 3\n")
    for args in (["list"], ["up", "--detach"], ["doctor"]):
        code, _, printed = cli(*args)
        assert code == 2
        says(printed, "vp_queue.toml:1", "Next: correct it, then: vp doctor")
    monkeypatch.setenv("VP_HOME", "/proc/nowhere")
    code, _, printed = cli("list")
    assert code == 2
    says(printed, "VP_HOME", "Next: correct it, then: vp doctor")


def test_a_disabled_vp(cli: Cli, home: Home) -> None:
    config = home.path / "vp_queue.toml"
    config.write_text(config.read_text().replace(f'[vp."{CODER}"]', f'[vp."{CODER}"]\nenabled = false'))
    for args in (["worker", CODER], ["dispatch", CODER, "x"]):
        code, _, printed = cli(*args)
        assert code == 4
        says(printed, "enabled = true", "vp up --detach")


def test_a_ledger_that_is_busy_or_no_ledger(cli: Cli, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("list")
    monkeypatch.setattr(limits, "WRITE_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(database, "BEGIN_WAIT_SECONDS", 0.1)
    database.close_thread_connection()
    import cysqlite

    holder = cysqlite.connect(str(home.database))
    holder.execute("BEGIN IMMEDIATE")
    try:
        code, _, printed = cli("dispatch", GENERAL, "x")
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    assert code == 75
    says(printed, "write lock", "Next: try again in 1 s; if it lasts: vp doctor")
    monkeypatch.setenv("VP_DATABASE_URL", f"sqlite:///{home.path / 'vp_queue.toml'}")
    code, _, printed = cli("list")
    assert code == 75
    says(printed, "is not a SQLite database", "Next: vp doctor")


def test_a_fault_of_ours_is_told_as_one(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vp_queue.operations.supervision.report", lambda _: 1 / 0)
    code, _, printed = cli("status")
    assert code == 70
    assert "error id" in printed
    assert "Next: vp doctor" in printed


def test_what_was_mistyped_cannot_play_tricks_either(cli: Cli) -> None:
    for args in (["\x1b[2Jx"], ["get", "\x1b[2Jx"], ["list", "--status", "\x1b[2Jx"], ["get", "--\x1b[2Jx"]):
        code, _, printed = cli(*args)
        assert code == 2
        assert "\x1b" not in printed


def test_what_standard_input_brings_must_be_text(home: Home) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vp_queue.cli.main", "dispatch", GENERAL, "-"],
        input=b"\xff\xfe",
        env=home.environment,
        capture_output=True,
    )
    assert done.returncode == 2
    assert b"OBJECTIVE" in done.stderr


def test_an_encoding_without_dashes_is_no_crash(home: Home) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vp_queue.cli.main", "vps"],
        env={**home.environment, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert GENERAL in done.stdout.decode()
