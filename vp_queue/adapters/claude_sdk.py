"""The tools for an agent of the Claude Agent SDK: an MCP server within the agent's own process.

::

    options = ClaudeAgentOptions(mcp_servers={"vp": vp_server()}, allowed_tools=allowed_tools(), tools=[])

Needs the extra ``claude``. The SDK itself compares arguments with the schemas first, and words that error in its own
way; every other error is the tool's error object, marked as an error.
"""

from __future__ import annotations

from typing import Any, Final

from vp_queue import __version__, tools
from vp_queue.adapters import calling
from vp_queue.mcp import definitions

try:
    import claude_agent_sdk as sdk
except ModuleNotFoundError as error:
    raise calling.missing("claude", error) from error

SERVER: Final = "vp"
# Larger answers Claude Code keeps in a file, which an agent without file tools cannot read; 500,000 is its own limit.
LARGEST_ANSWER_CHARS: Final = 500_000


def vp_server(name: str = SERVER) -> sdk.McpSdkServerConfig:
    """The server, for ``ClaudeAgentOptions.mcp_servers``.

    Args:
        name: what it is called there; the tools are then ``mcp__NAME__vp_list_vps`` and so on.
    """
    server: sdk.McpSdkServerConfig = sdk.create_sdk_mcp_server(
        name, version=__version__, tools=[_tool(listed) for listed in definitions.listed()]
    )
    return server


def allowed_tools(name: str = SERVER) -> list[str]:
    """The tools by the names Claude Code has for them, for ``ClaudeAgentOptions.allowed_tools``: used without asking.

    Args:
        name: the server's key in ``mcp_servers``.
    """
    return [f"mcp__{name}__{tool}" for tool in tools.DEFINITIONS]


def _tool(listed: Any) -> sdk.SdkMcpTool[Any]:
    async def handler(arguments: dict[str, Any]) -> dict[str, Any]:
        answer = await calling.answer(listed.name, arguments, "claude-agent-sdk")
        return {"content": [{"type": "text", "text": calling.as_text(answer)}], "is_error": not answer["ok"]}

    hints = listed.annotations.model_dump(by_alias=True, exclude_none=True)
    return sdk.SdkMcpTool(
        name=listed.name,
        description=listed.description,
        input_schema=listed.input_schema,
        handler=handler,
        annotations=sdk.ToolAnnotations(**hints, maxResultSizeChars=LARGEST_ANSWER_CHARS),
    )
