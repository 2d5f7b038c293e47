"""Whether the wall clock can be believed: one that runs ahead would make every mission old, and pruned, at once.

It is compared with the boot-time clock, which nobody sets: at each look with the look before; at a keeper's first look
with what the workers of this boot have recorded of both; and where the machine was switched off meanwhile, with the
newest instant that the ledger knows from before.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Final

from vp_queue import clock
from vp_queue.ledger import database, retention

logger = logging.getLogger("vp_queue.keeper")

JUMP_SECONDS: Final = 3_600.0
# So long somebody has time to correct it and has lost nothing; then it is the new time.
DISTRUST_SECONDS: Final = 86_400.0
# A machine may have been off so long without a doubt about its clock.
OFF_SECONDS: Final = 86_400.0


class WallClock:
    """Compares the clocks from one look to the next."""

    def __init__(self) -> None:
        self._apart_us: int | None = None
        self._distrusted_until_us = 0  # on the boot-time clock

    def is_believed(self) -> bool:
        """Look at it now.

        Raises:
            LedgerBusy, LedgerUnavailable: the first look reads the ledger.
        """
        boottime_us = clock.boottime_us()
        apart_us = clock.to_micros(clock.now()) - boottime_us
        before_us = self._before_the_first_look(apart_us) if self._apart_us is None else self._apart_us
        jump_seconds, self._apart_us = (apart_us - before_us) / 1e6, apart_us
        if jump_seconds > JUMP_SECONDS:
            self._distrusted_until_us = boottime_us + int(DISTRUST_SECONDS * 1e6)
            logger.error("the wall clock jumped ahead by %.0f s: nothing is pruned for a day, correct it", jump_seconds)
        elif jump_seconds < -JUMP_SECONDS:
            self._distrusted_until_us = 0
        return boottime_us >= self._distrusted_until_us

    def _before_the_first_look(self, apart_us: int) -> int:
        """How far apart the clocks have been in this boot, as far as the ledger knows."""
        booted = clock.from_micros(apart_us)
        with database.read_transaction():
            known_us, newest = retention.least_clocks_apart_us(), retention.newest_before(booted)
        # After a day of this boot the clock is believed anyway, however often the keeper starts.
        if newest is not None and booted - newest > timedelta(seconds=OFF_SECONDS):
            self._distrusted_until_us = int(DISTRUST_SECONDS * 1e6)
            logger.warning(
                "the wall clock says that this machine was off for %.1f days: nothing is pruned in the first day after "
                "its start; `vp prune` does not wait",
                (booted - newest) / timedelta(days=1),
            )
        return apart_us if known_us is None else known_us
