"""Sums by VP: what the tally says, since ever and of a day, and what waits now. Reads only.

``tally`` says what is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from vp_queue import clock
from vp_queue.ledger import database

Tallied = dict[str, dict[str, float]]  # by VP, by measure; what was never counted is not in it

_OF_DAY: Final = "SELECT vp_id, measure, value FROM vp_tally WHERE day = ?"
_SINCE_EVER: Final = "SELECT vp_id, measure, SUM(value) FROM vp_tally GROUP BY vp_id, measure"


def tallied(day: int) -> Tallied:
    """What was counted on a UTC day.

    Args:
        day: since 1970; :func:`~vp_queue.ledger.tally.day_of` an instant.
    """
    return _by_vp(_OF_DAY, (day,))


def totals() -> Tallied:
    """What was counted since the ledger was made."""
    return _by_vp(_SINCE_EVER, ())


def _by_vp(sql: str, parameters: tuple[Any, ...]) -> Tallied:
    found: Tallied = {}
    for vp_id, measure, value in database.current().db.execute_sql(sql, parameters).fetchall():
        found.setdefault(vp_id, {})[measure] = value
    return found


# --- what there is now --------------------------------------------------------------------------


@dataclass(frozen=True)
class Queue:
    """What waits for a VP.

    Attributes:
        due: missions that could be claimed now.
        later: missions whose time has not come.
        oldest_due_seconds: how long the longest waiting of those that are due has been so; 0: none is.
    """

    due: int
    later: int
    oldest_due_seconds: float


EMPTY: Final = Queue(0, 0, 0.0)

_MISSIONS: Final = "SELECT vp_id, status, COUNT(*) FROM vp_mission GROUP BY vp_id, status"
_QUEUES: Final = (
    "SELECT vp_id, SUM(due_at <= :now), SUM(due_at > :now), "
    "MIN(CASE WHEN due_at <= :now THEN MAX(due_at, queued_at) END) "
    "FROM vp_mission WHERE status = 'queued' GROUP BY vp_id"
)


def mission_counts() -> dict[tuple[str, str], int]:
    """How many missions the ledger holds, by VP and status; by the index, without the missions themselves."""
    rows = database.current().db.execute_sql(_MISSIONS).fetchall()
    return {(vp_id, status): count for vp_id, status, count in rows}


def queues(now: datetime) -> dict[str, Queue]:
    """What waits, by VP; a VP for which nothing does is not in it."""
    now_us = clock.to_micros(now)
    rows = database.current().db.execute_sql(_QUEUES, {"now": now_us}).fetchall()
    return {
        vp_id: Queue(due, later, max(0.0, (now_us - oldest_us) / 1_000_000) if due else 0.0)
        for vp_id, due, later, oldest_us in rows
    }
