"""Colours where they are wanted, and nowhere else."""

from __future__ import annotations

import subprocess

import pytest

from tests.harness import BIN, Home
from tests.unit.cli.driver import Cli, on_terminal


@pytest.fixture
def mission(cli: Cli) -> str:
    """A cancelled one: its status has a colour."""
    mission_id = cli.dispatched()
    cli("cancel", mission_id)
    return mission_id


def piped(home: Home, *args: str, **environment: str) -> str:
    """What ``vp`` prints to a pipe."""
    variables = {**home.environment, **environment}
    return subprocess.run([BIN / "vp", *args], env=variables, capture_output=True, text=True, check=True).stdout


def test_a_terminal_gets_colours_unless_it_says_no(mission: str) -> None:
    for args in (["list"], ["get", mission]):
        assert "\x1b[33mcancelled" in on_terminal(*args)[1]
        assert "\x1b" not in on_terminal(*args, NO_COLOR="1")[1]
        assert "\x1b" not in on_terminal(*args, TERM="dumb")[1]
        assert "\x1b[33mcancelled" in on_terminal(*args, NO_COLOR="")[1]  # by no-color.org, empty says nothing


def test_a_pipe_gets_none_unless_forced(home: Home, mission: str) -> None:
    assert "\x1b" not in piped(home, "list")
    assert "\x1b[33mcancelled" in piped(home, "list", FORCE_COLOR="1", TERM="xterm-256color")
    assert "\x1b" not in piped(home, "list", FORCE_COLOR="1", NO_COLOR="1", TERM="xterm-256color")


def test_json_never_has_any(home: Home, mission: str) -> None:
    for args in (["list"], ["get", mission], ["vps"], ["events"], ["wait", mission]):
        assert "\x1b" not in on_terminal(*args, "--json", FORCE_COLOR="1")[1]


def test_a_dumb_terminal_keeps_its_width_and_gets_lines(home: Home, mission: str) -> None:
    code, printed = on_terminal("list", columns=120, TERM="dumb")
    assert code == 0
    assert any(line.startswith(mission) and "cancelled" in line for line in printed.splitlines())
    code, printed = on_terminal("dispatch", "vp.general.primary", "x", "--wait", "0", TERM="dumb")
    assert code == 5
    assert "mission.dispatched" in printed
    assert "\x1b" not in printed


def test_the_progress_line_is_gone_at_the_end(mission: str) -> None:
    code, printed = on_terminal("dispatch", "vp.general.primary", "x", "--wait", "0.1")
    assert code == 5
    assert "\x1b[?25h" in printed  # the cursor is shown again
    assert "queued ·" in printed
