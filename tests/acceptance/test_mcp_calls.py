"""What a host sees of the tools: schemas that keep the contract, errors a model can act on, waits that end in time."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import cysqlite
import jsonschema
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from rs_bpe.bpe import openai

from tests import oracle
from tests.harness import BIN, GENERAL, Home, ok, shell, status
from tests.mcp_waits import watch_waits
from vp_queue import tools
from vp_queue.contracts import limits
from vp_queue.ledger.database import BEGIN_WAIT_SECONDS
from vp_queue.mcp import calls, definitions
from vp_queue.mcp.server import Face

WITHIN_SECONDS = 30.0
TOKENS = 2_500


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(4 * WITHIN_SECONDS):
            await test()

    anyio.run(bounded)


def stdio(home: Home) -> StdioServerParameters:
    return StdioServerParameters(command=str(BIN / "vp"), args=["mcp"], env=home.environment)


@asynccontextmanager
async def in_process(mode: str = "auto") -> AsyncIterator[Client]:
    async with Client(Face().server, mode=mode) as host:
        yield host


def test_the_whole_list_costs_fewer_tokens_than_it_may() -> None:
    count = openai.o200k_base().encode
    whole = [(tool.name, tool.description, json.dumps(tool.input_schema)) for tool in definitions.listed()]
    assert sum(len(count("\n".join(parts))) for parts in whole) < TOKENS  # type: ignore[arg-type]


def test_schemas_and_hints_are_the_contracts() -> None:
    listed = {tool.name: tool for tool in definitions.listed()}
    assert list(listed) == list(tools.DEFINITIONS)
    for name, definition in tools.DEFINITIONS.items():
        tool, fields = listed[name], definition.arguments.model_fields
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        assert list(tool.input_schema["properties"]) == list(fields)
        assert tool.input_schema.get("required", []) == [field for field, info in fields.items() if info.is_required()]
        assert "$ref" not in json.dumps(tool.input_schema)
        assert tool.title
        assert tool.annotations is not None
    read_only = {name for name, tool in listed.items() if tool.annotations and tool.annotations.read_only_hint}
    reads = ("get_mission", "list_missions", "wait_mission", "read_result_artifacts", "list_vps")
    assert read_only == {f"vp_{name}" for name in reads}
    destructive = {name for name, tool in listed.items() if tool.annotations and tool.annotations.destructive_hint}
    assert destructive == {"vp_cancel_mission"}
    repeatable = {name for name, tool in listed.items() if tool.annotations and tool.annotations.idempotent_hint}
    assert repeatable - read_only == {"vp_dispatch_mission", "vp_cancel_mission", "vp_read_events"}


def test_answers_and_errors_keep_the_output_schema(home: Home) -> None:
    mission_id = shell("true")["mission_id"]
    arguments: dict[str, dict[str, Any]] = {
        "vp_dispatch_mission": {"vp_id": GENERAL, "objective": "x"},
        "vp_list_missions": {"status": ["queued"]},
        "vp_retry_mission": {"mission_id": mission_id},  # was cancelled by the call before
        "vp_read_events": {"reader": "simone", "acknowledge": 0},
        "vp_list_vps": {},
        "vp_wait_mission": {"mission_id": mission_id, "timeout_seconds": 0},
    }

    async def test() -> None:
        async with in_process() as host:
            for tool in (await host.list_tools()).tools:
                given = arguments.get(tool.name, {"mission_id": mission_id})
                jsonschema.validate(given, tool.input_schema)
                answer = await host.call_tool(tool.name, given)
                assert not answer.is_error, answer.structured_content
                assert json.loads(answer.content[0].text) == answer.structured_content  # type: ignore[union-attr]
                jsonschema.validate(answer.structured_content, tool.output_schema or {})
                error = await host.call_tool(tool.name, {"unknown": True})
                assert error.is_error
                jsonschema.validate(error.structured_content, tool.output_schema or {})

    run(test)


BAD: list[tuple[str, Any, str]] = [
    ("vp_get_mission", {}, "mission_id"),
    ("vp_get_mission", {"mission_id": 5}, "mission_id"),
    ("vp_get_mission", {"mission_id": "m-000000000000", "events_limit": "ten"}, "events_limit"),
    ("vp_list_missions", {"limit": 0}, "limit"),
    ("vp_list_missions", {"nope": 1}, "nope"),
    ("vp_list_missions", ["limit", 5], "arguments"),
    ("vp_list_missions", "limit", "arguments"),
    *(("vp_list_vps", nothing, "arguments") for nothing in ([], "", 0, False)),
    ("vp_wait_mission", {"mission_id": "m-000000000000", "timeout_seconds": 10**400}, "timeout_seconds"),
    ("vp_dispatch_mission", {"vp_id": GENERAL, "objective": "a\0b"}, "objective"),
    ("vp_nothing", {}, "tool"),
]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_bad_call_is_answered_with_the_contracts_error(home: Home, mode: str) -> None:
    async def test() -> None:
        async with Client(stdio(home), mode=mode) as host:
            envelope = {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            }
            meta = {"_meta": envelope} if mode == "auto" else {}
            for name, given, field in BAD:
                params = {"name": name, "arguments": given, **meta}
                answer = await host.session._dispatcher.send_raw_request("tools/call", params)
                assert answer["isError"], (name, given)
                error = answer["structuredContent"]["error"]
                assert (error["code"], error["details"]["field"]) == ("validation_error", field)
                assert json.loads(answer["content"][0]["text"]) == answer["structuredContent"]

    run(test)


def test_a_wait_tells_of_progress_and_answers_when_the_mission_ends(home: Home) -> None:
    home.consumer()
    told: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async def test() -> None:
        async with Client(stdio(home)) as host:
            script = """echo '{"progress": 0.5, "message": "half"}' >&$VP_REPORT_FD; sleep 1"""
            mission_id = (await anyio.to_thread.run_sync(shell, script))["mission_id"]
            asked = {"mission_id": mission_id, "timeout_seconds": 60}
            answer = await host.call_tool("vp_wait_mission", asked, progress_callback=note)
            assert answer.structured_content["mission"]["status"] == "completed"

    run(test)
    assert [progress for progress, *_ in told] == sorted({progress for progress, *_ in told})
    assert {total for _, total, _ in told} == {60.0}
    assert any("50%: half" in (message or "") for *_, message in told), told


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The missions for which a thread of this process waits right now."""
    return watch_waits(monkeypatch)


