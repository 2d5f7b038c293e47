"""``vp inbox``: it shows, and acknowledges only when it is asked to."""

from __future__ import annotations

import io
from datetime import timedelta

import pytest

from tests import ended
from tests.harness import Home, ok
from tests.unit.cli.driver import Cli, on_terminal
from vp_queue import missions, tools
from vp_queue.contracts import Status


@pytest.fixture
def mission_id(home: Home) -> str:
    """A mission with three events."""
    missions.ready()
    return ended.mission(timedelta(0), Status.CANCELLED, source_session_id="s-1")


def test_showing_acknowledges_nothing(cli: Cli, mission_id: str) -> None:
    code, out, err = cli("inbox", "simone")
    assert code == 0
    assert out.count(mission_id) == 3
    assert err == "Handled? vp inbox simone --ack 3\n"
    assert cli("inbox", "simone") == (code, out, err)
    assert cli("inbox", "simone", "--ack", "2")[1].count(mission_id) == 1
    code, out, _ = cli("inbox", "simone", "--ack", "3")
    assert (code, out) == (0, "Nothing new. Wait for it: --wait 30\n")


def test_json_is_the_tools(cli: Cli, mission_id: str) -> None:
    code, answer = cli.json("inbox", "simone", "--limit", "2")
    assert code == 0
    assert answer == ok(tools.vp_read_events(reader="simone", limit=2))


def test_what_was_shown_can_be_acknowledged_at_once(cli: Cli, mission_id: str) -> None:
    assert cli("inbox", "simone", "--limit", "2", "--ack-shown")[2] == ""
    assert [event["seq"] for event in ok(tools.vp_read_events(reader="simone"))["events"]] == [3]
    assert cli.json("inbox", "simone", "--ack-shown")[1]["last_seq"] == 3
    assert ok(tools.vp_read_events(reader="simone"))["events"] == []


def test_a_new_reader_may_begin_now(cli: Cli, mission_id: str) -> None:
    assert cli.json("inbox", "simone", "--ack", "newest")[1] == {"ok": True, "events": [], "last_seq": 3, "pruned": 0}


def test_a_session_and_a_wait(cli: Cli, mission_id: str) -> None:
    assert cli("inbox", "simone", "--session", "s-1", "--wait", "30")[1].count(mission_id) == 3
    assert cli("inbox", "simone", "--session", "s-2", "--wait", "0")[1].startswith("Nothing new.")


def test_context_is_a_block_for_an_agent(cli: Cli, mission_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, out, _ = cli("inbox", "simone", "--format", "context")
    assert code == 0
    assert mission_id in out
    assert cli("inbox", "simone", "--format", "context")[1] == out
    assert cli("inbox", "simone", "--format", "context", "--ack-shown")[1] == out
    assert cli("inbox", "simone", "--format", "context") == (0, "", "")


def test_a_block_is_printed_on_a_terminal(mission_id: str) -> None:
    code, shown = on_terminal("inbox", "simone", "--format", "context")
    assert code == 0
    assert mission_id in shown


@pytest.mark.parametrize(
    "words",
    [
        ("--ack", "soon"),
        ("--ack", "-1"),
        ("--format", "context", "--json"),
        ("--format", "context", "--wait", "3"),
        ("--format", "context", "--ack", "3"),
        ("--tell-session",),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(cli: Cli, home: Home, words: tuple[str, ...]) -> None:
    assert cli("inbox", "simone", *words)[0] == 2


def test_an_acknowledgement_of_the_future_names_the_option(cli: Cli, mission_id: str) -> None:
    code, _, err = cli("inbox", "simone", "--ack", "4")
    assert code == 2
    assert "--ack: 4 lies beyond the newest event (3)" in err
