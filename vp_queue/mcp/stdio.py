"""The server over stdin and stdout, as agent hosts start it: one process for each host."""

from __future__ import annotations

import asyncio
import signal

from mcp.server.stdio import stdio_server

from vp_queue.mcp import server as servers


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
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())
