"""The tools as the libraries of agents take them; skipped where those are not installed."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import sys
from typing import Any

import pytest

from tests.harness import GENERAL, Home, command, ok
from tests.hosts.scripted import Call, Conversation, scripted_model
from vp_queue import tool_schemas, tools
from vp_queue.mcp import definitions


@pytest.mark.parametrize(
    ("adapter", "library", "extra"),
    [("claude_sdk", "claude_agent_sdk", "claude"), ("pydantic_ai", "pydantic_ai", "pydantic-ai")],
)
def test_without_its_library_an_adapter_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, adapter: str, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, f"vp_queue.adapters.{adapter}", raising=False)
    with pytest.raises(ModuleNotFoundError, match=rf"{library} is not installed.*'vp-queue\[{extra}\]'"):
        importlib.import_module(f"vp_queue.adapters.{adapter}")


def adapter(name: str, library: str) -> Any:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} not installed; make hosts installs it")
    return importlib.import_module(f"vp_queue.adapters.{name}")


# --- Claude Agent SDK ---------------------------------------------------------------------------


def test_the_sdks_server_has_the_tools_with_their_hints(home: Home) -> None:
    from mcp.client import Client

    claude_sdk = adapter("claude_sdk", "claude_agent_sdk")
    server = claude_sdk.vp_server()
    assert (server["type"], server["name"]) == ("sdk", "vp")

    async def look() -> None:
        async with Client(server["instance"]) as host:
            listed = (await host.list_tools()).tools
            assert [(tool.name, tool.description, tool.input_schema) for tool in listed] == [
                (tool.name, tool.description, tool.input_schema) for tool in definitions.listed()
            ]
            for told, own in zip(listed, definitions.listed(), strict=True):
                assert told.annotations is not None
                assert own.annotations is not None
                hints = own.annotations.model_dump(exclude_none=True)
                assert told.annotations.model_dump(include=set(hints)) == hints
                assert (told.meta or {})["anthropic/maxResultSizeChars"] == 500_000

            good = await host.call_tool("vp_list_vps", {})
            assert not good.is_error
            assert GENERAL in good.content[0].text
            bad = await host.call_tool("vp_get_mission", {"mission_id": "nothing"})
            assert bad.is_error
            error = json.loads(bad.content[0].text)["error"]
            assert (error["code"], error["details"]["field"]) == ("validation_error", "mission_id")

    asyncio.run(look())


def test_the_sdks_names_of_the_tools() -> None:
    claude_sdk = adapter("claude_sdk", "claude_agent_sdk")
    assert claude_sdk.allowed_tools() == [f"mcp__vp__{name}" for name in tools.DEFINITIONS]
    assert claude_sdk.allowed_tools("missions")[0].startswith("mcp__missions__vp_")


# --- OpenAI's library ---------------------------------------------------------------------------


def test_the_responses_api_takes_the_tools_and_its_calls_are_answered(home: Home) -> None:
    openai_tools = adapter("openai_tools", "openai")
    from openai import OpenAI

    def script(conversation: Conversation) -> Call | str:
        return conversation.results[0] if conversation.results else Call("vp_list_vps", {})

    with scripted_model(script) as model:
        client = OpenAI(base_url=model.server.base_url, api_key="none")
        given: list[Any] = [{"role": "user", "content": "Which VPs are there?"}]
        response = client.responses.create(model="scripted", input=given, tools=openai_tools.responses_tools())
        (call,) = response.output
        output = openai_tools.dispatch(call)
        given += [call, {"type": "function_call_output", "call_id": call.call_id, "output": output}]
        response = client.responses.create(model="scripted", input=given, tools=openai_tools.responses_tools())
        client.close()
    assert model.offered == set(tools.DEFINITIONS)
    assert ok(json.loads(response.output_text)) == ok(tools.vp_list_vps())


# --- pydantic-ai --------------------------------------------------------------------------------


def run_agent(toolset: Any, name: str, arguments: dict[str, Any]) -> tuple[list[Any], Any]:
    """An agent whose model makes one call; returns the tools it was offered, and what the tool answered."""
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
    from pydantic_ai.models.function import FunctionModel

    offered: list[Any] = []

    def model(messages: list[Any], about: Any) -> ModelResponse:
        offered[:] = about.function_tools
        if len(messages) == 1:
            return ModelResponse(parts=[ToolCallPart(name, arguments)])
        return ModelResponse(parts=[TextPart("done")])

    result = asyncio.run(Agent(FunctionModel(model), toolsets=[toolset]).run("go"))
    (answer,) = [
        part.content for message in result.all_messages() for part in message.parts if isinstance(part, ToolReturnPart)
    ]
    return offered, answer


def test_a_toolset_offers_the_contract_and_answers_as_it_does(home: Home) -> None:
    vp_toolset = adapter("pydantic_ai", "pydantic_ai").vp_toolset
    mission_id = command("true")["mission_id"]
    offered, answer = run_agent(vp_toolset(), "vp_get_mission", {"mission_id": mission_id})
    assert {tool.name: (tool.description, tool.parameters_json_schema) for tool in offered} == {
        name: (definition.description, tool_schemas.input_schema(name))
        for name, definition in tools.DEFINITIONS.items()
    }
    assert answer == ok(tools.vp_get_mission(mission_id=mission_id))


def test_a_wrong_argument_comes_back_as_the_contracts_error(home: Home) -> None:
    vp_toolset = adapter("pydantic_ai", "pydantic_ai").vp_toolset
    _, answer = run_agent(vp_toolset(), "vp_list_missions", {"limit": 0, "nope": 1})
    assert answer["error"]["code"] == "validation_error"
    assert answer == tools.vp_list_missions(limit=0, nope=1)


def test_one_toolset_serves_one_event_loop_after_another(home: Home) -> None:
    toolset = adapter("pydantic_ai", "pydantic_ai").vp_toolset()
    for _ in range(2):
        assert run_agent(toolset, "vp_list_vps", {})[1]["ok"] is True
