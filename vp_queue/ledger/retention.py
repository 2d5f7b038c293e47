"""What may be pruned, and the deletes. Only ended missions are ever looked at.

Pruning a mission has two phases, so that a crash between them orphans nothing: its rows go in a transaction
that also writes down which folder is to be removed (:class:`PrunedWorkspace`), and that note goes when the
folder has gone. Who reads nothing of a mission's end any more is told by the inbox: a reader that has
acknowledged its terminal event, or that has not for twice the age at which the mission would go. Whoever is told by
the keeper counts as a reader of what the keeper has not looked at for them yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from peewee import fn

from vp_queue import clock
from vp_queue.config_retention import Retention
from vp_queue.contracts import TERMINAL_EVENTS, Status, limits
from vp_queue.ledger import database
from vp_queue.ledger.database import Transaction
from vp_queue.ledger.models import Event, IdempotencyKey, Inbox, Mission, PrunedWorkspace, Sink, Worker
from vp_queue.ledger.statements import Change, Insertion, slot
from vp_queue.ledger.tally import day_of

SETTLED: Final = timedelta(seconds=limits.SETTLED_SECONDS)
PAGE: Final = 500
RETRY_SECONDS: Final = 60.0  # after a first failed removal of a folder; doubled for each further one
LONGEST_RETRY_SECONDS: Final = 86_400.0
PROBLEM_CHARS: Final = 300

_TERMINAL_EVENTS: Final = ", ".join(repr(str(event)) for event in TERMINAL_EVENTS)
# A mission that ended long enough ago, and whose end every reader knows or one is dead. The subquery has no row
# for readers of none, and the terminal event's place in the feed is all it needs of it.
_EXPENDABLE: Final = (
    "m.finished_at IS NOT NULL AND m.finished_at <= :settled AND (:acknowledged IS NULL "  # noqa: S608
    "OR m.finished_at <= CASE m.status WHEN 'failed' THEN :failed_forgotten ELSE :forgotten END "
    "OR (SELECT e.seq FROM vp_event AS e INDEXED BY vp_event_one_terminal "
    f"WHERE e.mission_id = m.id AND e.type IN ({_TERMINAL_EVENTS})) <= :acknowledged)"
)
_OLDEST: Final = (
    "SELECT m.id, m.status, m.finished_at, m.workspace_bytes FROM vp_mission AS m INDEXED BY vp_mission_ended "  # noqa: S608
    "WHERE m.vp_id = :vp_id AND (m.finished_at, m.id) > (:after_at, :after_id) "
    f"AND {_EXPENDABLE} ORDER BY m.finished_at, m.id LIMIT :page"
)
_DELETE: Final = (
    f"DELETE FROM vp_mission AS m WHERE m.id = :id AND {_EXPENDABLE} "  # noqa: S608
    "RETURNING vp_id, idempotency_key, attempt, queue_row, workspace_bytes"
)
_TOTALS: Final = (
    "SELECT COUNT(*), COALESCE(SUM(workspace_bytes), 0) FROM vp_mission INDEXED BY vp_mission_ended "
    "WHERE vp_id = ? AND finished_at IS NOT NULL"
)
_HELD: Final = (
    "SELECT COUNT(*) FROM vp_mission AS m INDEXED BY vp_mission_ended "  # noqa: S608
    "WHERE m.vp_id = :vp_id AND m.finished_at < CASE m.status WHEN 'failed' THEN :failed_due ELSE :due END "
    f"AND m.finished_at <= :settled AND NOT ({_EXPENDABLE})"
)
_UNMEASURED: Final = (
    "SELECT id, vp_id, attempt FROM vp_mission INDEXED BY vp_mission_unmeasured "
    "WHERE finished_at IS NOT NULL AND workspace_bytes IS NULL ORDER BY finished_at, id LIMIT ?"
)
# Events of no mission come first in this index, oldest first.
_VP_EVENTS: Final = (
    "SELECT seq FROM vp_event INDEXED BY vp_event_mission_id_mission_seq WHERE mission_id IS NULL ORDER BY seq"
)
_INSERT_FOLDER: Final = Insertion(PrunedWorkspace)
_KEY_PRUNED: Final = Change(
    lambda: IdempotencyKey.update(pruned_at=slot(IdempotencyKey.pruned_at)).where(
        IdempotencyKey.vp_id == slot(IdempotencyKey.vp_id),
        IdempotencyKey.key == slot(IdempotencyKey.key),
        IdempotencyKey.mission_id == slot(IdempotencyKey.mission_id),
    )
)
_MEASURED: Final = Change(
    lambda: Mission.update(workspace_bytes=slot(Mission.workspace_bytes)).where(
        Mission.id == slot(Mission.id), Mission.finished_at.is_null(False)
    )
)
_FOLDER_GONE: Final = Change(
    lambda: PrunedWorkspace.delete().where(PrunedWorkspace.mission_id == slot(PrunedWorkspace.mission_id))
)


class Reason(StrEnum):
    """Why a mission goes."""

    AGE = "age"
    COUNT = "count"
    BYTES = "bytes"


@dataclass(frozen=True)
class Expendable:
    """A mission that goes, and why; ``bytes`` is None while its workspace was not measured."""

    mission_id: str
    vp_id: str
    status: Status
    finished_at: datetime
    bytes: int | None
    reason: Reason


@dataclass(frozen=True)
class Pruned:
    """What is left to do about a mission whose rows were deleted: its queue row and revocations, if any."""

    vp_id: str
    mission_id: str
    queue_row: int | None


@dataclass(frozen=True)
class Totals:
    """Of a VP's ended missions: how many, and what their measured workspaces take."""

    missions: int
    bytes: int