async def _until(look: Callable[[], bool], within_seconds: float) -> bool:
    with anyio.move_on_after(within_seconds):
        while not look():
            await anyio.sleep(0.01)
    return look()


async def _cancelled_wait_is_over(mode: str, mission_id: str, waiting: set[str]) -> bool:
    async with in_process(mode) as host:
        async with anyio.create_task_group() as tasks:
            asked = {"mission_id": mission_id, "timeout_seconds": 20}
            tasks.start_soon(host.call_tool, "vp_wait_mission", asked)
            assert await _until(lambda: bool(waiting), WITHIN_SECONDS)
            tasks.cancel_scope.cancel()
        over = await _until(lambda: not waiting, 3)
        assert not (await host.call_tool("vp_list_vps", {})).is_error
        return over


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_cancelled_wait_leaves_no_thread(home: Home, waiting: set[str], mode: str) -> None:
    mission_id = shell("true")["mission_id"]

    async def test() -> None:
        assert await _cancelled_wait_is_over(mode, mission_id, waiting)

    run(test)


def test_without_its_guard_a_cancelled_wait_leaves_a_thread(
    home: Home, waiting: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with nobody to end the thread, it goes on until the time it was given is up."""
    monkeypatch.setattr(calls.Thread, "end", lambda self: None)
    mission_id = shell("true")["mission_id"]

    async def test() -> None:
        async with in_process("legacy") as host:
            async with anyio.create_task_group() as tasks:
                asked = {"mission_id": mission_id, "timeout_seconds": 6}
                tasks.start_soon(host.call_tool, "vp_wait_mission", asked)
                assert await _until(lambda: bool(waiting), WITHIN_SECONDS)
                tasks.cancel_scope.cancel()
            assert not await _until(lambda: not waiting, 2)

    run(test)


def test_many_waits_stand_in_nobodys_way(home: Home, waiting: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "WAITS_AT_ONCE", 50)
    ids = [shell("true")["mission_id"] for _ in range(51)]

    async def test() -> None:
        async with in_process() as host:
            async with anyio.create_task_group() as tasks:
                for mission_id in ids[:50]:
                    asked = {"mission_id": mission_id, "timeout_seconds": 600}
                    tasks.start_soon(host.call_tool, "vp_wait_mission", asked)
                assert await _until(lambda: len(waiting) == 50, WITHIN_SECONDS)
                assert not (await host.call_tool("vp_list_vps", {})).is_error
                # One more than there are threads for: answered at once, with how the mission stands.
                late = await host.call_tool("vp_wait_mission", {"mission_id": ids[50], "timeout_seconds": 600})
                assert (late.is_error, late.structured_content["timed_out"]) == (False, True)
                tasks.cancel_scope.cancel()
            assert await _until(lambda: not waiting, WITHIN_SECONDS)

    run(test)


def test_waits_that_come_in_one_moment_are_not_more_than_there_are_threads(
    home: Home, waiting: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "WAITS_AT_ONCE", 1)
    ids = [shell("true")["mission_id"] for _ in range(3)]
    answered: list[str] = []

    async def nobody(*_: Any) -> None:
        pass

    async def test() -> None:
        pools = calls.Calls()

        async def wait(mission_id: str) -> None:
            asked = {"mission_id": mission_id, "timeout_seconds": 600}
            assert ok(await pools.answer("vp_wait_mission", asked, nobody))["timed_out"]
            answered.append(mission_id)

        async with anyio.create_task_group() as tasks:
            for mission_id in ids:
                tasks.start_soon(wait, mission_id)
            assert await _until(lambda: sorted(answered) == sorted(ids[1:]), WITHIN_SECONDS)
            assert waiting == {ids[0]}
            pools.end_waits()
        assert set(answered) == set(ids)

    run(test)


def test_under_a_foreign_lock_fifty_writes_are_told_in_time_and_reads_go_on(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell("true")
    monkeypatch.setattr(limits, "WRITE_WAIT_SECONDS", 2 * BEGIN_WAIT_SECONDS)
    told: list[str] = []

    async def test() -> None:
        async with in_process() as host:

            async def dispatch() -> None:
                answer = await host.call_tool("vp_dispatch_mission", {"vp_id": GENERAL, "objective": "x"})
                assert answer.is_error
                told.append(answer.structured_content["error"]["code"])

            await host.list_tools()  # whose schemas it holds answers to
            with anyio.fail_after(4 * BEGIN_WAIT_SECONDS - 0.1):  # else some stood behind others
                async with anyio.create_task_group() as tasks:
                    for _ in range(50):
                        tasks.start_soon(dispatch)
                    await anyio.sleep(0)
                    assert not (await host.call_tool("vp_list_missions", {})).is_error
                    assert told == []

    with contextlib.closing(cysqlite.connect(str(home.database))) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        run(test)
        foreign.execute("ROLLBACK")
    assert told == ["ledger_busy"] * 50


def test_fifty_calls_at_once_and_two_hosts_on_one_ledger(home: Home) -> None:
    found: list[dict[str, Any]] = []

    async def test() -> None:
        async with Client(stdio(home)) as one, Client(stdio(home), mode="legacy") as other:

            async def dispatch(host: Client, number: int) -> None:
                asked = {"vp_id": GENERAL, "objective": "x", "idempotency_key": f"key-{number}"}
                found.append((await host.call_tool("vp_dispatch_mission", asked)).structured_content)

            async with anyio.create_task_group() as tasks:
                for number in range(25):
                    tasks.start_soon(dispatch, one, number)
                    tasks.start_soon(dispatch, other, number)

    run(test)
    assert len({ok(answer)["mission"]["mission_id"] for answer in found}) == 25
    assert sorted(answer["created"] for answer in found) == [False] * 25 + [True] * 25
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")


def test_stdio_answers_a_call_whose_text_is_cut_in_mid_character(home: Home) -> None:
    info = {"name": "test", "version": "1"}
    initialize = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
    half = {"vp_id": GENERAL, "objective": "half an emoji: \ud83d"}
    sent = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": initialize},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "resources/read", "params": {"uri": "mission://\ud83d"}},
        {"jsonrpc": "2.0", "id": 3, "method": "tools/call"},
        {
            "jsonrpc": "2.0",
            "id": 4,
            "method": "tools/call",
            "params": {"name": "vp_dispatch_mission", "arguments": half},
        },
    ]
    lines = [*map(json.dumps, sent), '{"id":', "[" * 100_000, ""]
    with subprocess.Popen(
        [str(BIN / "vp"), "mcp"],
        env=home.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("\n".join(lines))
        process.stdin.flush()
        patience = threading.Timer(WITHIN_SECONDS, process.kill)
        patience.start()
        answers = {answer["id"]: answer for answer in (json.loads(process.stdout.readline()) for _ in range(3))}
        patience.cancel()
        process.stdin.close()
        assert process.stderr.read().count("is ignored") == 3
        assert process.wait(WITHIN_SECONDS) == 0
    assert answers.keys() == {1, 3, 4}
    error = answers[4]["result"]["structuredContent"]["error"]
    assert (error["code"], error["details"]["field"]) == ("validation_error", "objective")


def test_stdio_ends_with_its_input_even_in_mid_wait(home: Home) -> None:
    mission_id = shell("true")["mission_id"]
    info = {"name": "test", "version": "1"}
    initialize = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
    sent = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": initialize},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {
                "_meta": {"progressToken": "t"},
                "name": "vp_wait_mission",
                "arguments": {"mission_id": mission_id, "timeout_seconds": 600},
            },
        },
    ]
    process = subprocess.Popen(
        [str(BIN / "vp"), "mcp"], env=home.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        for message in sent:
            process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        told = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert told[1]["method"] == "notifications/progress"  # it waits
        process.stdin.close()
        rest = process.stdout.read()
        assert process.wait(WITHIN_SECONDS) == 0
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in rest.splitlines())
    assert status(mission_id) == "queued"


def test_a_missing_or_broken_ledger_is_an_answer_and_not_the_end(home: Home) -> None:
    async def test() -> None:
        async with Client(stdio(home)) as host:
            assert not (await host.call_tool("vp_list_missions", {})).is_error
            home.database.unlink()
            gone = await host.call_tool("vp_list_missions", {})
            assert gone.structured_content["error"]["code"] == "ledger_unavailable"
            (home.path / "vp_queue.toml").write_text("[vp\n")
            broken = await host.call_tool("vp_list_vps", {})
            assert broken.structured_content["error"]["code"] == "configuration_error"
            assert len((await host.list_tools()).tools) == 9

    run(test)
