"""Who did what, through which face: told in the event of each action, and read back newest first."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from mcp.client import Client

from tests import ended
from tests.ended import HOUR
from tests.harness import CODER, GENERAL, Home, ok, shell
from tests.plans import whole_reads
from tests.unit.cli.driver import Cli
from vp_queue import missions, missions_actions, origin, tools
from vp_queue.adapters import openai_tools
from vp_queue.contracts import Status, limits
from vp_queue.errors import ValidationError
from vp_queue.ledger import database, transitions
from vp_queue.ledger.models import Mission
from vp_queue.mcp.server import Face


@pytest.fixture(autouse=True)
def _ready(home: Home) -> None:
    missions.ready()


@pytest.fixture
def cli(home: Home, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


def told(**filters: Any) -> list[tuple[str, dict[str, Any] | None]]:
    """Type and doer of each action, oldest first."""
    return [(event.type, event.data.get("by")) for event in missions_actions.actions(**filters).events[::-1]]


def by(face: str, actor: str | None = None) -> dict[str, Any]:
    return {"face": face, "actor": actor}


# --- what is told --------------------------------------------------------------------------------


def test_every_action_tells_who_did_it() -> None:
    with origin.acting("http", "ops"):
        queued, running = shell("true")["mission_id"], ended.mission(HOUR, Status.RUNNING)
        failed = ended.mission(HOUR, Status.FAILED)
        for mission_id in (queued, running):
            ok(tools.vp_cancel_mission(mission_id=mission_id))
        ok(tools.vp_retry_mission(mission_id=failed))
        missions.pause(CODER, "API quota")
        missions.drain(CODER)
        missions.resume(CODER)
        asking = ended.mission(HOUR, Status.NEEDS_INPUT)
        with database.write_transaction() as tx:
            question = Mission.get_by_id(asking).question["question_id"]
            assert transitions.answer(tx, asking, question, "this") is not None
    done = told()
    assert {face["face"] for _, face in done if face} == {"http"}
    assert [kind for kind, _ in done] == [
        *["mission.dispatched"] * 3,
        "mission.cancelled",
        "mission.cancel_requested",
        "mission.dispatched",
        "vp.paused",
        "vp.draining",
        "vp.resumed",
        "mission.dispatched",
        "mission.answered",
    ]


def test_what_follows_an_action_is_none() -> None:
    mission_id = ended.mission(HOUR, Status.CANCELLED)  # by its worker, which carried out a cancel
    ended.mission(HOUR, Status.COMPLETED)
    assert [kind for kind, _ in told()] == ["mission.dispatched"] * 2
    events = ok(tools.vp_get_mission(mission_id=mission_id))["events"]
    assert [("by" in event["data"]) for event in events] == [True, False, False]


def test_a_question_that_is_withdrawn_was_answered_by_nobody() -> None:
    mission_id = ended.mission(HOUR, Status.NEEDS_INPUT)
    with database.write_transaction() as tx:
        question = Mission.get_by_id(mission_id).question["question_id"]
        transitions.answer(tx, mission_id, question, None)
    events = ok(tools.vp_get_mission(mission_id=mission_id))["events"]
    assert "by" not in events[-1]["data"]


def test_without_a_face_it_is_python() -> None:
    shell("true")
    assert told() == [("mission.dispatched", by("python"))]


def test_hostile_names_are_cleaned_and_bounded() -> None:
    for actor in ("\x1b[31mred\x1b[0m\u202egnp\nnext", "x" * 1_000, "a\ud800b", "\0", " \t"):
        with origin.acting("mcp", actor):
            shell("true")
    names = [face["actor"] for _, face in told() if face]
    assert names == ["redgnp next", "x" * (origin.ACTOR_CHARS - 1) + "…", "ab", None, None]


def test_it_ends_with_its_block_and_the_inner_one_counts() -> None:
    with origin.acting("http", "a"):
        with origin.acting("dashboard", "b"):
            assert origin.current() == origin.Origin("dashboard", "b")
        assert origin.current() == origin.Origin("http", "a")
    assert origin.current() == origin.Origin("python")


# --- the faces -----------------------------------------------------------------------------------


def test_the_command_line_tells_the_login_name(cli: Cli) -> None:
    cli.dispatched()
    cli("pause", CODER)
    who = by("cli", pwd.getpwuid(os.getuid()).pw_name)
    assert told() == [("mission.dispatched", who), ("vp.paused", who)]
    assert origin.current().face == "python"


def run(test: Callable[[], Any]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(60):
            await test()

    anyio.run(bounded)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_over_mcp_the_client_is_named_and_it_crosses_to_the_thread(mode: str) -> None:
    async def test() -> None:
        from mcp_types import Implementation

        async with Client(
            Face().server, mode=mode, client_info=Implementation(name="simone's host", version="1")
        ) as host:
            for _ in range(2):
                answer = await host.call_tool("vp_dispatch_mission", {"vp_id": GENERAL, "objective": "x"})
                assert not answer.is_error

    run(test)
    assert told() == [("mission.dispatched", by("mcp", "simone's host"))] * 2


def test_of_two_clients_at_once_each_is_named() -> None:
    from mcp_types import Implementation

    async def one(name: str) -> None:
        async with Client(Face().server, client_info=Implementation(name=name, version="1")) as host:
            for _ in range(5):
                await host.call_tool("vp_dispatch_mission", {"vp_id": GENERAL, "objective": name})

    async def test() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, "a")
            tasks.start_soon(one, "b")

    run(test)
    with database.read_transaction():
        objectives = {row.id: row.objective for row in Mission.select()}
    events = missions_actions.actions().events
    assert len(events) == 10
    assert all(event.data["by"]["actor"] == objectives[str(event.mission_id)] for event in events)


def test_an_adapter_tells_the_library_it_is_written_for() -> None:
    arguments = json.dumps({"vp_id": GENERAL, "objective": "x"})
    call = {"id": "c", "type": "function", "function": {"name": "vp_dispatch_mission", "arguments": arguments}}
    openai_tools.dispatch(call)
    asyncio.run(openai_tools.dispatch_async(call))
    assert told() == [("mission.dispatched", by("adapter", "openai"))] * 2


# --- the log -------------------------------------------------------------------------------------


def test_pages_go_back_to_the_beginning() -> None:
    ids = [shell("true")["mission_id"] for _ in range(7)]
    found: list[str | None] = []
    before = None
    while True:
        page = missions_actions.actions(3, before)
        found += [event.mission_id for event in page.events]
        before = page.next_before
        if before is None:
            break
    assert found == ids[::-1]


def test_filters_by_vp_and_face() -> None:
    shell("true")
    with origin.acting("http"):
        shell("true", vp_id=CODER)
        missions.pause(GENERAL)
    assert [kind for kind, _ in told(face="http")] == ["mission.dispatched", "vp.paused"]
    assert [kind for kind, _ in told(vp_id=CODER)] == ["mission.dispatched"]
    assert told(face="dashboard") == []


def test_a_page_looks_at_so_many_events_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with origin.acting("http"):
        first = shell("true")["mission_id"]
    for _ in range(9):
        shell("true")
    monkeypatch.setattr(limits, "ACTIONS_SCANNED", 4)
    pages, before = 0, None
    while True:
        page = missions_actions.actions(50, before, face="http")
        pages, before = pages + 1, page.next_before
        if page.events or before is None:
            break
    assert [event.mission_id for event in page.events] == [first]
    assert pages == 3


def test_a_page_has_one_lower_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of two, SQLite took the first, "after 0", and read the whole feed.
    asked: list[str] = []
    execute_sql = database.LedgerDatabase.execute_sql

    def noting(db: database.LedgerDatabase, sql: str, params: object = None) -> object:
        asked.append(sql)
        return execute_sql(db, sql, params)

    monkeypatch.setattr(database.LedgerDatabase, "execute_sql", noting)
    missions_actions.actions(face="http")
    missions_actions.actions(face="http", before_seq=5)
    pages = [sql for sql in asked if "json_extract" in sql]
    assert [sql.count('"seq" >') for sql in pages] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [({"limit": 0}, "limit"), ({"limit": limits.ACTIONS_PAGE + 1}, "limit"), ({"before_seq": -1}, "before_seq")],
)
def test_arguments_out_of_bounds_are_refused(arguments: dict[str, int], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        missions_actions.actions(**arguments)
    assert refused.value.details["field"] == field


def test_it_does_not_go_through_all_events(monkeypatch: pytest.MonkeyPatch) -> None:
    ended.many(5, HOUR)
    assert whole_reads(monkeypatch, lambda: missions_actions.actions(face="http", before_seq=10**9)) == set()


def test_the_command_shows_who_did_what(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert "Nobody did anything" in cli("actions")[1]
    mission_id = cli.dispatched()
    with origin.acting("mcp", "claude-code"):
        missions.pause(CODER, "API quota")
    shown = cli("actions")[1].splitlines()
    assert "mcp claude-code vp.paused vp.coder.primary reason=API quota" in shown[0]
    assert f"mission.dispatched {mission_id}" in shown[1]
    assert cli.json("actions", "--face", "mcp")[1]["events"][0]["type"] == "vp.paused"
    assert "Older: --before" in cli("actions", "--limit", "1")[1]
