"""Missions by filters: pages to both sides, counts, and what an action on all of them concerns. Reads only.

Ids are ordered by time, so a page is found by the id it begins at, however many missions there are, and a time is
looked up as the id that would have been made then. A text is looked for in the newest ``limits.SEARCHED_MISSIONS`` of
what the other filters leave; a page that ends there has a cursor to go on from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from peewee import fn

from vp_queue import clock
from vp_queue.contracts import Status, limits
from vp_queue.ledger.models import Mission

RETRYABLE: Final = (Status.FAILED, Status.CANCELLED, Status.EXPIRED)
CANCELLABLE: Final = (Status.QUEUED, Status.RUNNING, Status.NEEDS_INPUT)


@dataclass(frozen=True)
class Filter:
    """Which missions; what is None does not matter.

    Attributes:
        text: stands in the objective or the result, whatever its case, or begins the id.
        created_after: dispatched later than this, by the instant in the id.
        created_before: dispatched at this instant or before.
    """

    vp_id: str | None = None
    statuses: Sequence[Status] | None = None
    source_session_id: str | None = None
    text: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


@dataclass(frozen=True)
class Page:
    """Rows, newest first, and the ids that its neighbours begin after (``older``) or end before (``newer``)."""

    rows: list[Mission]
    older: str | None
    newer: str | None


def missions_page(wanted: Filter, limit: int, *, older_than: str | None = None, newer_than: str | None = None) -> Page:
    """A page of missions, newest first.

    Args:
        limit: of rows.
        older_than: the page that begins after this id.
        newer_than: the page that ends before this id; not together with ``older_than``.
    """
    if newer_than is not None:
        return _page_before(wanted, limit, newer_than)
    floor = _search_end(wanted, older_than=older_than)
    query = _where(Mission.select(), wanted, older_than=older_than, down_to=floor).order_by(Mission.id.desc())
    rows = list(query.limit(limit + 1))
    older = rows[limit - 1].id if len(rows) > limit else floor
    return Page(rows[:limit], older, _newer(wanted, rows[0].id if rows else older_than))


def _page_before(wanted: Filter, limit: int, newer_than: str) -> Page:
    ceiling = _search_end(wanted, newer_than=newer_than)
    query = _where(Mission.select(), wanted, newer_than=newer_than, up_to=ceiling).order_by(Mission.id)
    found = list(query.limit(limit + 1))
    rows = found[:limit][::-1]
    newer = rows[0].id if len(found) > limit else ceiling
    # The page this one was left for begins right after its last row.
    return Page(rows, rows[-1].id if rows else None, newer)


def _newer(wanted: Filter, first: str | None) -> str | None:
    """The cursor of the page before one that begins with this id: there is one if anything newer matches."""
    if first is None:
        return None
    ceiling = _search_end(wanted, newer_than=first)
    query = _where(Mission.select(Mission.id), wanted, newer_than=first, up_to=ceiling)
    return first if query.limit(1).exists() else ceiling


def _search_end(wanted: Filter, *, older_than: str | None = None, newer_than: str | None = None) -> str | None:
    """The last id in which a text is looked for from here, for a cursor leads beyond its own; None: to the end."""
    if wanted.text is None:
        return None
    order = Mission.id if newer_than is not None else Mission.id.desc()
    bare = _where(Mission.select(Mission.id), wanted, older_than=older_than, newer_than=newer_than, with_text=False)
    row = bare.order_by(order).offset(limits.SEARCHED_MISSIONS - 1).limit(1).first()
    return row.id if row else None


def status_counts(wanted: Filter) -> dict[str, int]:
    """How many missions are in each status under the same filters but the status; statuses without any are 0.

    With a text, of the newest ``limits.SEARCHED_MISSIONS`` that the other filters leave.
    """
    counts = Mission.select(Mission.status, fn.COUNT(Mission.id))
    query = _where(counts, wanted, down_to=_search_end(wanted), with_statuses=False)
    found = dict(query.group_by(Mission.status).tuples())
    return {str(status): found.get(status, 0) for status in Status}


def newest_id() -> str | None:
    """The id of the newest mission there is."""
    found: str | None = Mission.select(fn.MAX(Mission.id)).scalar()
    return found


def cancellable(wanted: Filter, through: str, after: str | None, limit: int) -> list[str]:
    """Matching missions up to an id that could be cancelled and that nobody has asked to, oldest first."""
    query = _up_to(wanted, through, after).where(Mission.cancel_requested_at.is_null())
    return _ids(query, CANCELLABLE, wanted, limit)


def retryable(wanted: Filter, through: str, after: str | None, limit: int) -> list[str]:
    """Matching missions up to an id that did not complete and were not retried yet, oldest first."""
    again = Mission.alias()
    retried = again.select(again.id).where(again.retry_of == Mission.id)
    return _ids(_up_to(wanted, through, after).where(~fn.EXISTS(retried)), RETRYABLE, wanted, limit)


def _up_to(wanted: Filter, through: str, after: str | None) -> Any:
    query = _where(Mission.select(Mission.id), wanted, newer_than=after, up_to=through, with_statuses=False)
    return query.order_by(Mission.id)


def _ids(query: Any, possible: Sequence[Status], wanted: Filter, limit: int) -> list[str]:
    statuses = possible if wanted.statuses is None else [status for status in possible if status in wanted.statuses]
    return [row.id for row in query.where(Mission.status.in_(statuses)).limit(limit)]


def _where(
    query: Any,
    wanted: Filter,
    *,
    older_than: str | None = None,
    newer_than: str | None = None,
    down_to: str | None = None,
    up_to: str | None = None,
    with_statuses: bool = True,
    with_text: bool = True,
) -> Any:
    """Ids have one bound to each side, for of two SQLite seeks the first; ``down_to`` and ``up_to`` are included."""
    if wanted.vp_id is not None:
        query = query.where(Mission.vp_id == wanted.vp_id)
    if wanted.source_session_id is not None:
        query = query.where(Mission.source_session_id == wanted.source_session_id)
    if wanted.statuses is not None and with_statuses:
        query = query.where(Mission.status.in_(wanted.statuses))
    # No id equals what an instant begins with, so that it bounds alike whether it is included or not.
    lower = max(filter(None, (_begin(wanted.created_after), newer_than)), default=None)
    upper = min(filter(None, (_begin(wanted.created_before), older_than)), default=None)
    if down_to is not None and (lower is None or down_to > lower):
        query = query.where(Mission.id >= down_to)
    elif lower is not None:
        query = query.where(Mission.id > lower)
    if up_to is not None and (upper is None or up_to < upper):
        query = query.where(Mission.id <= up_to)
    elif upper is not None:
        query = query.where(Mission.id < upper)
    if wanted.text is not None and with_text:
        query = query.where(_holds(wanted.text))
    return query


def _begin(instant: datetime | None) -> str | None:
    """What the ids of later than an instant sort behind."""
    return clock.first_mission_id(instant + clock.MICROSECOND) if instant is not None else None


def _holds(text: str) -> Any:
    """Whether a mission has this text; its own wildcards mean nothing.

    LIKE knows the case of ASCII letters only, so others are looked for in both, and as a word begins.
    """
    spellings = {text} if text.isascii() else {text, text.lower(), text.upper(), text.capitalize()}
    found: Any = Mission.id.startswith(text)
    for spelling in sorted(spellings):
        found = found | Mission.objective.contains(spelling) | Mission.result.contains(spelling)
    return found
