"""The MCP server beyond plain calls: resources, subscriptions across processes, tasks; on a real ledger."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.subscriptions import Subscription
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourceUpdated

from tests import oracle
from tests.harness import BIN, GENERAL, Home, ended, ok, shell
from vp_queue import missions, tools
from vp_queue.errors import LedgerUnavailable
from vp_queue.mcp import extension, feed, resources
from vp_queue.mcp.server import Face

WITHIN_SECONDS = 30.0


# The handshake era has its own ways, which the SDK no longer recommends.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with anyio.fail_after(4 * WITHIN_SECONDS):
            await test()

    anyio.run(bounded)


@asynccontextmanager
async def client(mode: str = "auto", **options: Any) -> AsyncIterator[Client]:
    async with Client(Face().server, mode=mode, **options) as connected:
        yield connected


def stdio(home: Home) -> StdioServerParameters:
    return StdioServerParameters(command=str(BIN / "vp"), args=["mcp"], env=home.environment)


def text(result: types.ReadResourceResult) -> str:
    (contents,) = result.contents
    assert isinstance(contents, types.TextResourceContents)
    return contents.text


def test_a_mission_its_artifacts_and_an_inbox_are_resources(home: Home) -> None:
    home.consumer()
    mission_id = shell('printf "Roses" > "$VP_WORK_PRODUCTS/a poem.md"; printf "\\377" > "$VP_WORK_PRODUCTS/bytes"')[
        "mission_id"
    ]
    ended(mission_id)

    async def test() -> None:
        async with client() as host:
            templates = (await host.list_resource_templates()).resource_templates
            assert [template.uri_template for template in templates] == [
                "mission://{id}",
                "mission://{id}/artifacts/{+path}",
                "events://{reader}",
            ]
            (listed,) = (await host.list_resources()).resources
            assert (listed.uri, listed.title) == (f"mission://{mission_id}", "a command")
            assert json.loads(text(await host.read_resource(listed.uri))) == tools.vp_get_mission(mission_id=mission_id)
            poem = await host.read_resource(resources.artifact_uri(mission_id, "a poem.md"))
            assert (text(poem), poem.contents[0].mime_type) == ("Roses", "text/markdown")
            (blob,) = (await host.read_resource(f"mission://{mission_id}/artifacts/bytes")).contents
            assert isinstance(blob, types.BlobResourceContents)
            assert blob.blob == "/w=="
            before = tools.vp_read_events(reader="simone")
            assert json.loads(text(await host.read_resource("events://simone"))) == before
            assert tools.vp_read_events(reader="simone") == before  # nothing was acknowledged

    run(test)
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize(
    "uri", ["mission://m-000000000000", "mission://no", "mission://m-000000000000/artifacts/x", "other://x"]
)
def test_an_unknown_resource_is_told_as_the_protocol_wants_it(home: Home, mode: str, uri: str) -> None:
    async def test() -> None:
        async with client(mode) as host:
            with pytest.raises(MCPError, match="Resource not found") as told:
                await host.read_resource(uri)
            assert (told.value.error.code, told.value.error.data) == (types.INVALID_PARAMS, {"uri": uri})

    run(test)


def test_an_artifact_that_was_changed_is_not_handed_out(home: Home) -> None:
    home.consumer()
    mission_id = shell('printf "Roses" > "$VP_WORK_PRODUCTS/poem.md"')["mission_id"]
    ended(mission_id)
    (home.workspace(mission_id) / "work_products" / "poem.md").write_text("Weeds")

    async def test() -> None:
        async with client() as host:
            with pytest.raises(MCPError, match="changed"):
                await host.read_resource(f"mission://{mission_id}/artifacts/poem.md")

    run(test)


def test_a_change_in_another_process_reaches_a_stream_that_listens(home: Home) -> None:
    mission_id = shell("true")["mission_id"]  # no consumer runs yet: what follows is its doing, in its process

    async def test() -> None:
        async with Client(stdio(home)) as host:
            uris = [f"mission://{mission_id}", "events://simone"]
            async with host.listen(resource_subscriptions=uris) as changes:
                await anyio.to_thread.run_sync(home.consumer)
                seen: set[str] = set()
                with anyio.fail_after(WITHIN_SECONDS):
                    async for change in changes:
                        assert isinstance(change, ResourceUpdated)
                        seen.add(change.uri)
                        if seen == set(uris):
                            break

    run(test)
    ended(mission_id)


def test_a_change_in_another_process_reaches_a_host_of_the_handshake_era(home: Home) -> None:
    mission_id, other = shell("true")["mission_id"], shell("true")["mission_id"]
    told: list[str] = []
    news = anyio.Event()

    async def note(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            told.append(str(message.params.uri))
            news.set()

    async def test() -> None:
        async with Client(stdio(home), mode="legacy", message_handler=note) as host:
            await host.subscribe_resource(f"mission://{mission_id}")
            await host.subscribe_resource(f"mission://{other}")
            await host.unsubscribe_resource(f"mission://{other}")
            await anyio.to_thread.run_sync(home.consumer)
            with anyio.fail_after(WITHIN_SECONDS):
                await news.wait()

    run(test)
    assert set(told) == {f"mission://{mission_id}"}


async def told_of(changes: Subscription, uri: str) -> None:
    """Return once the stream has told of a change."""
    with anyio.fail_after(WITHIN_SECONDS):
        async for change in changes:
            if change == ResourceUpdated(uri):
                return


def test_a_ledger_that_was_restored_is_followed_from_where_it_is(home: Home) -> None:
    backup = home.path / "backup.db"

    def vp(*argv: str) -> None:
        subprocess.run([str(BIN / "vp"), *argv], env=home.environment, check=True, capture_output=True)

    shell("true")
    vp("backup", str(backup))
    for _ in range(5):
        shell("true")

    async def test() -> None:
        async with Client(stdio(home)) as host, host.listen(resource_subscriptions=["events://simone"]) as changes:
            vp("restore", str(backup), "--force")
            await told_of(changes, "events://simone")  # what the host knows may be of the other ledger
            vp("dispatch", GENERAL, "again")
            await told_of(changes, "events://simone")

    run(test)


def test_trouble_ends_neither_the_feed_nor_the_server(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "RETRY_SECONDS", 0.05)
    after, failed = missions.events_after, anyio.Event()

    def broken(*_: Any, **__: Any) -> Any:
        failed.set()
        raise RuntimeError("broken")

    async def test() -> None:
        async with client() as host:
            monkeypatch.setattr(missions, "events_after", broken)
            async with host.listen(resource_subscriptions=["events://simone"]) as changes:
                await failed.wait()
                monkeypatch.setattr(missions, "events_after", after)
                await told_of(changes, "events://simone")  # something may have been missed
                await anyio.to_thread.run_sync(shell, "true")
                await told_of(changes, "events://simone")
            assert not (await host.call_tool("vp_list_vps", {})).is_error

    run(test)


def test_a_host_of_the_handshake_era_need_not_wait_between_subscribing_and_not(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is answered for itself, although both are under way at once."""

    def unavailable() -> int:
        time.sleep(0.2)
        raise LedgerUnavailable("broken")

    monkeypatch.setattr(missions, "newest_seq", unavailable)

    async def test() -> None:
        async with client("legacy") as host:

            async def subscribe() -> None:
                with pytest.raises(MCPError) as told:
                    await host.subscribe_resource("events://simone")
                assert told.value.error.data["error"]["code"] == "ledger_unavailable"

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(subscribe)
                tasks.start_soon(host.unsubscribe_resource, "events://simone")

    run(test)


