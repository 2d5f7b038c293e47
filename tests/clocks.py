"""Clocks that a test moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from vp_queue import clock


class Clocks(clock.SystemClock):
    """A wall clock and a boot-time clock that a test moves, each for itself."""

    def __init__(self) -> None:
        self.wall = datetime(2030, 1, 1, 12, tzinfo=UTC)
        self.boot_us = 1_000_000_000

    def now(self) -> datetime:
        return self.wall

    def boottime_us(self) -> int:
        return self.boot_us

    def pass_time(self, seconds: float) -> None:
        """Both go on, as they do."""
        self.wall += timedelta(seconds=seconds)
        self.boot_us += int(seconds * 1_000_000)