# --- what may go: reads only --------------------------------------------------------------------


def ended_vps() -> list[str]:
    """The VPs that have ended missions, whether they are configured or not."""
    # One step of the index for each VP: DISTINCT would walk through all of it.
    found: list[str] = []
    sql = (
        "SELECT vp_id FROM vp_mission INDEXED BY vp_mission_ended WHERE vp_id > ? AND finished_at IS NOT NULL "
        "ORDER BY vp_id LIMIT 1"
    )
    while row := _execute(sql, (found[-1] if found else "",)).fetchone():
        found.append(row[0])
    return found


def totals(vp_id: str) -> Totals:
    """How much there is of a VP's ended missions."""
    return Totals(*_execute(_TOTALS, (vp_id,)).fetchone())


def unmeasured(limit: int) -> list[tuple[str, str, int]]:
    """Ended missions whose workspace was not measured, oldest first: id, VP, attempts."""
    return list(_execute(_UNMEASURED, (limit,)).fetchall())


def expendable(
    now: datetime,
    vp_id: str,
    policy: Retention,
    *,
    older_than: timedelta | None = None,
    measured: Mapping[str, int] | None = None,
) -> Iterator[Expendable]:
    """A VP's missions that go, oldest first. Call inside a transaction.

    One walk from the oldest on: a mission goes for its age, else while there are more than ``max_missions``, else
    while workspaces take more than ``max_bytes`` and it has one. It ends at the first mission that nothing can
    make go any more, so where nothing is due it costs a step.

    Args:
        now: ages count from here.
        vp_id: the VP.
        policy: what is kept.
        older_than: an age at which missions go whatever the policy says, failed ones too.
        measured: bytes of workspaces that the ledger does not have yet, by mission.
    """
    measured = measured or {}
    there = totals(vp_id)
    surplus = there.missions - policy.max_missions if policy.max_missions else 0
    excess_bytes = there.bytes + sum(measured.values()) - policy.max_bytes if policy.max_bytes else 0
    ages = {failed: _least(policy.max_age(failed), older_than) for failed in (False, True)}
    youngest_due = max((now - age for age in ages.values() if age is not None), default=clock.EARLIEST)
    for mission_id, status, finished_at, stored in _oldest(now, vp_id, policy):
        size = measured.get(mission_id) if stored is None else stored
        age = ages[status == Status.FAILED]
        if age is not None and finished_at < now - age:
            reason = Reason.AGE
        elif surplus > 0:
            reason = Reason.COUNT
        elif excess_bytes > 0 and size:
            reason = Reason.BYTES
        elif excess_bytes <= 0 and finished_at >= youngest_due:
            return
        else:
            continue
        surplus -= 1
        excess_bytes -= size or 0
        yield Expendable(mission_id, vp_id, Status(status), finished_at, size, reason)


def held(now: datetime, vp_id: str, policy: Retention, older_than: timedelta | None = None) -> int:
    """How many missions are old enough to go, but stay because a reader has not acknowledged their end."""
    values: dict[str, Any] = {**_bounds(now, policy), "vp_id": vp_id}
    for name, failed in (("due", False), ("failed_due", True)):
        age = _least(policy.max_age(failed), older_than)
        values[name] = -1 if age is None else clock.to_micros(now - age)
    return int(_execute(_HELD, values).fetchone()[0])


def last_reader() -> str | None:
    """Who has read least: a reader of the inbox, or somebody whom the keeper tells."""
    readers = Inbox.select(Inbox.acknowledged_seq, Inbox.reader).order_by(Inbox.acknowledged_seq).limit(1)
    sinks = Sink.select(Sink.cursor_seq, Sink.sink).order_by(Sink.cursor_seq).limit(1)
    last: tuple[int, str | None] = min([*readers.tuples(), *sinks.tuples()], default=(0, None))
    return last[1]


