"""When to ask a server again: what it says itself, else an exponential back-off."""

from __future__ import annotations

import random
from datetime import UTC
from email.utils import parsedate_to_datetime

from vp_queue import clock


def retry_after_seconds(value: str | None) -> float | None:
    """Seconds from now that a ``Retry-After`` header asks for; it holds seconds or a date (RFC 9110, 10.2.3).

    Returns:
        None where there is none that can be read.
    """
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        due = parsedate_to_datetime(value)
        due = due if due.tzinfo else due.replace(tzinfo=UTC)
        return max(0.0, (due - clock.now()).total_seconds())
    except (ValueError, OverflowError):  # a year that no date can have
        return None


def backoff_seconds(first_seconds: float, failures: int, most_seconds: float) -> float:
    """How long to wait: doubled each time, and half of it by chance, so that many do not come back at one moment.

    Args:
        first_seconds: at most so long after the first failure.
        failures: how many there were before this one.
        most_seconds: never longer.
    """
    return min(most_seconds, first_seconds * 2.0 ** min(failures, 60)) * random.uniform(0.5, 1.0)
