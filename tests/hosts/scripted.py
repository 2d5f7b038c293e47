"""A scripted language model on loopback that drives real agent hosts: OpenAI's chat completions and responses.

A script is a function that is asked once per turn, with what the host sent, and answers what a model would:
a tool call, or text. It knows tools by their own names (``vp_list_vps``), however the host calls them
(``mcp__vp__vp_list_vps``), and sees the tools' answers only as far as the host passed them on.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.model_server import ModelServer, _Handler, delta, model_server, usage


class Call(NamedTuple):
    """A tool call: the tool's own name, and its arguments."""

    tool: str
    arguments: dict[str, Any]


class Offered(NamedTuple):
    """A tool as the host offers it to the model."""

    name: str
    namespace: str | None = None


@dataclass(frozen=True)
class Conversation:
    """What a host sent with one request.

    Attributes:
        offered: the tools on offer, by their own names.
        results: what the tools answered so far, in order, as text that the host passed on.
    """

    offered: dict[str, Offered]
    results: list[str]

    @property
    def answers(self) -> list[dict[str, Any]]:
        """The results that hold an answer of a ``vp_*`` tool."""
        return [answer for answer in map(vp_answer, self.results) if answer is not None]


Script = Callable[[Conversation], Call | str]


@dataclass
class ScriptedModel:
    """The running server.

    Attributes:
        server: its address and the raw requests.
        conversations: those of the agent itself, in order; not what a host asks beside it, such as a title.
        called: the tools that the script called, in order.
    """

    server: ModelServer
    conversations: list[Conversation] = field(default_factory=list)
    called: list[Call] = field(default_factory=list)

    @property
    def offered(self) -> set[str]:
        """Every tool that was ever on offer, by its own name."""
        return {name for conversation in self.conversations for name in conversation.offered}


def vp_answer(text: str) -> dict[str, Any] | None:
    """The tool's answer within what a host passed on: hosts wrap it in words, in content lists, in JSON strings."""
    decoder = json.JSONDecoder()
    for start in (position for position, letter in enumerate(text) if letter in '{["'):
        with contextlib.suppress(ValueError):
            found = _answer_within(decoder.raw_decode(text, start)[0])
            if found is not None:
                return found
    return None


def _answer_within(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str):
        return vp_answer(value) if '"ok"' in value else None
    if isinstance(value, dict) and isinstance(value.get("ok"), bool):
        return value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for found in map(_answer_within, inner) if found is not None), None)


@contextlib.contextmanager
def scripted_model(script: Script) -> Iterator[ScriptedModel]:
    """Serve a script for the time of the block."""
    numbers = itertools.count(1)

    def turn(handler: _Handler) -> None:
        request = handler.request_read
        responses = request.path.endswith("/responses")
        conversation = _of_responses(request.body) if responses else _of_chat(request.body)
        if conversation.offered:
            said = script(conversation)
            model.conversations.append(conversation)
        else:  # beside the conversation, such as a title for it
            said = "A story"
        handler.begin(200, "text/event-stream")
        send = _send_responses if responses else _send_chat
        if isinstance(said, Call):
            model.called.append(said)
            send(handler, next(numbers), said, conversation.offered.get(said.tool, Offered(said.tool)))
        else:
            send(handler, next(numbers), said, None)

    with model_server(turn) as server:
        model = ScriptedModel(server)
        yield model


# --- chat completions ---------------------------------------------------------------------------


def _of_chat(body: dict[str, Any]) -> Conversation:
    return Conversation(
        {_own_name(tool["function"]["name"]): Offered(tool["function"]["name"]) for tool in body.get("tools") or ()},
        [_text(message["content"]) for message in body["messages"] if message["role"] == "tool"],
    )


def _send_chat(handler: _Handler, number: int, said: Call | str, tool: Offered | None) -> None:
    handler.data(delta(role="assistant"))
    if isinstance(said, str):
        handler.data(delta(said))
        handler.data(delta(finish="stop"))
    else:
        assert tool is not None
        function = {"name": tool.name, "arguments": json.dumps(said.arguments)}
        handler.data(delta(tool_calls=[{"index": 0, "id": f"call_{number}", "type": "function", "function": function}]))
        handler.data(delta(finish="tool_calls"))
    handler.data(usage(12, 34))
    handler.data("[DONE]")


# --- responses ----------------------------------------------------------------------------------


def _of_responses(body: dict[str, Any]) -> Conversation:
    offered: dict[str, Offered] = {}
    for tool in body.get("tools") or ():
        name = tool.get("name") or tool["type"]
        if tool["type"] == "namespace":
            offered |= {_own_name(inner["name"]): Offered(inner["name"], name) for inner in tool["tools"]}
        else:
            offered[_own_name(name)] = Offered(name)
    outputs = ("function_call_output", "custom_tool_call_output")
    return Conversation(offered, [_text(item["output"]) for item in body["input"] if item.get("type") in outputs])


def _send_responses(handler: _Handler, number: int, said: Call | str, tool: Offered | None) -> None:
    item: dict[str, Any]
    if isinstance(said, str):
        item = {"type": "message", "role": "assistant", "id": f"msg_{number}"}
        item["content"] = [{"type": "output_text", "text": said, "annotations": []}]
    else:
        assert tool is not None
        item = {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "name": tool.name}
        item["arguments"] = json.dumps(said.arguments)
        if tool.namespace:
            item["namespace"] = tool.namespace
    response = {"id": f"resp_{number}", "object": "response", "output": [item], "status": "completed"}
    tokens = {"input_tokens": 12, "output_tokens": 34, "total_tokens": 46}
    for event in (
        {"type": "response.created", "response": {"id": f"resp_{number}"}},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {**response, "usage": tokens}},
    ):
        handler.data(event)


# --- both ---------------------------------------------------------------------------------------


def _own_name(name: str) -> str:
    """A tool's name without what hosts put before it to tell servers apart."""
    _, found, rest = name.rpartition("vp_vp_") if "vp_vp_" in name else name.rpartition("__vp_")
    return f"vp_{rest}" if found else name


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content)