def _read_until() -> int | None:
    """How far all readers have acknowledged, and the keeper has read for all whom it tells; None: there is nobody."""
    least = (Inbox.select(fn.MIN(Inbox.acknowledged_seq)).scalar(), Sink.select(fn.MIN(Sink.cursor_seq)).scalar())
    return min((seq for seq in least if seq is not None), default=None)


def _least(first: timedelta | None, second: timedelta | None) -> timedelta | None:
    return min((age for age in (first, second) if age is not None), default=None)


def _oldest(now: datetime, vp_id: str, policy: Retention) -> Iterator[tuple[str, str, datetime, int | None]]:
    values = {**_bounds(now, policy), "vp_id": vp_id, "after_at": -1, "after_id": "", "page": PAGE}
    while True:
        rows = _execute(_OLDEST, values).fetchall()
        for mission_id, status, finished_at, size in rows:
            yield mission_id, status, clock.from_micros(finished_at), size
        if len(rows) < PAGE:
            return
        values |= {"after_at": rows[-1][2], "after_id": rows[-1][0]}


def _bounds(now: datetime, policy: Retention) -> dict[str, Any]:
    """The values of :data:`_EXPENDABLE`."""
    return {
        "settled": clock.to_micros(now - SETTLED),
        "acknowledged": _read_until(),
        "forgotten": clock.to_micros(now - policy.unacknowledged_max_age(failed=False)),
        "failed_forgotten": clock.to_micros(now - policy.unacknowledged_max_age(failed=True)),
    }


def newest_before(instant: datetime) -> datetime | None:
    """The newest event or heartbeat the ledger knows of before an instant; events in the order they were written."""
    known: list[datetime | None] = [
        Event.select(Event.at).where(Event.at < instant).order_by(Event.seq.desc()).limit(1).scalar(),
        Worker.select(fn.MAX(Worker.heartbeat_at)).where(Worker.heartbeat_at < instant).scalar(),
    ]
    return max((at for at in known if at is not None), default=None)


def least_clocks_apart_us() -> int | None:
    """The least that the wall clock was ahead of the boot-time clock, as the workers of this host and boot know it."""
    tick_us = 1_000_000 // os.sysconf("SC_CLK_TCK")
    apart = []
    for worker in Worker.select().where(Worker.host_identity == clock.host_identity()):
        apart.append(clock.to_micros(worker.heartbeat_at) - worker.heartbeat_boottime_us)
        if worker.start_ticks is not None:  # heartbeats follow a clock that was set; the start of a process does not
            apart.append(clock.to_micros(worker.started_at) - worker.start_ticks * tick_us)
    return min(apart, default=None)


# --- phase one: the rows ------------------------------------------------------------------------


def record_size(mission_id: str, size_bytes: int) -> None:
    """Note what an ended mission's workspace takes on disk."""
    _MEASURED.run(workspace_bytes=size_bytes, id=mission_id)


def delete_missions(
    tx: Transaction, mission_ids: Iterable[str], policy: Retention, go_on: Callable[[], bool] = lambda: True
) -> list[Pruned]:
    """Delete missions with their attempts, events and artifacts, and note the folders that are to go.

    Compared and set: one that has gone already is passed over, and so is one of which a reader has turned up
    meanwhile that does not know its end.

    Args:
        tx: the open write transaction.
        mission_ids: all of one VP.
        policy: what is kept of that VP's missions.
        go_on: asked after each; False ends it.
    """
    bounds, pruned = _bounds(tx.now, policy), []
    for mission_id in mission_ids:
        row = _execute(_DELETE, {**bounds, "id": mission_id}).fetchone()
        if row is not None:
            vp_id, key, attempt, queue_row, size = row
            if attempt:
                _INSERT_FOLDER.insert(mission_id=mission_id, vp_id=vp_id, bytes=size, pruned_at=tx.now, retry_at=tx.now)
            if key is not None:
                _KEY_PRUNED.run(pruned_at=tx.now, vp_id=vp_id, key=key, mission_id=mission_id)
            pruned.append(Pruned(vp_id, mission_id, queue_row))
        if not go_on():
            break
    return pruned


# --- phase two: the folders ---------------------------------------------------------------------


def folders_due(until: datetime, limit: int, tried: Sequence[str] = ()) -> list[PrunedWorkspace]:
    """Folders whose removal is due by then, longest due first, without those of the missions that were just tried."""
    query = PrunedWorkspace.select().where(PrunedWorkspace.retry_at <= until, PrunedWorkspace.mission_id.not_in(tried))
    return list(query.order_by(PrunedWorkspace.retry_at).limit(limit))


