"""Function calling as OpenAI has it: what is offered is the contract, and every call is answered, whatever it holds."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import traceback
from types import SimpleNamespace
from typing import Any

import pytest

from tests.harness import GENERAL, Home, command, ok, until
from vp_queue import missions, tool_schemas, tools
from vp_queue.adapters import openai_tools
from vp_queue.mcp import calls


def chat(name: str, arguments: Any) -> dict[str, Any]:
    """A call as chat completions has it in JSON."""
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def answered(call: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(openai_tools.dispatch(call))
    return answer


def test_both_forms_hold_the_contracts_definitions() -> None:
    functions = [tool["function"] for tool in openai_tools.chat_tools()]
    assert functions == [
        {"name": name, "description": definition.description, "parameters": tool_schemas.input_schema(name)}
        for name, definition in tools.DEFINITIONS.items()
    ]
    flat = [{"type": "function", **function, "strict": False} for function in functions]
    assert openai_tools.responses_tools() == flat


def test_a_call_may_be_of_either_api_an_object_or_json(home: Home) -> None:
    mission_id = command("true")["mission_id"]
    arguments = json.dumps({"mission_id": mission_id})
    function = {"name": "vp_get_mission", "arguments": arguments}
    expected = ok(tools.vp_get_mission(mission_id=mission_id))
    for call in (
        chat("vp_get_mission", arguments),
        chat("vp_get_mission", {"mission_id": mission_id}),
        SimpleNamespace(id="call_1", function=SimpleNamespace(**function)),
        {"type": "function_call", "call_id": "call_1", **function},
        SimpleNamespace(type="function_call", call_id="call_1", **function),
    ):
        assert answered(call) == expected


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (chat("vp_get_mission", "{"), "arguments"),
        (chat("vp_get_mission", "[1]"), "arguments"),
        (chat("vp_get_mission", "[" * 100_000), "arguments"),
        (chat("vp_get_mission", 5), "arguments"),
        (chat("vp_get_mission", ""), "mission_id"),
        (chat("vp_get_mission", None), "mission_id"),
        (chat("vp_list_missions", '{"limit": "many"}'), "limit"),
        (chat("vp_list_missions", '{"limit": NaN}'), "limit"),
        (chat("vp_make_coffee", "{}"), "tool"),
        (chat("\ud800", "{}"), "tool"),
        ({}, "tool"),
        (None, "tool"),
    ],
)
def test_a_bad_call_is_answered_with_what_is_wrong(home: Home, call: Any, field: str) -> None:
    answer = answered(call)
    assert answer["error"]["code"] == "validation_error"
    assert answer["error"]["details"]["field"] == field
    assert asyncio.run(openai_tools.dispatch_async(call)) == openai_tools.dispatch(call)


def test_text_stays_itself(home: Home) -> None:
    text = openai_tools.dispatch(chat("vp_dispatch_mission", json.dumps({"vp_id": "ß", "objective": "x"})))
    assert "ß" in text
    assert ": " not in text.partition('"message"')[0], "compact: a model pays for each space"


def waiting_call(home: Home) -> dict[str, Any]:
    mission_id = command("true")["mission_id"]  # which nobody takes
    return chat("vp_wait_mission", json.dumps({"mission_id": mission_id, "timeout_seconds": 3_600}))


def in_waits() -> int:
    """How many threads of this process are in a wait for a mission."""
    stacks = (traceback.walk_stack(frame) for frame in sys._current_frames().values())
    return sum(any(frame.f_code is missions.wait.__code__ for frame, _ in stack) for stack in stacks)


async def wait_and_cancel(call: dict[str, Any]) -> None:
    """Begin a wait, do something else meanwhile, and cancel it."""
    task = asyncio.create_task(openai_tools.dispatch_async(call))
    while not in_waits():
        await asyncio.sleep(0.01)
    other = json.loads(await openai_tools.dispatch_async(chat("vp_list_vps", "{}")))
    assert GENERAL in {vp["vp_id"] for vp in ok(other)["vps"]}
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_agents_loop_goes_on_during_a_wait_and_cancelling_ends_it(home: Home) -> None:
    asyncio.run(wait_and_cancel(waiting_call(home)))
    until(lambda: not in_waits(), "the waiting thread came back")


def test_a_wait_whose_end_is_not_told_goes_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above: nobody wakes the thread, and it stays."""
    call, told, asked_again = waiting_call(home), threading.Event(), threading.Event()
    keep_waiting = calls.Thread.keep_waiting

    def noted(self: calls.Thread, mission: Any) -> bool:
        if told.is_set():
            asked_again.set()
        return keep_waiting(self, mission)

    monkeypatch.setattr(calls.Thread, "keep_waiting", noted)
    monkeypatch.setattr(calls.Thread, "end", lambda self: told.set())
    thread = threading.Thread(target=lambda: asyncio.run(wait_and_cancel(call)))
    thread.start()
    assert told.wait(30)
    missions.wake_waiters()
    assert asked_again.wait(30)
    assert in_waits() == 1, "the thread was left behind"
    ok(tools.vp_cancel_mission(mission_id=json.loads(call["function"]["arguments"])["mission_id"]))
    until(lambda: not in_waits(), "it ended with the mission")
    thread.join()


def test_a_synchronous_wait_is_ended_from_another_thread(home: Home) -> None:
    gone = threading.Event()
    call = waiting_call(home)
    answers: list[str] = []
    waiter = threading.Thread(
        target=lambda: answers.append(openai_tools.dispatch(call, keep_waiting=lambda _: not gone.is_set()))
    )
    waiter.start()
    until(lambda: in_waits() == 1, "it waits")
    gone.set()
    missions.wake_waiters()
    waiter.join()
    assert ok(json.loads(answers[0]))["timed_out"] is True
