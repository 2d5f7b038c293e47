"""Not a guard removed, but what libfaketime needs: it breaks sleeping until a point of CLOCK_MONOTONIC."""

from __future__ import annotations

import select
import time

from tests.mutants import mutant


@mutant
def relative_sleep() -> None:
    """``time.sleep`` waits for a duration; Python's own (clock_nanosleep, absolute) fails under libfaketime: EINVAL."""

    def sleep(seconds: float) -> None:
        select.select([], [], [], seconds)

    time.sleep = sleep
