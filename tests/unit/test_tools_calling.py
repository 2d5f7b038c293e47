"""Calling the tools by name, as a host does for its model; and ending a wait whose caller has gone away."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.harness import Home, command, forget_ledger, ok, refused
from vp_queue import missions, tools
from vp_queue.errors import LedgerUnavailable
from vp_queue.ledger import database


def test_a_tool_answers_to_its_name(home: Home) -> None:
    mission_id = command("true")["mission_id"]
    answer = ok(tools.call("vp_get_mission", {"mission_id": mission_id}))
    assert answer == ok(tools.vp_get_mission(mission_id=mission_id))
    refused(tools.call("vp_list_vps", {"mission": mission_id}), "validation_error", "mission")


def test_an_unknown_tool_is_told_with_the_known_ones(home: Home) -> None:
    error = refused(tools.call("vp_list\x1b[31m", {}), "validation_error", "tool")
    assert "vp_list_vps" in error["message"]
    assert "\x1b" not in error["message"]


@pytest.mark.parametrize("tool", ["vp_wait_mission", "vp_read_events"])
def test_a_wait_goes_on_as_long_as_its_caller_wants_it(home: Home, tool: str) -> None:
    mission_id = command("true")["mission_id"]
    if tool == "vp_wait_mission":
        arguments: dict[str, Any] = {"mission_id": mission_id, "timeout_seconds": 3_600}
    else:
        seq = ok(tools.vp_read_events(reader="simone"))["last_seq"]
        arguments = {"reader": "simone", "acknowledge": seq, "wait_seconds": 60}
    asked, gone = threading.Event(), threading.Event()
    seen: list[Any] = []

    def keep_waiting(mission: Any) -> bool:
        seen.append(mission)
        asked.set()
        return not gone.is_set()

    answers: list[dict[str, Any]] = []
    waiter = threading.Thread(target=lambda: answers.append(tools.call(tool, arguments, keep_waiting=keep_waiting)))
    waiter.start()
    assert asked.wait(30)
    assert answers == [], "it waits"
    gone.set()
    missions.wake_waiters()
    waiter.join()
    if tool == "vp_wait_mission":
        assert ok(answers[0])["timed_out"] is True
        assert {mission.status for mission in seen} == {"queued"}
    else:
        assert ok(answers[0])["events"] == []
        assert set(seen) == {None}


def test_waking_opens_no_ledger(home: Home) -> None:
    """Else an event loop that wakes would stand still while another process migrates."""
    forget_ledger()
    missions.wake_waiters()
    assert not home.database.exists()
    with pytest.raises(LedgerUnavailable):
        database.current()


def test_only_what_waits_is_asked(home: Home) -> None:
    def never(_: Any) -> bool:
        raise AssertionError("asked")

    ok(tools.call("vp_list_vps", {}, keep_waiting=never))
    assert {name for name, definition in tools.DEFINITIONS.items() if definition.waits} == {
        "vp_wait_mission",
        "vp_read_events",
    }
