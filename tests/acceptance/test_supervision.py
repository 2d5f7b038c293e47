"""`vp up`, `vp status`, `vp down` with a real supervisord, and missions through the CLI from end to end."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import BIN, CODER, GENERAL, Home, alive_with_environment, home_at, ok, shell, until
from vp_queue import clock, config, tools
from vp_queue.operations import supervision
from vp_queue.operations.programs import TEMPLATE, generated_programs, place

EXTRA = '\n[vp."vp.extra"]\ntitle = "Extra"\nexecutor = "command"\nallow_commands = true\n'


def vp(home: Home, *args: str, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    """The real console script."""
    return subprocess.run(
        [BIN / "vp", *args],
        env=home.environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


def answer(home: Home, *args: str) -> dict[str, Any]:
    """What it says with --json, which must be a success."""
    done = vp(home, *args, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return ok(json.loads(done.stdout))


def states(home: Home) -> dict[str, str]:
    """Programs and their states."""
    return {program["name"]: program["state"] for program in answer(home, "status")["programs"]}


def pids(home: Home) -> dict[str, int]:
    """supervisord and its running programs."""
    status = answer(home, "status")
    found = {program["name"]: program["pid"] for program in status["programs"] if program["pid"]}
    return {**found, "supervisord": status["supervisord"]["pid"]}


def clean_up(home: Home) -> None:
    """End what `vp up` left, by pid if need be."""
    vp(home, "down")
    short = place(home.path).short
    pidfile = place(home.path).run / "supervisord.pid"
    if pidfile.exists():
        pid = int(pidfile.read_text())
        if b"supervisor" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    if short is not None:
        shutil.rmtree(short, ignore_errors=True)


@pytest.fixture
def supervised(home: Home) -> Iterator[Home]:
    yield home
    clean_up(home)


def test_up_status_a_mission_and_down(supervised: Home) -> None:
    started = answer(supervised, "up", "--detach")
    assert started["started"] is True
    assert states(supervised) == {"keeper": "RUNNING", GENERAL: "RUNNING", CODER: "RUNNING"}
    before = pids(supervised)

    done = vp(supervised, "dispatch", GENERAL, "a poem", "--wait", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mission.completed" in done.stdout
    assert "poem.md" in done.stdout
    mission_id = ok(tools.vp_list_missions())["missions"][0]["mission_id"]
    assert vp(supervised, "artifacts", mission_id, "poem.md").stdout == "Roses are red\n"

    saved = supervised.path.parent / "saved"
    assert vp(supervised, "artifacts", mission_id, "--save", str(saved)).returncode == 0
    assert (saved / "poem.md").read_text() == "Roses are red\n"
    (saved / "poem.md").write_text("mine")
    assert vp(supervised, "artifacts", mission_id, "--save", str(saved)).returncode == 2
    assert (saved / "poem.md").read_text() == "mine"
    assert vp(supervised, "artifacts", mission_id, "--save", str(saved), "--force").returncode == 0
    assert (saved / "poem.md").read_text() == "Roses are red\n"
    assert os.listdir(saved) == ["poem.md"]

    stopped = answer(supervised, "down")
    assert (stopped["was_running"], stopped["stopped"]) == (True, sorted(["keeper", GENERAL, CODER]))
    assert all(clock.process_start_ticks(pid) is None for pid in before.values())
    status = answer(supervised, "status")
    assert (status["supervisord"], status["programs"]) == (None, [])
    assert answer(supervised, "down")["was_running"] is False


def test_logs_follow_a_mission_and_dispatch_says_failed(supervised: Home) -> None:
    answer(supervised, "up", "--detach")
    talk = json.dumps({"command": ["sh", "-c", "for i in 1 2 3; do printf 'line %s \\033[31m\\n' $i; done; exit 3"]})
    done = vp(supervised, "dispatch", CODER, "talk", "--type", "command", "--constraints", talk, "--wait")
    assert done.returncode == 1
    assert "exit_nonzero" in done.stdout
    mission_id = ok(tools.vp_list_missions())["missions"][0]["mission_id"]
    followed = vp(supervised, "logs", mission_id, "--follow")
    assert (followed.returncode, followed.stdout) == (0, "line 1 \nline 2 \nline 3 \n")
    assert vp(supervised, "logs", mission_id, "--tail", "1").stdout == "line 3 \n"


def test_interrupting_the_wait_leaves_the_mission_alone(home: Home) -> None:
    waiting = home.start("vp", "dispatch", GENERAL, "x", "--wait")
    until(lambda: "mission.dispatched" in home.logs(), "the wait began")
    os.kill(waiting.pid, signal.SIGINT)
    assert waiting.wait(20) == 130
    mission = ok(tools.vp_list_missions())["missions"][0]
    assert (mission["status"], mission["cancel_requested"]) == ("queued", False)
    assert f"vp cancel {mission['mission_id']}" in home.logs()


def test_save_does_not_leave_its_folder_through_a_link(supervised: Home) -> None:
    answer(supervised, "up", "--detach")
    nested = {"command": ["sh", "-c", "mkdir $VP_WORK_PRODUCTS/sub; echo new > $VP_WORK_PRODUCTS/sub/file"]}
    done = vp(
        supervised, "dispatch", CODER, "x", "--type", "command", "--constraints", json.dumps(nested), "--wait", "60"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    mission_id = ok(tools.vp_list_missions())["missions"][0]["mission_id"]
    outside, saved = supervised.path.parent / "outside", supervised.path.parent / "saved"
    outside.mkdir()
    saved.mkdir()
    (outside / "file").write_text("old")
    (saved / "sub").symlink_to(outside)
    assert vp(supervised, "artifacts", mission_id, "--save", str(saved), "--force").returncode == 2
    assert (outside / "file").read_text() == "old"
    (saved / "sub").unlink()
    (saved / "sub").mkdir()
    (saved / "sub" / "file").symlink_to(outside / "file")
    assert vp(supervised, "artifacts", mission_id, "--save", str(saved), "--force").returncode == 0
    assert (outside / "file").read_text() == "old"
    assert (saved / "sub" / "file").read_text() == "new\n"


def test_up_again_follows_the_configuration(supervised: Home) -> None:
    answer(supervised, "up", "--detach")
    before = pids(supervised)
    unchanged = answer(supervised, "up", "--detach")
    assert unchanged["started"] is False
    assert not any(unchanged["changes"].values())
    assert pids(supervised) == before

    supervised.configure(more=EXTRA)
    assert answer(supervised, "up", "--detach")["changes"]["added"] == ["vp.extra"]
    assert states(supervised)["vp.extra"] == "RUNNING"
    ran = ok(
        tools.vp_dispatch_mission(
            vp_id="vp.extra", objective="x", mission_type="command", constraints={"command": ["true"]}
        )
    )
    waited = ok(tools.vp_wait_mission(mission_id=ran["mission"]["mission_id"], timeout_seconds=30))
    assert waited["mission"]["status"] == "completed"

    text = (supervised.path / "vp_queue.toml").read_text()
    disabled = text.replace(f'[vp."{CODER}"]', f'[vp."{CODER}"]\nenabled = false').replace(EXTRA, "")
    (supervised.path / "vp_queue.toml").write_text(disabled)
    changes = answer(supervised, "up", "--detach")["changes"]
    assert (changes["removed"], changes["restarted"]) == (["vp.extra"], [CODER])
    assert states(supervised) == {"keeper": "RUNNING", GENERAL: "RUNNING", CODER: "STOPPED"}
    assert pids(supervised)[GENERAL] == before[GENERAL]


def test_up_starts_what_stopped(supervised: Home) -> None:
    answer(supervised, "up", "--detach")
    daemon = supervision.connect(place(supervised.path).socket)
    assert daemon is not None
    daemon.stop(GENERAL)
    until(lambda: states(supervised)[GENERAL] == "STOPPED", "the program stopped")
    assert answer(supervised, "up", "--detach")["changes"]["started"] == [GENERAL]
    assert states(supervised)[GENERAL] == "RUNNING"


def test_a_killed_program_and_a_killed_supervisord_come_back(supervised: Home) -> None:
    answer(supervised, "up", "--detach")
    first = pids(supervised)
    os.kill(first["keeper"], signal.SIGKILL)
    until(lambda: pids(supervised).get("keeper") not in (None, first["keeper"]), "another keeper")
    mission_id = shell("sleep 600")["mission_id"]
    until(lambda: alive_with_environment("VP_MISSION_ID", mission_id), "its program runs")
    before = pids(supervised)
    os.kill(before["supervisord"], signal.SIGKILL)
    # What it started ends with it, in good order: no consumer is left that no `vp down` knows.
    until(lambda: not any(clock.process_start_ticks(pid) for pid in before.values()), "its programs ended")
    assert alive_with_environment("VP_MISSION_ID", mission_id) == []
    mission = ok(tools.vp_get_mission(mission_id=mission_id))["mission"]
    assert (mission["status"], mission["attempts_charged"]) == ("queued", 0)
    again = answer(supervised, "up", "--detach")
    assert again["started"] is True
    assert again["supervisord"]["pid"] != first["supervisord"]
    ok(tools.vp_cancel_mission(mission_id=mission_id))


def test_four_at_once_start_one_supervisord(supervised: Home) -> None:
    ups = [supervised.start("vp", "up", "--detach", "--json") for _ in range(4)]
    assert [up.wait(90) for up in ups] == [0, 0, 0, 0], supervised.logs()
    answers = [json.loads(path.read_text()) for path in sorted(supervised.path.glob("test-vp-*.log"))]
    assert sorted(each["started"] for each in answers) == [False, False, False, True]
    assert len({each["supervisord"]["pid"] for each in answers}) == 1


def test_the_foreground_ends_everything_on_interrupt(supervised: Home) -> None:
    up = supervised.start("vp", "up")
    until(lambda: list(states(supervised).values()) == ["RUNNING"] * 3, "all programs running")
    before = pids(supervised)
    assert before["supervisord"] == up.pid
    os.kill(up.pid, signal.SIGINT)
    assert up.wait(60) == 0
    assert all(clock.process_start_ticks(pid) is None for pid in before.values())


def test_a_program_that_does_not_come_up_is_reported_with_its_log(supervised: Home) -> None:
    supervised.configure(more='\n[vp."vp.extra"]\ntitle = "Extra"\nexecutor = "command"\n')
    text = (supervised.path / "vp_queue.toml").read_text()
    (supervised.path / "vp_queue.toml").write_text('imports = ["no_such_module_of_anyone"]\n' + text)
    done = vp(supervised, "up", "--detach", "--json")
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 70
    assert "no_such_module_of_anyone" in error["message"]
    assert error["details"]["program"].startswith("vp.")


def test_a_long_and_unusual_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with home_at(tmp_path / "a b%c [x];" / ("long" * 30)) as home:
        monkeypatch.setenv("VP_HOME", str(home.path))
        short = place(home.path).short
        assert short is not None
        try:
            answer(home, "up", "--detach")
            assert states(home) == {"keeper": "RUNNING", GENERAL: "RUNNING", CODER: "RUNNING"}
            assert short.stat().st_mode & 0o777 == 0o700
            assert (home.path / "logs" / "keeper.log").exists()
            answer(home, "down")
        finally:
            clean_up(home)


def test_a_short_folder_somebody_else_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with home_at(tmp_path / ("long" * 30)) as home:
        monkeypatch.setenv("VP_HOME", str(home.path))
        short = place(home.path).short
        assert short is not None
        short.symlink_to(tmp_path)
        try:
            done = vp(home, "up", "--detach", "--json")
            assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (2, "configuration_error")
        finally:
            short.unlink()


def test_the_configuration_is_as_promised(home: Home) -> None:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read(TEMPLATE)
    assert parser["supervisord"]["umask"] == "077"
    for vp_id in (GENERAL, CODER):
        program = parser[f"program:{vp_id}"]
        assert program["command"] == "huey_consumer vp_queue.tasks.app.huey"
        assert program["environment"] == f'VP_ID="{vp_id}"'
    assert parser["program:keeper"]["command"] == "vp keeper"
    for section in (name for name in parser.sections() if name.startswith("program:")):
        assert (parser[section]["stopsignal"], parser[section]["stopwaitsecs"]) == ("TERM", "30")
        assert parser[section]["autorestart"] == "true"
    assert parser["program:web"]["command"] == "vp serve"
    assert generated_programs(config.load()) == {"web": "[program:web]\nautostart=false\n"}
    home.configure(web="enabled = true", more=EXTRA)
    made = generated_programs(config.load())
    assert list(made) == ["vp.extra"]
    assert made["vp.extra"].startswith("[program:vp.extra]\ncommand=huey_consumer")
    assert GENERAL not in made["vp.extra"]
