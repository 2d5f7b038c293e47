"""How an adapter calls a tool: in a thread, so that the agent's event loop goes on meanwhile.

The threads are those that the MCP server uses too (``mcp.calls``): a wait ends within a moment when the task that
called it is cancelled, and does not stand in the way of other calls.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final
from weakref import WeakKeyDictionary

from vp_queue import origin
from vp_queue.mcp.calls import Calls

FACE: Final = "adapter"
# Of one event loop each, as their threads are.
_calls: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Calls]] = WeakKeyDictionary()


async def answer(name: str, arguments: dict[str, Any], library: str) -> dict[str, Any]:
    """Call a tool by its name; whatever goes wrong is an answer too.

    If the calling task is cancelled, so is a wait; what only takes a moment is carried out.

    Args:
        library: what the agent is written with: it stands in the events of what this call does.

    Raises:
        RuntimeError: there is no asyncio event loop.
    """
    loop = asyncio.get_running_loop()
    with origin.acting(FACE, library):
        return await _calls.setdefault(loop, Calls()).answer(name, arguments, _untold)


async def _untold(done: float, total: float | None, line: str) -> None:
    """These hosts have nobody to tell how a wait is getting on."""


def as_text(answer: dict[str, Any]) -> str:
    """An answer as a model reads it: compact JSON."""
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))


def missing(extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The error that says how to install what an adapter needs.

    Args:
        extra: the extra of vp-queue that has it.
        error: what Python said.
    """
    return ModuleNotFoundError(
        f"{error.name} is not installed. It comes with an extra: pip install 'vp-queue[{extra}]'", name=error.name
    )
