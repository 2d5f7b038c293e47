"""What stands around one mission: what it is a retry of, its retries, and who has heard of its end. Reads only."""

from __future__ import annotations

from vp_queue.contracts import TERMINAL_EVENTS, limits
from vp_queue.ledger.models import Event, Inbox, Mission


def ancestors(row: Mission, limit: int) -> list[Mission]:
    """What a mission is a retry of, the first mission first; what was pruned ends the line."""
    found: list[Mission] = []
    while row.retry_of is not None and len(found) < limit:
        before: Mission | None = Mission.get_or_none(Mission.id == row.retry_of)
        if before is None:
            break
        found.append(before)
        row = before
    return found[::-1]


def descendants(row: Mission, limit: int) -> list[Mission]:
    """The retries of a mission and theirs, oldest first."""
    found: list[Mission] = []
    level = [row.id]
    while level and len(found) < limit:
        retries = Mission.select().where(Mission.retry_of.in_(level)).order_by(Mission.id)
        again = list(retries.limit(limit - len(found)))
        found += again
        level = [each.id for each in again]
    return sorted(found, key=lambda each: each.id)


def outcome_seq(mission_id: str) -> int | None:
    """The seq of the event that ended a mission; None while it has not ended."""
    row = Event.get_or_none(Event.mission == mission_id, Event.type.in_(TERMINAL_EVENTS))
    return row.seq if row else None


def readers() -> list[Inbox]:
    """The inbox's readers, those that acknowledged last first."""
    return list(Inbox.select().order_by(Inbox.updated_at.desc()).limit(limits.READERS_LISTED))
