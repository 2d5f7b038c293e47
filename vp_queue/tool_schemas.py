"""JSON Schemas of the tools as the hosts of agents want them: the MCP server, and the adapters.

Input schemas are read by a language model with every request, so they are short: no titles, no nulls (what may be
null may be left out), nothing behind a reference. They promise no more than the contract keeps; what they leave
out, such as the lengths of texts, the contract judges. Output schemas are read by programs, which hold answers to them.
``tools.schema`` has the whole of both, for people.
"""

from __future__ import annotations

from typing import Any, Final

from vp_queue import tools
from vp_queue.contracts import views

Schema = dict[str, Any]

LARGEST_EXACT: Final = 2**53  # beyond it a host's JSON numbers are not exact
# Of no use to a model that writes arguments: names again, the lengths and patterns of free text.
_DROPPED: Final = frozenset({"title", "maxLength", "minLength", "maxItems", "minItems", "maxProperties", "pattern"})


def input_schema(name: str) -> Schema:
    """The short schema of a tool's arguments, without references: always an object, with all its properties.

    Raises:
        KeyError: there is no such tool.
    """
    whole = tools.DEFINITIONS[name].arguments.model_json_schema(mode="validation")
    short = _short(whole, whole.get("$defs", {}))
    short.pop("description", None)  # stands beside the schema already
    short.setdefault("properties", {})
    return short


def output_schema(name: str) -> Schema:
    """The schema of a tool's answers: its success or the error object.

    The error is part of it because some hosts hold the structured content of an error to the schema as well, and
    would show their own complaint in place of the message.

    Raises:
        KeyError: there is no such tool.
    """
    success = tools.DEFINITIONS[name].answer.model_json_schema(mode="serialization")
    error = views.ErrorAnswer.model_json_schema(mode="serialization")
    definitions = {**success.pop("$defs", {}), **error.pop("$defs", {})}
    schema = {"type": "object", "anyOf": [success, error], "$defs": definitions}
    untitled: Schema = _untitled(schema)
    return untitled


def _short(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """A schema in the fewest words that mean the same to whoever writes arguments."""
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        # A fixed word's description is for those who read the code.
        words = {key: value for key, value in target.items() if key != "description" or "enum" not in target}
        return _short({**words, **{key: value for key, value in schema.items() if key != "$ref"}}, definitions)
    short = {key: _number(value) for key, value in schema.items() if key not in _DROPPED and key != "$defs"}
    if short.get("default", ...) in (None, {}, ""):
        del short["default"]
    if short.get("maximum", 0) > LARGEST_EXACT:
        del short["maximum"]
    if "anyOf" in short:
        return _short_choice(short, definitions)
    for key in ("items", "additionalProperties"):
        if isinstance(short.get(key), dict):
            short[key] = _short(short[key], definitions)
    if short.get("type") == "object":
        short.pop("propertyNames", None)
    if "properties" in short:
        short["properties"] = {name: _short(value, definitions) for name, value in short["properties"].items()}
    return short


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _short_choice(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    choices = [_short(choice, definitions) for choice in schema["anyOf"] if choice.get("type") != "null"]
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return {**choices[0], **rest} if len(choices) == 1 else {"anyOf": choices, **rest}


def _untitled(part: Any, *, names: bool = False) -> Any:
    """Without pydantic's titles; ``names``: the keys are names of properties, of which one may be "title"."""
    if isinstance(part, list):
        return [_untitled(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {
        key: _untitled(value, names=key in ("properties", "$defs") and not names)
        for key, value in part.items()
        if names or key != "title"
    }
