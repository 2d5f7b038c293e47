"""The server over stdin and stdout, as agent hosts start it: one process for each host."""

from __future__ import annotations

import asyncio
import json
import logging
import signal

import anyio
import mcp_types as types
from anyio.streams.memory import MemoryObjectSendStream
from mcp.server.stdio import stdio_server
from mcp.shared._stream_protocols import ReadStream
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

from vp_queue.mcp import server as servers

logger = logging.getLogger("vp_queue.mcp")

Received = SessionMessage | Exception


def run() -> None:
    """Serve until stdin ends.

    Nothing but the protocol goes to stdout: the SDK gives the descriptor away, and what anything else prints goes
    to stderr.
    """
    # A thread is always inside a read of stdin, which nothing interrupts: left to Python, Ctrl-C would wait for it.
    # Ending at once is as safe as a kill, for which the ledger is made.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(_serve())


async def _serve() -> None:
    server = servers.Face().server
    async with stdio_server() as (read, write), anyio.create_task_group() as tasks:
        onward, readable = anyio.create_memory_object_stream[Received]()
        tasks.start_soon(_pass_on, read, onward)
        await server.run(readable, write, server.create_initialization_options())


async def _pass_on(read: ReadStream[Received], onward: MemoryObjectSendStream[Received]) -> None:
    """Hand on what the client sends, with the calls that the SDK would drop without a word: the client would wait."""
    async with onward:
        async for item in read:
            call = _call_with_broken_text(item) if isinstance(item, ValidationError) else None
            if call is None and isinstance(item, Exception):
                logger.warning("a line on stdin that is no message is ignored")
            await onward.send(call or item)


def _call_with_broken_text(error: ValidationError) -> SessionMessage | None:
    """The call of a tool in a line whose arguments hold half a character (a lone surrogate).

    A host that cuts a text in the middle of an emoji sends such. The contract has an error for it, which names the
    argument and never repeats its value; anywhere else it could come back in an answer that cannot be written.
    """
    line = error.errors(include_url=False)[0]["input"]
    try:
        decoded = json.loads(line)
        arguments = decoded["params"].pop("arguments")
        call = types.JSONRPCRequest.model_validate_json(json.dumps(decoded))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    if call.method != "tools/call":
        return None
    return SessionMessage(call.model_copy(update={"params": {**(call.params or {}), "arguments": arguments}}))
