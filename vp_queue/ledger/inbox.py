"""How far each reader has acknowledged the events: a durable inbox, so that no outcome is missed."""

from __future__ import annotations

from vp_queue.errors import ValidationError
from vp_queue.ledger.database import Transaction
from vp_queue.ledger.models import Inbox
from vp_queue.ledger.queries import last_given_seq


def acknowledge(tx: Transaction, reader: str, seq: int) -> None:
    """The reader has handled everything up to ``seq``. Never moves back.

    Raises:
        ValidationError: ``seq`` lies beyond the newest event; acknowledging the future would hide it.
    """
    newest = last_given_seq()
    before = acknowledged(reader)
    if seq > newest:
        raise ValidationError(
            f"acknowledge: {seq} lies beyond the newest event ({newest}); acknowledge the last_seq you were given.",
            field="acknowledge",
        )
    values = {"acknowledged_seq": max(seq, before), "updated_at": tx.now}
    Inbox.insert(reader=reader, **values).on_conflict(conflict_target=[Inbox.reader], update=values).execute()


def acknowledged(reader: str) -> int:
    """The reader's last acknowledged seq; 0 for a new reader."""
    row = Inbox.get_or_none(Inbox.reader == reader)
    return row.acknowledged_seq if row else 0
