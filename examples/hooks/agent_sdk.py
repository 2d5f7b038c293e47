"""An agent of the Claude Agent SDK that hears what its missions came to, without asking.

    pip install 'vp-queue[claude]'
    python agent_sdk.py "What is new?"

The hook reads the inbox in this process. What it has shown is acknowledged when the SDK calls it again, for the agent
then has gone on with it; should this process end before, the next one shows it again.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from vp_queue.errors import VpError
from vp_queue.hooks.inbox import Shown, confirm, tell
from vp_queue.hooks.protocol import hook_of

READER = "agent-sdk"


class InboxHook:
    """A callable for ``ClaudeAgentOptions(hooks=…)``."""

    def __init__(self, reader: str) -> None:
        self._reader = reader
        self._shown: dict[str, Shown] = {}

    async def __call__(self, given: Any, tool_use_id: str | None, context: Any) -> dict[str, Any]:
        """What the SDK's host is to do: add what is new to the context, or hold up a stop for it."""
        return await asyncio.to_thread(self._answer, given)

    def _answer(self, given: Any) -> dict[str, Any]:
        hook = hook_of(given)
        if hook is None or not hook.is_known:
            return {}
        try:
            told = tell(self._reader, hook, self._shown.get(hook.session_id, Shown()))
            confirm(self._reader, told)
        except VpError:
            return {}  # the ledger is busy or not there: the agent goes on, and hears of it the next time
        self._shown[hook.session_id] = told.shown
        return told.answer or {}


def hooks(reader: str = READER) -> dict[str, list[InboxHook]]:
    """The callable for each event that it knows."""
    hook = InboxHook(reader)
    return {event: [hook] for event in ("UserPromptSubmit", "Stop")}


async def main(prompt: str) -> None:
    """One question to an agent with the hooks."""
    from claude_agent_sdk import ClaudeAgentOptions, HookMatcher, query

    matchers: Any = {event: [HookMatcher(hooks=callables)] for event, callables in hooks().items()}  # type: ignore[arg-type,unused-ignore]
    async for message in query(prompt=prompt, options=ClaudeAgentOptions(hooks=matchers)):
        print(message)


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "What is new?"))
