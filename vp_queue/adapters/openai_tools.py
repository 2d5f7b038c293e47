"""The tools for function calling as OpenAI has it: schemas for its two APIs, and a dispatcher for the model's calls.

::

    completion = client.chat.completions.create(model=…, messages=messages, tools=chat_tools())
    for call in completion.choices[0].message.tool_calls or []:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": dispatch(call)})

Nothing of OpenAI's is needed for it: a call may be an object of its library, or the plain JSON of any server that
speaks as it does, of which some give the arguments as an object. (The extra ``openai`` installs that library.)

Not in strict mode, where a schema may hold no map of free keys (``metadata``, ``constraints.files``) and every
argument must be given. The contract judges the arguments all the same; what is wrong, the model is told by field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from vp_queue import missions, origin, tool_schemas, tools
from vp_queue.adapters import calling
from vp_queue.errors import ValidationError

LIBRARY: Final = "openai"


def chat_tools() -> list[dict[str, Any]]:
    """The ``tools`` of a request to chat completions."""
    return [{"type": "function", "function": _function(definition)} for definition in tools.DEFINITIONS.values()]


def responses_tools() -> list[dict[str, Any]]:
    """The ``tools`` of a request to the responses API, where strict mode has to be turned off outright."""
    return [{"type": "function", **_function(definition), "strict": False} for definition in tools.DEFINITIONS.values()]


def dispatch(tool_call: Any, *, keep_waiting: missions.KeepWaiting | None = None) -> str:
    """Carry out a model's tool call; the content of the message that answers it.

    Args:
        tool_call: of chat completions or responses, as an object or a mapping.
        keep_waiting: as :func:`vp_queue.tools.call` takes it, to end a wait from another thread.

    Returns:
        the tool's answer as JSON; an error is an answer too, even of a call whose arguments are no JSON.
    """
    name, arguments = _call(tool_call)
    if isinstance(arguments, ValidationError):
        return calling.as_text({"ok": False, "error": arguments.as_dict()})
    with origin.acting(calling.FACE, LIBRARY):
        return calling.as_text(tools.call(name, arguments, keep_waiting=keep_waiting))


async def dispatch_async(tool_call: Any) -> str:
    """As :func:`dispatch`, in a thread: the event loop goes on, and a wait ends if its task is cancelled."""
    name, arguments = _call(tool_call)
    if isinstance(arguments, ValidationError):
        return calling.as_text({"ok": False, "error": arguments.as_dict()})
    return calling.as_text(await calling.answer(name, arguments, LIBRARY))


def _function(definition: tools.Definition) -> dict[str, Any]:
    schema = tool_schemas.input_schema(definition.name)
    return {"name": definition.name, "description": definition.description, "parameters": schema}


def _call(tool_call: Any) -> tuple[str, dict[str, Any] | ValidationError]:
    """The tool's name and its arguments, which the model wrote as JSON (or tried to)."""
    function = _part(tool_call, "function") or tool_call  # responses have no such level
    name, text = str(_part(function, "name")), _part(function, "arguments")
    try:
        arguments = json.loads(text or "{}") if not isinstance(text, Mapping) else dict(text)
    except (ValueError, TypeError, RecursionError) as error:
        return name, ValidationError(f"arguments: must be a JSON object ({error})", field="arguments")
    if not isinstance(arguments, dict):
        return name, ValidationError("arguments: must be a JSON object", field="arguments")
    return name, arguments


def _part(whole: Any, name: str) -> Any:
    return whole.get(name) if isinstance(whole, Mapping) else getattr(whole, name, None)
