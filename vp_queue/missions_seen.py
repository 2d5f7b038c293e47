"""Marking failed missions as seen: they stand among what waits for a person no more."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from vp_queue import clock, origin
from vp_queue.contracts import limits
from vp_queue.contracts.overview import SeenAnswer
from vp_queue.ledger import database, overview, queries, seen
from vp_queue.missions import ready

MARKED_AT_ONCE: Final = 500  # in one transaction


def mark_seen(mission_id: str) -> SeenAnswer:
    """A person has looked at this failed mission.

    Raises:
        MissionNotFound: there is none.
        LedgerBusy, LedgerUnavailable: nothing was marked.
    """
    ready()
    with database.write_transaction() as tx:
        queries.mission_row(mission_id)
        return SeenAnswer(changed=seen.mark(tx, [mission_id], _who()))


def mark_all_seen(until: datetime) -> SeenAnswer:
    """A person has looked at all that failed up to an instant, of the days that are pointed out at all.

    Args:
        until: the ``at`` of the overview that was looked at; what failed since stays.

    Raises:
        LedgerBusy, LedgerUnavailable: nothing more was marked.
    """
    ready()
    marked = 0
    after = clock.now() - timedelta(days=limits.NEEDS_DAYS)
    while True:
        with database.write_transaction() as tx:
            ids = overview.failed_unseen(after, MARKED_AT_ONCE, until=until)
            marked += seen.mark(tx, ids, _who())
        if not ids:
            return SeenAnswer(changed=marked)


def _who() -> str:
    told = origin.current()
    return f"{told.face}: {told.actor}" if told.actor else told.face
