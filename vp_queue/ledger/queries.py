"""Everything that is read from the ledger, as contract views. Nothing here writes.

Durations are computed from aware instants only, with one "now" per answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from peewee import fn

from vp_queue import clock
from vp_queue.contracts import EXECUTING, TERMINAL, Outcome, Status, WorkerState
from vp_queue.contracts.views import (
    ArtifactView,
    AttemptView,
    EventView,
    FailureView,
    MissionView,
    ProgressView,
    QuestionView,
    UsageView,
    WorkerView,
)
from vp_queue.errors import MissionNotFound
from vp_queue.ledger import database
from vp_queue.ledger.models import Agent, Artifact, Attempt, Event, IdempotencyKey, Mission, Worker
from vp_queue.ledger.statements import Reading, slot

# The index is named because the planner, on a small ledger, would look through all queued missions.
PAST_START_DEADLINE: Final = (
    "SELECT id FROM vp_mission INDEXED BY vp_mission_start_deadline "
    "WHERE status = 'queued' AND expires_at IS NOT NULL AND expires_at <= ? AND started_at IS NULL LIMIT ?"
)

# So far above a backup's newest event go the seqs on after it was restored: a reader that kept one must miss nothing.
RESTORED_GAP: Final = 1_000_000
# So many events at most are taken to have come between a backup and its restore.
FORGOTTEN: Final = 100_000

_MISSION: Final = Reading(Mission, lambda: Mission.select().where(Mission.id == slot(Mission.id)))
_KEY: Final = Reading(
    IdempotencyKey,
    lambda: IdempotencyKey.select().where(
        IdempotencyKey.vp_id == slot(IdempotencyKey.vp_id), IdempotencyKey.key == slot(IdempotencyKey.key)
    ),
)

ALIVE: Final = (WorkerState.RUNNING, WorkerState.DRAINING)
_SHOWN_AS_STORED: Final = (
    "vp_id",
    "mission_type",
    "objective",
    "constraints",
    "budget",
    "metadata",
    "priority",
    "idempotency_key",
    "attempt",
    "attempts_charged",
    "max_attempts",
    "created_at",
    "queued_at",
    "started_at",
    "finished_at",
    "not_before",
    "expires_at",
    "result",
    "retry_of",
    "source_session_id",
)

StallLimits = Mapping[str, float]  # vp_id → seconds without output or progress


def mission_row(mission_id: str) -> Mission:
    """The row of a mission.

    Raises:
        MissionNotFound: there is none.
    """
    row = find_mission(mission_id)
    if row is None:
        raise MissionNotFound(f"No mission {mission_id}; vp_list_missions shows those there are.", field="mission_id")
    return row


def find_mission(mission_id: str) -> Mission | None:
    """The row of a mission, or None: there is none, or it was pruned."""
    return _MISSION.row(id=mission_id)


def key_row(vp_id: str, key: str) -> IdempotencyKey | None:
    """What an idempotency key of a VP stood for, if it was used."""
    return _KEY.row(vp_id=vp_id, key=key)


def mission_views(rows: Sequence[Mission], now: datetime, stall: StallLimits) -> list[MissionView]:
    """The views of these rows."""
    executing = [row.id for row in rows if row.status in EXECUTING]
    alive = {}
    if executing:
        attempts = Attempt.select().where(Attempt.mission.in_(executing), Attempt.outcome == Outcome.RUNNING)
        alive = {attempt.mission_id: attempt for attempt in attempts}
    return [_mission_view(row, alive.get(row.id), now, stall) for row in rows]


def mission_view(row: Mission, now: datetime, stall: StallLimits) -> MissionView:
    """The view of one row."""
    return mission_views([row], now, stall)[0]


def _mission_view(row: Mission, attempt: Attempt | None, now: datetime, stall: StallLimits) -> MissionView:
    duration = None
    if row.started_at is not None:
        duration = max(0.0, ((row.finished_at or now) - row.started_at).total_seconds())
    stored = row.__data__  # Peewee's attributes cost more than the whole view
    return MissionView(
        mission_id=row.id,
        **{name: stored[name] for name in _SHOWN_AS_STORED},
        status=Status(row.status),
        terminal=row.status in TERMINAL,
        cancel_requested=row.cancel_requested_at is not None,
        duration_seconds=duration,
        stalled=_stalled(attempt, now, stall.get(row.vp_id)),
        workspace=f"workspace://{row.vp_id}/{row.id}",
        failure=FailureView(**row.failure) if row.failure and row.status == Status.FAILED else None,
        usage=UsageView(**row.usage) if row.usage else None,
        progress=ProgressView(**row.progress) if row.progress else None,
        question=QuestionView(**row.question) if row.question else None,
    )


def _stalled(attempt: Attempt | None, now: datetime, limit_seconds: float | None) -> bool:
    if attempt is None or limit_seconds is None:
        return False
    last_output_at: datetime = attempt.last_output_at or attempt.started_at
    return now - last_output_at > timedelta(seconds=limit_seconds)


def attempt_views(mission_id: str) -> list[AttemptView]:
    """All attempts of a mission, first to last."""
    return [
        AttemptView(
            number=row.number,
            worker_id=row.worker_id,
            host=row.host,
            workspace=row.workspace,
            started_at=row.started_at,
            ended_at=row.ended_at,
            outcome=Outcome(row.outcome),
            exit_code=row.exit_code,
            signal=row.signal,
            max_rss_bytes=row.max_rss_bytes,
            cpu_seconds=row.cpu_seconds,
            failure=FailureView(**row.failure) if row.failure else None,
            usage=UsageView(**row.usage) if row.usage else None,
        )
        for row in Attempt.select().where(Attempt.mission == mission_id).order_by(Attempt.number)
    ]


def event_views(rows: Iterable[Event]) -> list[EventView]:
    """The views of event rows."""
    return [
        EventView(
            seq=row.seq,
            mission_seq=row.mission_seq,
            type=row.type,
            mission_id=row.mission_id,
            vp_id=row.vp_id,
            attempt=row.attempt,
            at=row.at,
            data=row.data,
        )
        for row in rows
    ]


def newest_events(mission_id: str, limit: int, *, before: int | None = None) -> list[EventView]:
    """The newest events of a mission, or of those before a position in it, oldest of them first."""
    if limit == 0:
        return []
    rows = Event.select().where(Event.mission == mission_id).order_by(Event.mission_seq.desc()).limit(limit)
    if before is not None:
        rows = rows.where(Event.mission_seq < before)
    return event_views(reversed(list(rows)))


def events_of_mission_after(mission_id: str, mission_seq: int, limit: int) -> list[EventView]:
    """Events of one mission after a position, in order."""
    rows = (
        Event.select()
        .where(Event.mission == mission_id, Event.mission_seq > mission_seq)
        .order_by(Event.mission_seq)
        .limit(limit)
    )
    return event_views(rows)


def events_after(
    seq: int,
    limit: int,
    *,
    source_session_id: str | None = None,
    mission_id: str | None = None,
    types: Sequence[str] | None = None,
) -> list[EventView]:
    """The feed after a seq, across all missions and VPs, in order."""
    query = Event.select().where(Event.seq > seq).order_by(Event.seq).limit(limit)
    if mission_id is not None:
        query = query.where(Event.mission == mission_id)
    if types is not None:
        query = query.where(Event.type.in_(types))
    if source_session_id is not None:
        query = query.join(Mission).where(Mission.source_session_id == source_session_id)
    return event_views(query)


def newest_seq() -> int:
    """The seq of the newest event; 0 in an empty ledger."""
    return Event.select(fn.MAX(Event.seq)).scalar() or 0


def last_given_seq() -> int:
    """The highest seq there ever was, whether its event is still there or not; what comes will lie above."""
    row = database.current().db.execute_sql("SELECT seq FROM sqlite_sequence WHERE name = 'vp_event'").fetchone()
    return row[0] if row else 0


def pruned_between(after: int, until: int) -> int:
    """How many events after a seq up to another retention removed: a write that was rolled back leaves no gap."""
    found = Event.select(fn.COUNT(Event.seq), fn.MIN(Event.seq)).where(Event.seq > after, Event.seq <= until)
    row: tuple[int, int | None] = found.scalar(as_tuple=True)
    there, first = row
    hole = (until + 1 if first is None else first) - after - 1
    # A reader that kept a seq which the restored backup does not know stands within the gap, near its beginning.
    in_gap = hole if hole % RESTORED_GAP > RESTORED_GAP - FORGOTTEN else 0
    return max(0, until - after - there - in_gap) % RESTORED_GAP


def artifacts(mission_id: str, attempt: int) -> list[Artifact]:
    """The published artifacts of an attempt, by path."""
    query = Artifact.select().where(Artifact.mission == mission_id, Artifact.attempt == attempt)
    return list(query.order_by(Artifact.path))


def artifact_view(row: Artifact, vp_id: str, **content: Any) -> ArtifactView:
    """The view of an artifact; ``content`` gives content, encoding, truncated and problem."""
    body = {"content": None, "encoding": None, "truncated": False, "problem": None, **content}
    return ArtifactView(
        path=row.path,
        size=row.size,
        media_type=row.media_type,
        sha256=row.sha256,
        attempt=row.attempt,
        uri=f"workspace://{vp_id}/{row.mission_id}/{row.path}",
        **body,
    )


def agent_row(vp_id: str) -> Agent | None:
    """What an operator decided about a VP, if anything."""
    row: Agent | None = Agent.get_or_none(Agent.vp_id == vp_id)
    return row


def depths(vp_id: str) -> dict[str, int]:
    """How many missions of a VP are queued, running and waiting for input."""
    live = (Status.QUEUED, *EXECUTING)
    query = Mission.select(Mission.status, fn.COUNT(Mission.id)).where(Mission.vp_id == vp_id, Mission.status.in_(live))
    rows: Iterable[Any] = query.group_by(Mission.status).tuples()
    found: dict[str, int] = dict(rows)
    return {str(status): found.get(status, 0) for status in live}


@dataclass(frozen=True)
class Current:
    """What a worker that were started now would work by.

    Attributes:
        lease_seconds: a worker silent for longer is stale.
        profile_digest: of its VP's profile; None for a keeper.
        code_digest: of vp-queue's own code.
    """

    lease_seconds: float
    profile_digest: str | None
    code_digest: str


def worker_views(vp_id: str | None, current: Current) -> list[WorkerView]:
    """The workers of a VP that have not ended, oldest first; None: the keepers."""
    of_vp = Worker.vp_id.is_null() if vp_id is None else Worker.vp_id == vp_id
    rows = Worker.select().where(of_vp, Worker.state.in_(ALIVE)).order_by(Worker.started_at)
    return [
        WorkerView(
            worker_id=row.worker_id,
            host=row.host,
            pid=row.pid,
            state=WorkerState(row.state),
            heartbeat_at=row.heartbeat_at,
            version=row.version,
            stale=_silent_seconds(row) > current.lease_seconds,
            outdated=_outdated(row, current),
        )
        for row in rows
    ]


def worker_pids() -> set[int]:
    """The pids of all workers and keepers that have not ended."""
    return {row.pid for row in Worker.select(Worker.pid).where(Worker.state.in_(ALIVE))}


def _silent_seconds(worker: Worker) -> float:
    """Since its last heartbeat: by the boot-time clock on its own host, else by the wall clock."""
    if worker.host_identity == clock.host_identity():
        return (clock.boottime_us() - worker.heartbeat_boottime_us) / 1_000_000
    return float((clock.now() - worker.heartbeat_at).total_seconds())


def _outdated(worker: Worker, current: Current) -> list[Literal["profile", "code"]]:
    found: list[Literal["profile", "code"]] = []
    if worker.profile_digest is not None and worker.profile_digest != current.profile_digest:
        found.append("profile")
    if worker.code_digest is not None and worker.code_digest != current.code_digest:
        found.append("code")
    return found


def cancel_requested(mission_ids: Sequence[str]) -> list[str]:
    """Those of these executing missions that somebody asked to cancel."""
    query = Mission.select(Mission.id).where(
        Mission.id.in_(mission_ids), Mission.status.in_(EXECUTING), Mission.cancel_requested_at.is_null(False)
    )
    return [row.id for row in query]


def past_start_deadline(now: datetime, limit: int) -> list[str]:
    """Queued missions that never started and whose ``expires_at`` has passed."""
    return [row.id for row in Mission.raw(PAST_START_DEADLINE, clock.to_micros(now), limit)]
