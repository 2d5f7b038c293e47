"""An agent of the Claude Agent SDK that has the vp_* tools and nothing else: no shell, no files.

    pip install 'vp-queue[claude]'
    vp up --detach
    python examples/adapters/claude_agent.py "Have the generalist write a poem about tea."

Its key is in ANTHROPIC_API_KEY, or `claude` is logged in.
"""

from __future__ import annotations

import asyncio
import sys

from claude_agent_sdk import AssistantMessage, ClaudeAgentOptions, ResultMessage, ToolUseBlock, query

from vp_queue.adapters.claude_sdk import allowed_tools, vp_server
from vp_queue.prompt_rule import PROMPT_RULE


def options() -> ClaudeAgentOptions:
    """What the agent may use, and what it is told."""
    return ClaudeAgentOptions(
        mcp_servers={"vp": vp_server()},
        allowed_tools=allowed_tools(),  # used without asking
        tools=[],  # none of Claude Code's own
        strict_mcp_config=True,  # no other MCP servers …
        setting_sources=[],  # … or settings of this machine
        system_prompt=PROMPT_RULE,
    )


async def main(prompt: str) -> int:
    """Let the agent work; returns 0 if it came to an end by itself."""
    code = 1
    async for message in query(prompt=prompt, options=options()):
        if isinstance(message, AssistantMessage):
            for block in message.content:
                if isinstance(block, ToolUseBlock):
                    print(f"[{block.name}]", file=sys.stderr)
        elif isinstance(message, ResultMessage):
            print(message.result)
            code = int(message.is_error)
    return code


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit('usage: claude_agent.py "what is to be done"')
    sys.exit(asyncio.run(main(sys.argv[1])))
