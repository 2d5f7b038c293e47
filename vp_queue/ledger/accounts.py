"""What the tally says: totals since ever and of a day, by VP. Reads only; ``tally`` says what is counted."""

from __future__ import annotations

from typing import Any, Final

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
