"""A server's connections: only so many at once, and each must ask for something within a while.

uvicorn waits for the head of a request as long as its sender likes. Whoever reaches the port, with a token or without,
could take every file descriptor that the process may have by opening connections and saying nothing on them.
"""

from __future__ import annotations

import asyncio
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS: Final = 600  # below the 1,024 files that a process usually may have open
BACKLOG: Final = 128  # so many are accepted before the first of them is counted
HEAD_SECONDS: Final = 15.0


class Connection(H11Protocol):
    """One connection, for uvicorn's ``http``."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; where there are too many, at the cost of the one that has asked for nothing for the longest time."""
        super().connection_made(transport)
        self._await_head()
        if len(self.connections) > CONNECTIONS:
            silent = [each for each in self.connections if isinstance(each, Connection) and each.is_silent]
            min(silent, key=Connection.when_given_up).transport.abort()

    @property
    def is_silent(self) -> bool:
        """Whether it asks for nothing."""
        return self.conn.their_state is h11.IDLE and not self.transport.is_closing()

    def when_given_up(self) -> float:
        """When it is given up, by the loop's clock, if it asks for nothing until then."""
        return self._deadline.when() if self._deadline is not None else 0.0

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._await_head()

    def _await_head(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.is_silent:
            self.transport.abort()
