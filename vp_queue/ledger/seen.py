"""Which failed missions a person has looked at. One of the ledger's writers: it writes ``vp_seen`` and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from vp_queue.contracts import Status
from vp_queue.ledger.database import Transaction
from vp_queue.ledger.models import Mission, Seen


def mark(tx: Transaction, mission_ids: Sequence[str], seen_by: str) -> int:
    """These missions, as far as they failed, need nobody to look at them any more.

    Args:
        seen_by: who says so.

    Returns:
        how many were not marked before.
    """
    failed = Mission.select(Mission.id).where(Mission.id.in_(mission_ids), Mission.status == Status.FAILED)
    rows = [{"mission": row.id, "seen_at": tx.now, "seen_by": seen_by} for row in failed if not is_seen(row.id)]
    if rows:
        Seen.insert_many(rows).execute()
    return len(rows)


def is_seen(mission_id: str) -> bool:
    """Whether somebody marked this mission."""
    return Seen.select().where(Seen.mission == mission_id).exists()
