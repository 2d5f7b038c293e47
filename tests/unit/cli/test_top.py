"""vp top: the overview on a terminal, live, at any width; and once where nobody can watch."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests import ended
from tests.ended import HOUR
from tests.harness import BIN, CODER, GENERAL, Home, shell, status, until
from tests.unit.cli.driver import Cli, on_terminal
from vp_queue import missions, missions_overview
from vp_queue.cli import glance
from vp_queue.contracts import Status
from vp_queue.contracts.overview import OverviewAnswer
from vp_queue.wording import cells

HOSTILE = "\x1b]0;title\x07\x1b[2J evil \u202eoverride \r\n日本語の目的 " * 20
SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture(autouse=True)
def _ready(home: Home) -> None:
    missions.ready()


def busy(home: Home) -> None:
    """Something of everything that is shown."""
    ended.many(3, timedelta(minutes=10), Status.COMPLETED)
    ended.many(2, HOUR, Status.FAILED)
    ended.mission(timedelta(minutes=3), Status.RUNNING, objective=HOSTILE)
    ended.mission(timedelta(minutes=2), Status.NEEDS_INPUT, vp_id=CODER, objective="asks")
    shell("true", vp_id=CODER)
    missions.pause(CODER, HOSTILE[:500])


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("height", [None, 10, 24])
def test_no_line_is_wider_than_the_terminal_and_there_are_no_more_than_fit(
    home: Home, width: int, height: int | None
) -> None:
    busy(home)
    lines = [line.plain for line in glance.lines(missions_overview.overview(), width, height)]
    assert max(map(cells, lines)) <= width
    assert height is None or len(lines) <= height
    shown = "\n".join(lines)
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_once_shows_everything_there_is_to_see(home: Home, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    busy(home)
    code, shown, _ = cli("top", "--once")
    assert code == 0
    for part in (
        "1 queued · 1 running · 1 needs input · no keeper",
        "3 done",
        GENERAL,
        "24 h: 3 completed · 2 failed · success 60%",
        "paused: evil",
        "asks: which?",
        "Needs you: 5",
        "exit_nonzero: 1",
        "Latest",
        "vp.paused",
    ):
        assert part in shown, part


def test_an_empty_ledger_needs_nobody(cli: Cli) -> None:
    assert "Nothing waits for you" in cli("top", "--once")[1]


def test_where_the_room_is_small_the_latest_events_give_way_first(home: Home) -> None:
    ended.many(30, HOUR, Status.FAILED)
    seen = missions_overview.overview()
    lines = [line.plain for line in glance.lines(seen, 80, 24)]
    needs = [line for line in lines if line.startswith("failed")]
    assert len(needs) >= glance.LEAST_NEEDS
    assert any("more" in line for line in lines)
    assert len(lines[lines.index("Latest") + 1 :]) == glance.LEAST_EVENTS


def test_json_is_the_overview(cli: Cli) -> None:
    code, answer = cli.json("top")
    assert code == 0
    assert OverviewAnswer.model_validate(answer).counts["queued"] == 0


def test_a_terminal_that_cannot_be_written_over_and_a_pipe_get_it_once(home: Home) -> None:
    assert "Nothing waits for you" in on_terminal("top", TERM="dumb")[1]
    printed = subprocess.run([BIN / "vp", "top"], env=home.environment, capture_output=True, text=True, check=True)
    assert "\x1b" not in printed.stdout
    assert "Nothing waits for you" in printed.stdout


def test_bars_fall_together_where_there_is_less_room_than_steps() -> None:
    assert glance._bars([0, 0, 4, 0], 4)[2] == glance._bars([4, 0, 0, 0], 4)[0]
    assert len(glance._bars([1] * 60, 30)) == 30
    assert len(glance._bars([1] * 60, 7)) <= 7


# --- live ----------------------------------------------------------------------------------------


class Watched:
    """``vp top`` on a terminal of its own, with a keyboard."""

    def __init__(self, home: Home, columns: int) -> None:
        self._master, terminal = os.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        variables = {name: value for name, value in home.environment.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [str(BIN / "vp"), "top"],
            env={**variables, "TERM": "xterm-256color"},
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        self._terminal = terminal
        self.printed = ""

    def read(self) -> str:
        """Everything that was printed so far, without sequences."""
        while select.select([self._master], [], [], 0)[0]:
            self.printed += os.read(self._master, 65_536).decode(errors="replace")
        return SEQUENCES.sub("", self.printed)

    def shows(self, text: str) -> None:
        """Wait until this stands there; what was shown before counts no more."""
        until(lambda: text in self.read(), f"{text!r} is shown")
        self.printed = ""

    def press(self, key: str) -> None:
        os.write(self._master, key.encode())

    def local_flags(self) -> int:
        """Whether keys are echoed, and lines waited for."""
        flags: int = termios.tcgetattr(self._terminal)[3]
        return flags

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)
        os.close(self._master)


@contextlib.contextmanager
def watched(home: Home, columns: int = 80) -> Iterator[Watched]:
    live = Watched(home, columns)
    try:
        yield live
    finally:
        live.close()


@pytest.mark.parametrize("columns", [40, 80])
def test_it_follows_a_mission_from_dispatch_to_its_end(home: Home, columns: int) -> None:
    go = home.targets / "go"
    with watched(home, columns) as live:
        before = live.local_flags()
        live.shows("Nothing waits for you")
        mission_id = shell(f"echo by-my-own-words; while [ ! -e {go} ]; do sleep 0.05; done; exit 3")["mission_id"]
        live.shows("1 queued")
        home.consumer()
        live.shows("by-my-own-words")  # read from the log, which is no part of the ledger
        go.touch()
        live.shows("exit_nonzero")
        assert status(mission_id) == "failed"
        live.press("x")
        live.press("q")
        assert live.process.wait(30) == 0
        live.read()
        assert "\x1b[?1049l" in live.printed  # the screen that was there is back
        assert live.local_flags() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_it_leaves_the_terminal_as_it_was(home: Home, number: signal.Signals) -> None:
    with watched(home) as live:
        before = live.local_flags()
        live.shows("Nothing waits for you")
        assert live.local_flags() != before
        live.process.send_signal(number)
        assert live.process.wait(30) == 128 + number
        live.read()
        assert "\x1b[?1049l" in live.printed
        assert live.local_flags() == before


def test_ctrl_c_is_a_way_out_and_no_failure(home: Home) -> None:
    with watched(home) as live:
        live.shows("Nothing waits for you")
        live.process.send_signal(signal.SIGINT)
        assert live.process.wait(30) == 0
