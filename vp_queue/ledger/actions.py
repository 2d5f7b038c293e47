"""The part of the feed that tells what people and agents did, newest first. Reads only."""

from __future__ import annotations

from typing import Any, Final

from peewee import fn

from vp_queue.contracts import EventType, limits
from vp_queue.ledger.models import Event

# Told by whom in ``data.by``. A mission's cancelled event has it only where a cancel ended it at once.
ACTIONS: Final = (
    EventType.DISPATCHED,
    EventType.CANCEL_REQUESTED,
    EventType.CANCELLED,
    EventType.ANSWERED,
    EventType.VP_PAUSED,
    EventType.VP_DRAINING,
    EventType.VP_RESUMED,
)


def page(limit: int, before_seq: int | None, vp_id: str | None, face: str | None) -> tuple[list[Event], int | None]:
    """A page of actions, newest first, and the seq that the next one ends before; None: there is nothing older.

    At most ``limits.ACTIONS_SCANNED`` events are looked at, so that a filter that nothing matches costs no more.

    Args:
        limit: of events.
        before_seq: only what happened before; None: from the newest.
        vp_id: only what concerns this VP.
        face: only through this face.
    """
    older: tuple[Any, ...] = (Event.seq < before_seq,) if before_seq is not None else ()
    newest_first = Event.select(Event.seq).order_by(Event.seq.desc())
    end = (newest_first.where(*older) if older else newest_first).offset(limits.ACTIONS_SCANNED).limit(1)
    floor = end.scalar() or 0
    by = fn.json_extract(Event.data, "$.by.face")
    # One lower bound alone: of two, SQLite seeks by the first and reads on to that.
    query = Event.select().where(*older, Event.seq > floor, Event.type.in_(ACTIONS))
    query = (
        query.where(by == face)
        if face is not None
        else query.where((Event.type != EventType.CANCELLED) | by.is_null(False))
    )
    if vp_id is not None:
        query = query.where(Event.vp_id == vp_id)
    rows = list(query.order_by(Event.seq.desc()).limit(limit + 1))
    if len(rows) > limit:
        return rows[:limit], rows[limit - 1].seq
    return rows, floor + 1 if floor else None
