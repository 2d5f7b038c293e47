"""What is still to be told to whom, durably: a cursor per sink, and a row per event until it was told.

Rows are made from the event table itself, which nobody can write without the change it tells: no event is missed,
whoever committed it and whatever died then. One keeper at a time tells a sink, under a claim that it renews for each
event; a claim is over when its process is dead or its lease has run out, and what was told under a lost claim is told
again. A row goes when its event was told, or stays as dead with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from peewee import fn

from vp_queue import clock
from vp_queue.contracts import DeliveryState, limits
from vp_queue.contracts.views import EventView
from vp_queue.ledger import queries
from vp_queue.ledger.database import Transaction
from vp_queue.ledger.models import Delivery, Event, Sink

OVERFLOW: Final = f"given up: more than {limits.DELIVERIES_PENDING:,} events waited"
RETIRED: Final = "given up: [notify] no longer names this receiver"
PRUNED: Final = "given up: the event was pruned before it was told"

# No wait is longer. An instant further ahead was written by a clock that ran ahead, and counts as passed.
_LONGEST_WAIT: Final = timedelta(seconds=limits.DELIVERY_WAIT_SECONDS)
# The earliest event of each mission alone: a later one must not overtake it while it is tried again.
_DUE: Final = (
    "SELECT d.* FROM vp_delivery AS d WHERE d.sink = ? AND d.state = 'pending' "
    "AND (d.next_at <= ? OR d.next_at > ?) AND NOT EXISTS ("
    "SELECT 1 FROM vp_delivery AS e WHERE e.sink = d.sink AND e.state = 'pending' AND e.lane = d.lane "
    "AND e.event_seq < d.event_seq) ORDER BY d.event_seq LIMIT 1"
)


@dataclass(frozen=True)
class Counts:
    """Of one sink: how many events wait, how many were given up."""

    sink: str
    label: str
    pending: int
    dead: int
    failures: int
    rests_until: datetime | None


# --- reading ------------------------------------------------------------------------------------


def sinks() -> dict[str, Sink]:
    """The sinks that are known, by key."""
    return {row.sink: row for row in Sink.select()}


def has_due(sink: str, token: str, now: datetime) -> bool:
    """Whether there is something to tell this sink now, and the holder of this token may claim it. Reads only."""
    row = Sink.get_or_none(Sink.sink == sink)
    return row is not None and _may_tell(row, token, now) and _due(sink, now) is not None


def counts() -> list[Counts]:
    """How each sink is doing; one that is gone counts while it has dead events."""
    found = Delivery.select(Delivery.sink, Delivery.state, fn.COUNT(Delivery.id))
    rows: Iterable[Any] = found.group_by(Delivery.sink, Delivery.state).tuples()
    by_sink: dict[tuple[str, str], int] = {(sink, state): count for sink, state, count in rows}
    known = sinks()
    made = []
    for key in sorted({*known, *(sink for sink, _ in by_sink)}):
        row = known.get(key)
        made.append(
            Counts(
                sink=key,
                label=row.label if row else "",
                pending=by_sink.get((key, DeliveryState.PENDING), 0),
                dead=by_sink.get((key, DeliveryState.DEAD), 0),
                failures=row.failures if row else 0,
                rests_until=row.rests_until if row else None,
            )
        )
    return made


def page(state: DeliveryState | None, limit: int) -> list[Delivery]:
    """Deliveries that wait or were given up, oldest event first."""
    query = Delivery.select().order_by(Delivery.event_seq, Delivery.sink).limit(limit)
    return list(query if state is None else query.where(Delivery.state == state))


def event_of(delivery: Delivery) -> EventView | None:
    """What a delivery tells; None if it was pruned."""
    views = queries.event_views(Event.select().where(Event.seq == delivery.event_seq))
    return views[0] if views else None


def _due(sink: str, now: datetime) -> Delivery | None:
    latest = now + _LONGEST_WAIT
    return next(iter(Delivery.raw(_DUE, sink, clock.to_micros(now), clock.to_micros(latest))), None)


def _may_tell(row: Sink, token: str, now: datetime) -> bool:
    rests = row.rests_until is not None and now < row.rests_until <= now + _LONGEST_WAIT
    return not rests and not _is_held(row, token, now)


# --- from events to deliveries --------------------------------------------------------------------


def introduce(tx: Transaction, sink: str, label: str) -> None:
    """A sink is new: it is told what happens from now on."""
    row = {"sink": sink, "label": label, "cursor_seq": queries.newest_seq(), "created_at": tx.now}
    Sink.insert(row).on_conflict_ignore().execute()


def retire(tx: Transaction, kept: Collection[str]) -> None:
    """Forget the sinks that nobody names any more; what they were not told is given up."""
    gone = [key for key in sinks() if key not in kept]
    for key in gone:
        _bury(tx, Delivery.sink == key, RETIRED)
        Sink.delete().where(Sink.sink == key).execute()


def enqueue(tx: Transaction, sink: str, events: Iterable[EventView], read_seq: int) -> None:
    """Have a sink told these events, and remember how far was read; what another keeper has read is passed over.

    Args:
        tx: the open write transaction.
        sink: its key.
        events: those it wants, of all after its cursor up to ``read_seq``.
        read_seq: the last event that was looked at.
    """
    row = Sink.get_or_none(Sink.sink == sink)
    if row is None or row.cursor_seq >= read_seq:
        return
    for event in events:
        if event.seq > row.cursor_seq:
            Delivery.insert(
                sink=sink,
                lane=event.mission_id or event.vp_id,
                event_seq=event.seq,
                event_at=event.at,
                type=event.type,
                vp_id=event.vp_id,
                mission_id=event.mission_id,
                state=DeliveryState.PENDING,
                next_at=tx.now,
                created_at=tx.now,
            ).on_conflict_ignore().execute()
    Sink.update(cursor_seq=read_seq).where(Sink.sink == sink).execute()
    _bound(tx, sink)


def _bound(tx: Transaction, sink: str) -> None:
    waiting = Delivery.select(Delivery.event_seq).where(Delivery.sink == sink, Delivery.state == DeliveryState.PENDING)
    last = waiting.order_by(Delivery.event_seq.desc()).limit(1).offset(limits.DELIVERIES_PENDING).scalar()
    if last is not None:
        _bury(tx, (Delivery.sink == sink) & (Delivery.event_seq <= last), OVERFLOW)


def _bury(tx: Transaction, which: Any, reason: str) -> None:
    Delivery.update(state=DeliveryState.DEAD, died_at=tx.now, error=reason).where(
        which, Delivery.state == DeliveryState.PENDING
    ).execute()


def stale(now: datetime, max_age: timedelta | None, limit: int) -> list[int]:
    """Dead deliveries that are no longer kept: over ``limits.DELIVERIES_DEAD``, or too old. Reads only."""
    dead = Delivery.select(Delivery.id).where(Delivery.state == DeliveryState.DEAD)
    newest_first = dead.order_by(Delivery.died_at.desc(), Delivery.id.desc())
    surplus = [row.id for row in newest_first.offset(limits.DELIVERIES_DEAD).limit(limit)]
    if max_age is None:
        return surplus
    old = dead.where(Delivery.died_at < now - max_age).limit(limit)
    return list({*surplus, *(row.id for row in old)})


def delete(ids: Sequence[int]) -> None:
    """Forget these dead deliveries."""
    Delivery.delete().where(Delivery.id.in_(ids), Delivery.state == DeliveryState.DEAD).execute()


# --- telling ------------------------------------------------------------------------------------


def claim(tx: Transaction, sink: str, token: str, lease_seconds: float) -> Delivery | None:
    """Take, or renew, the right to tell a sink, and the event to tell it.

    Args:
        tx: the open write transaction.
        sink: its key.
        token: of this claim; the same renews it.
        lease_seconds: longer than telling one event can take.

    Returns:
        None: there is nothing to tell it now, or another process does.
    """
    row = Sink.get_or_none(Sink.sink == sink)
    if row is None or not _may_tell(row, token, tx.now):
        return None
    due = _due(sink, tx.now)
    if due is not None:
        pid = os.getpid()
        Sink.update(
            claim_token=token,
            claim_host_identity=clock.host_identity(),
            claim_pid=pid,
            claim_start_ticks=clock.process_start_ticks(pid),
            claim_expires_at=tx.now + timedelta(seconds=lease_seconds),
            claim_expires_boottime_us=clock.boottime_us() + int(lease_seconds * 1_000_000),
        ).where(Sink.sink == sink).execute()
    return due


def _is_held(row: Any, token: str, now: datetime) -> bool:
    """Whether another claim is in force: its lease runs, and its process lives as far as can be told from here."""
    if row.claim_token is None or row.claim_token == token:
        return False
    if row.claim_host_identity != clock.host_identity():
        return bool(row.claim_expires_at > now)
    holder_lives = clock.process_start_ticks(row.claim_pid) == row.claim_start_ticks
    return bool(holder_lives and row.claim_expires_boottime_us > clock.boottime_us())


def release(sink: str, token: str) -> None:
    """Give a claim back."""
    Sink.update(claim_token=None).where(Sink.sink == sink, Sink.claim_token == token).execute()


def told(delivery: Delivery, token: str) -> bool:
    """The sink has taken the event. False: the claim was lost meanwhile, and it may be told again."""
    if not _holds(delivery.sink, token):
        return False
    Delivery.delete().where(Delivery.id == delivery.id).execute()
    Sink.update(failures=0, rests_until=None).where(Sink.sink == delivery.sink).execute()
    return True


def put_off(tx: Transaction, delivery: Delivery, token: str, error: str, wait_seconds: Callable[[int], float]) -> bool:
    """The sink could not be told: this event later, and no other for a while.

    Args:
        tx: the open write transaction.
        delivery: what it could not be told.
        token: of the claim.
        error: why.
        wait_seconds: how long after so many failures: of this event, which may be at fault itself, and of the sink.

    Returns:
        False: the claim was lost meanwhile.
    """
    if not _holds(delivery.sink, token):
        return False
    Delivery.update(
        attempts=delivery.attempts + 1,
        next_at=tx.now + timedelta(seconds=wait_seconds(delivery.attempts)),
        tried_at=tx.now,
        error=error[: limits.DELIVERY_ERROR_CHARS],
    ).where(Delivery.id == delivery.id).execute()
    row = Sink.get(Sink.sink == delivery.sink)
    rests_until = tx.now + timedelta(seconds=wait_seconds(row.failures))
    Sink.update(failures=row.failures + 1, rests_until=rests_until).where(Sink.sink == row.sink).execute()
    return True


def give_up(tx: Transaction, delivery: Delivery, token: str, error: str, *, tried: bool = True) -> bool:
    """The sink will not be told this event: it goes to the dead ones. False: the claim was lost meanwhile."""
    if not _holds(delivery.sink, token):
        return False
    Delivery.update(
        state=DeliveryState.DEAD,
        attempts=delivery.attempts + tried,
        tried_at=tx.now if tried else delivery.tried_at,
        died_at=tx.now,
        error=error[: limits.DELIVERY_ERROR_CHARS],
    ).where(Delivery.id == delivery.id).execute()
    return True


def _holds(sink: str, token: str) -> bool:
    return bool(Sink.select().where(Sink.sink == sink, Sink.claim_token == token).exists())


def revive(tx: Transaction, delivery_id: int | None) -> int:
    """Try again, at once: one delivery that waits or was given up, or (None) all that were; returns how many."""
    which = Delivery.state == DeliveryState.DEAD if delivery_id is None else Delivery.id == delivery_id
    which &= Delivery.sink.in_(Sink.select(Sink.sink))
    keys = [row.sink for row in Delivery.select(Delivery.sink).where(which).distinct()]
    changed: int = (
        Delivery.update(state=DeliveryState.PENDING, attempts=0, next_at=tx.now, died_at=None).where(which).execute()
    )
    Sink.update(failures=0, rests_until=None).where(Sink.sink.in_(keys)).execute()
    return changed


def find(delivery_id: int) -> Delivery | None:
    """One delivery, or None."""
    row: Delivery | None = Delivery.get_or_none(Delivery.id == delivery_id)
    return row
