"""A reader's inbox: what came since it last acknowledged, event by event, or as the outcomes alone.

SQLite has one writer at a time, and a seq is given inside its transaction: the order of seqs is the order of commits,
and who has seen one has missed none before it. So one number says how far a reader is. A filter does not change that
number's meaning: acknowledging speaks for every event up to there, shown or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vp_queue import config
from vp_queue.contracts import requests as asked
from vp_queue.contracts import views
from vp_queue.ledger import database, inbox, outcomes, queries
from vp_queue.missions import KeepWaiting, found_in_feed, ready, stall_limits


def read_events(request: asked.ReadEvents, keep_waiting: KeepWaiting | None = None) -> views.EventsAnswer:
    """A reader's inbox: acknowledge, then what came after, waiting for a first event if asked to.

    Raises:
        ValidationError: it would acknowledge what has not happened yet.
        LedgerBusy, LedgerUnavailable: nothing was acknowledged.
    """
    ready()
    if request.acknowledge is not None:
        acknowledge(request.reader, request.acknowledge)
    return found_in_feed(lambda: _page(request), lambda page: bool(page.events), request.wait_seconds, keep_waiting)


def _page(request: asked.ReadEvents) -> views.EventsAnswer:
    before = inbox.acknowledged(request.reader)
    session = request.source_session_id
    events = queries.events_after(before, request.limit, source_session_id=session)
    # A page that is not full has everything up to the end of the feed, whatever else of it was passed over.
    last_seq = events[-1].seq if len(events) == request.limit else max(before, queries.last_given_seq())
    return views.EventsAnswer(events=events, last_seq=last_seq, pruned=queries.pruned_between(before, last_seq))


def acknowledge(reader: str, seq: int) -> None:
    """The reader has handled everything up to ``seq``.

    Raises:
        ValidationError, LedgerBusy, LedgerUnavailable: nothing was acknowledged.
    """
    ready()
    with database.write_transaction() as tx:
        inbox.acknowledge(tx, reader, seq)


@dataclass(frozen=True)
class News:
    """The outcomes among what came after a seq: missions that have ended, or wait for an answer.

    Attributes:
        acknowledged: how far the reader has acknowledged.
        until: where the feed ended.
        outcomes: the newest first, each with the seq of its event; no more than were asked for.
        count: how many outcomes there are.
        oldest_seq: of the oldest of them.
        pruned: how many events retention removed before this reader saw them.
    """

    acknowledged: int
    until: int
    outcomes: Sequence[tuple[int, views.MissionView]]
    count: int
    oldest_seq: int | None
    pruned: int


def news(reader: str, seen: int, limit: int, *, source_session_id: str | None = None) -> News:
    """What a reader has not acknowledged, as outcomes.

    Args:
        seen: nothing up to here is wanted, acknowledged or not.
        limit: of outcomes.
        source_session_id: only missions of this session.
    """
    settings = ready()
    with database.read_transaction() as now:
        acknowledged, until = inbox.acknowledged(reader), queries.last_given_seq()
        after = max(acknowledged, seen)
        found = outcomes.newest(after, until, limit, source_session_id)
        count, oldest_seq = outcomes.total(after, until, source_session_id)
        rows = [queries.mission_row(mission_id) for _, mission_id in found]
        missions = queries.mission_views(rows, now, stall_limits(settings))
        pruned = queries.pruned_between(after, until) if acknowledged else 0
    seqs = (seq for seq, _ in found)
    return News(acknowledged, until, list(zip(seqs, missions, strict=True)), count, oldest_seq, pruned)


def is_there() -> bool:
    """Whether there is a ledger to read at all; none is made by asking."""
    return config.load().database_path.exists()