def test_subscriptions_have_limits(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "ADDRESSES", 2)

    async def test() -> None:
        async with client("legacy") as host:
            for uri, refused in (
                ("events://a", None),
                ("events://" + "x" * feed.ADDRESS_CHARS, "characters per resource"),
                ("events://b", None),
                ("events://c", "At most 2 resources"),
            ):
                with pytest.raises(MCPError, match=refused) if refused else contextlib.nullcontext():
                    await host.subscribe_resource(uri)
        monkeypatch.setattr(feed, "SUBSCRIPTIONS", 0)
        async with client("legacy") as host:
            with pytest.raises(MCPError, match="limit reached"):
                await host.subscribe_resource("events://a")

    run(test)


async def request(host: Client, method: str, **params: Any) -> dict[str, Any]:
    """A request as it goes over the wire, for what the SDK's client does not know."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"extensions": {extension.IDENTIFIER: {}}},
    }
    answer: dict[str, Any] = await host.session._dispatcher.send_raw_request(method, {**params, "_meta": meta})
    return answer


def test_a_wait_is_a_task_that_outlives_the_server(home: Home) -> None:
    mission_id = shell("true")["mission_id"]
    waiting: dict[str, Any] = {}

    async def begin() -> None:
        async with Client(stdio(home)) as host:
            asked = {"name": "vp_wait_mission", "arguments": {"mission_id": mission_id}}
            waiting.update(await request(host, "tools/call", **asked))
            assert (waiting["resultType"], waiting["status"]) == ("task", "working")
            assert (await request(host, "tasks/get", taskId=waiting["taskId"]))["status"] == "working"

    async def come_back() -> None:
        async with Client(stdio(home)) as host:  # another process
            done = await request(host, "tasks/get", taskId=waiting["taskId"])
            assert (done["resultType"], done["status"]) == ("complete", "completed")
            answer = done["result"]["structuredContent"]
            assert (answer["timed_out"], answer["mission"]["status"]) == (False, "completed")
            assert [event["type"] for event in answer["events"]] == ["mission.started", "mission.completed"]
            at_once = await request(host, "tools/call", name="vp_wait_mission", arguments={"mission_id": mission_id})
            assert at_once["resultType"] == "complete"
            with pytest.raises(MCPError) as told:
                await request(host, "tasks/get", taskId="m-000000000000.1")
            assert told.value.error.code == types.INVALID_PARAMS

    run(begin)
    home.consumer()
    ended(mission_id)
    run(come_back)


def test_a_ledger_that_cannot_be_read_is_told_to_those_who_use_tasks_as_well(home: Home) -> None:
    mission_id = shell("true")["mission_id"]

    async def test() -> None:
        async with client() as host:
            asked = {"name": "vp_wait_mission", "arguments": {"mission_id": mission_id}}
            task = await request(host, "tools/call", **asked)
            home.database.rename(home.path / "elsewhere")
            answer = await request(host, "tools/call", **asked)
            assert answer["isError"]
            assert answer["structuredContent"]["error"]["code"] == "ledger_unavailable"
            with pytest.raises(MCPError) as told:
                await request(host, "tasks/get", taskId=task["taskId"])
            assert told.value.error.code == types.INTERNAL_ERROR
            assert told.value.error.data["error"]["code"] == "ledger_unavailable"

    run(test)


def test_cancelling_a_wait_leaves_the_mission_alone(home: Home) -> None:
    mission_id = shell("true")["mission_id"]

    async def test() -> None:
        async with client() as host:
            asked = {"name": "vp_wait_mission", "arguments": {"mission_id": mission_id}}
            task = await request(host, "tools/call", **asked)
            assert "status" not in await request(host, "tasks/cancel", taskId=task["taskId"])
            assert "status" not in await request(host, "tasks/update", taskId=task["taskId"], inputResponses={})
            timed = {**asked, "arguments": {"mission_id": mission_id, "timeout_seconds": 0}}
            assert (await request(host, "tools/call", **timed))["resultType"] == "complete"

    run(test)
    mission = ok(tools.vp_get_mission(mission_id=mission_id))["mission"]
    assert (mission["status"], mission["cancel_requested"]) == ("queued", False)


def test_tasks_are_for_those_who_understand_them(home: Home) -> None:
    mission_id = shell("true")["mission_id"]

    async def refused_to(mode: str, code: int) -> None:
        version = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
        meta = {"_meta": {**version, "io.modelcontextprotocol/clientCapabilities": {}}} if mode == "auto" else {}
        async with client(mode) as host:
            waited = await host.call_tool("vp_wait_mission", {"mission_id": mission_id, "timeout_seconds": 0})
            assert waited.structured_content["timed_out"]
            for method in ("tasks/get", "tasks/cancel"):
                with pytest.raises(MCPError) as told:
                    await host.session._dispatcher.send_raw_request(method, {"taskId": f"{mission_id}.1", **meta})
                assert told.value.error.code == code

    run(lambda: refused_to("legacy", types.METHOD_NOT_FOUND))
    run(lambda: refused_to("auto", types.MISSING_REQUIRED_CLIENT_CAPABILITY))
