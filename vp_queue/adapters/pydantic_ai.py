"""The tools for an agent of pydantic-ai, as a toolset.

::

    agent = Agent(model, toolsets=[vp_toolset()], instructions=PROMPT_RULE)

Needs the extra ``pydantic-ai``. The contract judges the arguments, not pydantic-ai: a wrong one comes back to the
model as the tool's error object, which names the field, and uses up no retries.
"""

from __future__ import annotations

from typing import Any

from vp_queue import tool_schemas, tools
from vp_queue.adapters import calling

try:
    from pydantic_ai import FunctionToolset, Tool
except ModuleNotFoundError as error:
    raise calling.missing("pydantic-ai", error) from error


def vp_toolset(toolset_id: str = "vp-queue") -> FunctionToolset[Any]:
    """All nine tools.

    Args:
        toolset_id: for frameworks of durable execution, which name an agent's toolsets.
    """
    return FunctionToolset([_tool(definition) for definition in tools.DEFINITIONS.values()], id=toolset_id)


def _tool(definition: tools.Definition) -> Tool[Any]:
    async def call(**arguments: Any) -> dict[str, Any]:
        return await calling.answer(definition.name, arguments, "pydantic-ai")

    return Tool.from_schema(
        call, definition.name, definition.description, json_schema=tool_schemas.input_schema(definition.name)
    )
