"""Completion, in a real bash: commands, options and values; it only looks, and is silent when there is nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness import BIN, CODER, GENERAL, Home, ended, shell
from tests.unit.cli.driver import Cli

DRIVE = """
PATH={bin}:$PATH
source <(vp completion bash)
complete -p vp | grep -q _vp_completion || echo "not registered"
COMP_WORDS=({words}); COMP_CWORD={at}; COMPREPLY=()
compopt() {{ echo "compopt $*"; }}
_vp_completion vp
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(home: Home, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    script = DRIVE.format(bin=BIN, words=" ".join(words), at=len(words) - 1)
    done = subprocess.run(
        [shutil.which("bash") or "bash", "--norc", "-c", script], env=home.environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_commands_and_options(home: Home) -> None:
    assert {"list", "dispatch", "artifacts", "model"} <= set(completed(home, "vp", "''"))
    assert completed(home, "vp", "artif") == ["artifacts"]
    assert completed(home, "vp", "model", "f") == ["fetch"]
    assert {"--budget", "--wait", "--json"} <= set(completed(home, "vp", "dispatch", "--"))
    assert completed(home, "vp", "list", "--sta") == ["--status"]


def test_values(cli: Cli, home: Home) -> None:
    first, second = cli.dispatched(), cli.dispatched()
    cli("cancel", first)
    assert completed(home, "vp", "dispatch", "vp.") == [GENERAL, CODER]
    assert completed(home, "vp", "list", "--vp", "vp.c") == [CODER]
    assert completed(home, "vp", "get", "''") == [second, first]
    assert completed(home, "vp", "cancel", "m-") == [second]
    assert completed(home, "vp", "retry", "m-") == [first]
    assert completed(home, "vp", "events", "--mission", second[:-2]) == [second]
    assert completed(home, "vp", "list", "--status", "n") == ["needs_input"]
    assert completed(home, "vp", "list", "--status", "=", "n") == ["needs_input"]  # --status=n, as bash splits it
    assert completed(home, "vp", "events", "--type", "vp.p") == ["vp.paused"]
    assert completed(home, "vp", "schema", "vp_w") == ["vp_wait_mission"]
    assert completed(home, "vp", "dispatch", GENERAL, "x", "--type", "c") == ["command"]
    assert completed(home, "vp", "artifacts", first, "--save", "d") == ["compopt", "-o", "dirnames"]


def test_artifacts_of_the_mission_but_no_name_that_a_shell_would_act_on(home: Home) -> None:
    home.consumer()
    made = shell("cd work_products; mkdir sub; touch sub/b.txt 'a b' '$(touch pwned)' \"it's\" a.txt")["mission_id"]
    ended(made)
    assert completed(home, "vp", "artifacts", "m-") == [made]
    assert completed(home, "vp", "artifacts", made, "''") == ["a.txt", "sub/b.txt"]


def test_nothing_is_made_and_nothing_said_where_there_is_nothing(home: Home, tmp_path: Path) -> None:
    empty = Home(tmp_path / "absent", tmp_path)
    assert completed(empty, "vp", "get", "''") == []
    assert completed(empty, "vp", "dispatch", "vp.g") == [GENERAL]  # built in
    assert not empty.path.exists()
    assert completed(home, "vp", "artifacts", "m-0", "''") == []
    assert not home.database.exists()
    (home.path / "vp_queue.toml").write_text("not TOML")
    assert completed(home, "vp", "get", "''") == []
    assert completed(home, "vp", "dispatch", "''") == []


def test_a_ledger_that_needs_a_migration_is_left_alone(cli: Cli, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from vp_queue.cli import completing
    from vp_queue.ledger import database, schema

    cli.dispatched()
    database.close_thread_connection()
    monkeypatch.setattr(schema, "pending", lambda *_: ["0099_next"])
    before = home.database.stat()
    assert completing.missions()(None, None, "") == []  # type: ignore[arg-type]  neither is looked at
    assert home.database.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script_and_an_installation_in_the_help(cli: Cli, shell_name: str) -> None:
    code, out, _ = cli("completion", shell_name)
    assert code == 0
    assert "_VP_COMPLETE" in out
    assert cli.json("completion", shell_name)[1]["script"] + "\n" == out
    assert f"vp completion {shell_name}" in cli("completion", "--help")[1]


def test_descriptions_cannot_break_the_protocol(
    home: Home, cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mission_id = cli.dispatched(objective="first\nplain\n\x1b[2Jsecond")
    done = subprocess.run(
        [BIN / "vp"],
        env={**home.environment, "_VP_COMPLETE": "zsh_complete", "COMP_WORDS": "vp get m", "COMP_CWORD": "2"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["plain", mission_id, f"queued {GENERAL}: first plain second"]
