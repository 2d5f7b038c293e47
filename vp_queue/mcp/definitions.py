"""The tools as a host lists them, from the one definition of each."""

from __future__ import annotations

import functools
from typing import Any

import mcp_types as types

from vp_queue import tool_schemas, tools


@functools.cache
def listed() -> list[types.Tool]:
    """Every tool with its title, hints and schemas."""
    return [_tool(definition) for definition in tools.DEFINITIONS.values()]


def input_schema(name: str) -> dict[str, Any] | None:
    """The input schema of a tool; None if there is no such tool."""
    return next((tool.input_schema for tool in listed() if tool.name == name), None)


def _tool(definition: tools.Definition) -> types.Tool:
    hints = definition.hints
    return types.Tool(
        name=definition.name,
        title=definition.title,
        description=definition.description,
        input_schema=tool_schemas.input_schema(definition.name),
        output_schema=tool_schemas.output_schema(definition.name),
        annotations=types.ToolAnnotations(
            title=definition.title,
            read_only_hint=hints.read_only,
            # Said outright: MCP's defaults are the opposite, a tool that writes destroys and reaches the whole world.
            destructive_hint=hints.destructive,
            idempotent_hint=hints.idempotent or hints.read_only,
            open_world_hint=False,
        ),
    )
