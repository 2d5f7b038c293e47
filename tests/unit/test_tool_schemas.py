"""The short schemas that hosts show their models: cheap, taken by every host, and the contract's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from rs_bpe.bpe import openai

from vp_queue import tool_schemas, tools

TOKENS_MAX = 2_500
UNWANTED = ("title", "$ref", "$defs", "pattern", "maxLength")


def parts(schema: Any, *, names: bool = False) -> Iterator[dict[str, Any]]:
    """Every schema in a schema; the keys of ``properties`` are names, not keywords."""
    if isinstance(schema, list):
        for item in schema:
            yield from parts(item)
    elif isinstance(schema, dict):
        if not names:
            yield schema
        for key, value in schema.items():
            yield from parts(value, names=key == "properties" and not names)


def test_all_nine_together_are_cheap() -> None:
    listed = [
        {"name": name, "description": definition.description, "inputSchema": tool_schemas.input_schema(name)}
        for name, definition in tools.DEFINITIONS.items()
    ]
    tokens = len(openai.o200k_base().encode(json.dumps(listed, separators=(",", ":"), ensure_ascii=False)))
    assert tokens < TOKENS_MAX


@pytest.mark.parametrize("name", tools.DEFINITIONS)
def test_a_tools_arguments_are_an_object_without_what_a_model_does_not_need(name: str) -> None:
    schema = tool_schemas.input_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    model = tools.DEFINITIONS[name].arguments
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]) == list(model.model_fields)
    assert schema.get("required", []) == [field for field, info in model.model_fields.items() if info.is_required()]
    for part in parts(schema):
        assert not set(UNWANTED) & set(part), part
        assert part.get("type") != "null"


@pytest.mark.parametrize("name", tools.DEFINITIONS)
def test_answers_and_errors_keep_to_the_schema_of_answers(name: str) -> None:
    schema = tool_schemas.output_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    assert schema["type"] == "object"  # MCP asks for it at the top
    check.validate(tools.call(name, {"surely": "unknown"}))
    if name == "vp_list_vps":
        check.validate(tools.call(name, {}))
    assert not check.is_valid({"ok": True})
    assert not check.is_valid({"ok": False, "error": {"code": "internal_error"}})


def test_there_is_none_of_a_tool_that_is_none() -> None:
    for of in (tool_schemas.input_schema, tool_schemas.output_schema):
        with pytest.raises(KeyError):
            of("vp_make_coffee")