def folders_left(limit: int) -> tuple[int, list[PrunedWorkspace]]:
    """How many folders are still to be removed, and some of those that could not be."""
    failed = PrunedWorkspace.select().where(PrunedWorkspace.tries > 0).limit(limit)
    return PrunedWorkspace.select().count(), list(failed)


def folder_gone(mission_id: str) -> None:
    """A folder was removed: nothing is left of its mission."""
    _FOLDER_GONE.run(mission_id=mission_id)


def folder_stays(tx: Transaction, mission_id: str, problem: str) -> None:
    """A folder cannot be removed: say why, and try again later, ever more rarely."""
    row = PrunedWorkspace.get_or_none(PrunedWorkspace.mission_id == mission_id)
    if row is None:
        return
    wait = min(RETRY_SECONDS * 2 ** min(row.tries, 30), LONGEST_RETRY_SECONDS)
    PrunedWorkspace.update(
        tries=row.tries + 1, problem=problem[:PROBLEM_CHARS], retry_at=tx.now + timedelta(seconds=wait)
    ).where(PrunedWorkspace.mission_id == mission_id).execute()


# --- what belongs to no mission -----------------------------------------------------------------


def old_vp_events(now: datetime, policy: Retention, limit: int) -> list[int]:
    """Events of no mission that are past the age limit, or more than ``limits.VP_EVENTS_KEPT``. Reads only."""
    cut = _execute(f"{_VP_EVENTS} DESC LIMIT 1 OFFSET {limits.VP_EVENTS_KEPT}").fetchone()
    surplus_until = cut[0] if cut else 0
    age = policy.max_age(failed=False)
    found = []
    oldest = Event.select(Event.seq, Event.at).where(Event.seq.in_(_seqs(_VP_EVENTS, limit))).order_by(Event.seq)
    for event in oldest:
        if event.seq > surplus_until and (age is None or event.at >= now - age):
            break
        found.append(event.seq)
    return found


def _seqs(sql: str, limit: int) -> list[int]:
    return [seq for (seq,) in _execute(f"{sql} LIMIT ?", (limit,)).fetchall()]


def delete_vp_events(seqs: list[int]) -> int:
    """Delete these events of no mission; returns how many there were."""
    deleted: int = Event.delete().where(Event.seq.in_(seqs), Event.mission.is_null()).execute()
    return deleted


def old_keys(now: datetime, limit: int) -> list[tuple[str, str]]:
    """Idempotency keys whose mission was pruned ``limits.PRUNED_KEY_DAYS`` ago. Reads only."""
    until = now - timedelta(days=limits.PRUNED_KEY_DAYS)
    query = IdempotencyKey.select(IdempotencyKey.vp_id, IdempotencyKey.key).where(
        IdempotencyKey.pruned_at.is_null(False), IdempotencyKey.pruned_at <= until
    )
    return [(row.vp_id, row.key) for row in query.limit(limit)]


def delete_keys(keys: list[tuple[str, str]]) -> int:
    """Delete idempotency keys of pruned missions; returns how many there were."""
    return sum(
        IdempotencyKey.delete()
        .where(IdempotencyKey.vp_id == vp_id, IdempotencyKey.key == key, IdempotencyKey.pruned_at.is_null(False))
        .execute()
        for vp_id, key in keys
    )


def old_tallies(now: datetime) -> bool:
    """Whether days older than ``limits.TALLY_DAYS`` are still tallied each on its own. Reads only."""
    return bool(
        _execute("SELECT EXISTS (SELECT 1 FROM vp_tally WHERE day > 0 AND day < ?)", (_first_day(now),)).fetchone()[0]
    )


def fold_tallies(now: datetime) -> None:
    """Add those days up in day 0: sums since ever stay what they are."""
    old = {"first": _first_day(now)}
    _execute(
        "INSERT INTO vp_tally (vp_id, day, measure, value) SELECT vp_id, 0, measure, SUM(value) FROM vp_tally "
        "WHERE day > 0 AND day < :first GROUP BY vp_id, measure "
        "ON CONFLICT (vp_id, day, measure) DO UPDATE SET value = vp_tally.value + excluded.value",
        old,
    )
    _execute("DELETE FROM vp_tally WHERE day > 0 AND day < :first", old)


def _first_day(now: datetime) -> int:
    return day_of(now) - limits.TALLY_DAYS


def _execute(sql: str, parameters: Any = ()) -> Any:
    return database.current().db.execute_sql(sql, parameters)
