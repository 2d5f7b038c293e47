"""One overview for all who look at the same time.

It takes some 30 ms of a processor with 100,000 missions in the ledger. Fifty open pages that each ask again at every
event would keep a machine busy with saying the same fifty times.
"""

from __future__ import annotations

import threading
from typing import Final

from vp_queue import clock, missions, missions_overview
from vp_queue.contracts.overview import OverviewAnswer

EVENTS_SHOWN: Final = 10
# Heartbeats, last words and durations change without an event.
SECONDS: Final = 1.0


class SharedOverview:
    """The overview after the newest event, made once."""

    def __init__(self) -> None:
        self._making = threading.Lock()
        self._made: OverviewAnswer | None = None
        self._seq = -1
        self._at = 0.0

    def get(self) -> OverviewAnswer:
        """The overview as it is now; at most ``SECONDS`` old, and never from before an event that is told already.

        Raises:
            LedgerUnavailable: it cannot be read.
        """
        with self._making:
            # Taken before the overview is made, which so holds at least the events up to it.
            seq = missions.newest_seq()
            if self._made is None or seq != self._seq or clock.monotonic() - self._at > SECONDS:
                self._at = clock.monotonic()
                self._made = missions_overview.overview(events_limit=EVENTS_SHOWN)
                self._seq = seq
            return self._made

    def forget(self) -> None:
        """Make it anew for the next who looks: something changed without an event."""
        with self._making:
            self._made = None
