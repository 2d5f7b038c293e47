"""A scripted language model on loopback that drives real agent hosts: OpenAI's chat completions and responses, and
Anthropic's messages; streamed, or in one piece where a host asks for that.

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
        protocol = PROTOCOLS[request.path.partition("?")[0].rpartition("/")[2]]
        conversation = protocol.read(request.body)
        if conversation.offered:
            said = script(conversation)
            model.conversations.append(conversation)
        else:  # beside the conversation, such as a title for it
            said = "A story"
        tool = None
        if isinstance(said, Call):
            model.called.append(said)
            tool = conversation.offered.get(said.tool, Offered(said.tool))
        if request.body.get("stream"):
            handler.begin(200, "text/event-stream")
            protocol.stream(handler, next(numbers), said, tool)
        else:
            handler.begin(200, "application/json")
            handler.wfile.write(json.dumps(protocol.whole(next(numbers), said, tool)).encode())

    with model_server(turn) as server:
        model = ScriptedModel(server)
        yield model


# --- chat completions ---------------------------------------------------------------------------


def _of_chat(body: dict[str, Any]) -> Conversation:
    return Conversation(
        {_own_name(tool["function"]["name"]): Offered(tool["function"]["name"]) for tool in body.get("tools") or ()},
        [_text(message["content"]) for message in body["messages"] if message["role"] == "tool"],
    )


def _chat_said(number: int, said: Call | str, tool: Offered | None) -> tuple[dict[str, Any], str]:
    """The message's part that says it, and why it ends there."""
    if isinstance(said, str):
        return {"content": said}, "stop"
    assert tool is not None
    function = {"name": tool.name, "arguments": json.dumps(said.arguments)}
    return {"tool_calls": [{"id": f"call_{number}", "type": "function", "function": function}]}, "tool_calls"


def _stream_chat(handler: _Handler, number: int, said: Call | str, tool: Offered | None) -> None:
    part, finish = _chat_said(number, said, tool)
    for call in part.get("tool_calls", ()):
        call["index"] = 0
    handler.data(delta(role="assistant"))
    handler.data(delta(**part))
    handler.data(delta(finish=finish))
    handler.data(usage(12, 34))
    handler.data("[DONE]")


def _whole_chat(number: int, said: Call | str, tool: Offered | None) -> dict[str, Any]:
    part, finish = _chat_said(number, said, tool)
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **part}, "finish_reason": finish}
    head = {"id": f"chatcmpl-{number}", "object": "chat.completion", "created": 0, "model": "scripted"}
    tokens = {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46}
    return {**head, "choices": [choice], "usage": tokens}


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


def _whole_responses(number: int, said: Call | str, tool: Offered | None) -> dict[str, Any]:
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
    tokens = {"input_tokens": 12, "output_tokens": 34, "total_tokens": 46}
    head = {"id": f"resp_{number}", "object": "response", "status": "completed"}
    return {**head, "output": [item], "usage": tokens}


def _stream_responses(handler: _Handler, number: int, said: Call | str, tool: Offered | None) -> None:
    response = _whole_responses(number, said, tool)
    for event in (
        {"type": "response.created", "response": {"id": response["id"]}},
        {"type": "response.output_item.done", "output_index": 0, "item": response["output"][0]},
        {"type": "response.completed", "response": response},
    ):
        handler.data(event)


# --- messages -----------------------------------------------------------------------------------


def _of_messages(body: dict[str, Any]) -> Conversation:
    parts = [part for message in body["messages"] for part in message["content"] if isinstance(part, dict)]
    return Conversation(
        {_own_name(tool["name"]): Offered(tool["name"]) for tool in body.get("tools") or ()},
        [_text(part.get("content", "")) for part in parts if part["type"] == "tool_result"],
    )


def _whole_messages(number: int, said: Call | str, tool: Offered | None) -> dict[str, Any]:
    content: dict[str, Any] = {"type": "text", "text": said}
    if isinstance(said, Call):
        assert tool is not None
        content = {"type": "tool_use", "id": f"toolu_{number}", "name": tool.name, "input": said.arguments}
    head = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": "scripted", "stop_sequence": None}
    tokens = {"input_tokens": 12, "output_tokens": 34}
    return {**head, "content": [content], "stop_reason": "end_turn" if tool is None else "tool_use", "usage": tokens}


def _stream_messages(handler: _Handler, number: int, said: Call | str, tool: Offered | None) -> None:
    message = _whole_messages(number, said, tool)
    (content,) = message["content"]
    if isinstance(said, str):
        begun, part = {**content, "text": ""}, {"type": "text_delta", "text": said}
    else:
        begun, part = {**content, "input": {}}, {"type": "input_json_delta", "partial_json": json.dumps(said.arguments)}
    ended = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    for event in (
        {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": begun},
        {"type": "content_block_delta", "index": 0, "delta": part},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ended, "usage": {"output_tokens": 34}},
        {"type": "message_stop"},
    ):
        handler.wfile.write(f"event: {event['type']}\n".encode())
        handler.data(event)


# --- all of them ---------------------------------------------------------------------------------


def _own_name(name: str) -> str:
    """A tool's name without what hosts put before it to tell servers apart."""
    _, found, rest = name.rpartition("vp_vp_") if "vp_vp_" in name else name.rpartition("__vp_")
    return f"vp_{rest}" if found else name


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content)


class Protocol(NamedTuple):
    """How a conversation is read, and an answer written: as a stream, or in one piece."""

    read: Callable[[dict[str, Any]], Conversation]
    stream: Callable[[_Handler, int, Call | str, Offered | None], None]
    whole: Callable[[int, Call | str, Offered | None], dict[str, Any]]


# By the last part of the path that was asked.
PROTOCOLS = {
    "completions": Protocol(_of_chat, _stream_chat, _whole_chat),
    "responses": Protocol(_of_responses, _stream_responses, _whole_responses),
    "messages": Protocol(_of_messages, _stream_messages, _whole_messages),
}
