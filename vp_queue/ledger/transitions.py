"""Every status change of a mission, each one named function, each together with its event.

A function here runs inside a :class:`~vp_queue.ledger.database.Transaction`, changes the mission with a
compare-and-set on the state it must be in (and, where a worker speaks, on the attempt number and lease
token, so that a late worker writes nothing), records the event, and answers with the row as changed, or
None if the write did not land. There is no ``set_status``. ``docs/lifecycle.md`` draws the edges.

Sources of the ideas: River's named transitions; DBOS's "report whether the write landed".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, Final

from peewee import fn

from vp_queue import clock, origin
from vp_queue.contracts import EXECUTING, FINAL_FAILURES, TERMINAL, EventType, FailureCode, Outcome, Status
from vp_queue.ledger import tally, transitions_sql
from vp_queue.ledger.database import Transaction
from vp_queue.ledger.events import record_mission_event
from vp_queue.ledger.models import Artifact, Attempt, Mission
from vp_queue.ledger.records import Claim, Ending, Failure, NewMission, WorkerIdentity

BACKOFF_CAP_SECONDS: Final = 3600.0
# "Due at once", whatever the wall clock does afterwards: a clock set back must not hold up a mission.
AT_ONCE: Final = clock.EARLIEST


def accept(tx: Transaction, new: NewMission, queue_row: int | None = None) -> Mission:
    """A new mission, queued, with its idempotency key.

    Args:
        queue_row: the wake-up that was written in the same transaction; None: it is not due yet.
    """
    values = {
        **vars(new),
        "id": new.mission_id,
        "status": Status.QUEUED,
        "due_at": max(new.not_before, tx.now) if new.not_before else AT_ONCE,
        "queue_row": queue_row,
        "created_at": tx.now,
        "queued_at": tx.now,
    }
    digest = values.pop("request_digest")
    del values["mission_id"]
    mission = transitions_sql.INSERT_MISSION.row(**values)
    if new.idempotency_key is not None:
        transitions_sql.INSERT_KEY.insert(
            vp_id=new.vp_id,
            key=new.idempotency_key,
            request_digest=digest,
            mission_id=new.mission_id,
            created_at=tx.now,
        )
    data = {
        "mission_type": new.mission_type,
        "priority": new.priority,
        "retry_of": new.retry_of,
        "by": origin.as_data(),
    }
    record_mission_event(tx, mission, EventType.DISPATCHED, data)
    return mission


def enqueued(tx: Transaction, mission_id: str, queue_row: int) -> None:
    """Note which queue row now stands for a queued mission (no status change, hence no event)."""
    transitions_sql.ENQUEUED.run(id=mission_id, queue_row=queue_row)


def expected_attempt(mission_id: str) -> int | None:
    """The attempt number a wake-up must carry to be claimed now; None if the mission is not queued."""
    mission = Mission.get_or_none(Mission.id == mission_id, Mission.status == Status.QUEUED)
    return mission.attempt + 1 if mission else None


def claim(
    tx: Transaction,
    mission_id: str,
    attempt: int,
    worker: WorkerIdentity,
    lease_seconds: float,
    workspace: str | None = None,
) -> tuple[Mission, Claim] | None:
    """queued → running, if ``attempt`` is the number expected next; else a stale or duplicate wake-up: None.

    None as well while its VP is paused or draining.

    Args:
        attempt: the number the queue row carried.
        lease_seconds: how long the lease holds without a heartbeat.
        workspace: where the attempt will work; nothing is made there before this is committed.
    """
    # The claim clears due_at; of a first attempt not_before tells the same, without another read.
    due_at = Mission.select(Mission.due_at).where(Mission.id == mission_id).scalar() if attempt > 1 else None
    mission = transitions_sql.CLAIM.row(id=mission_id, attempt=attempt, attempt_before=attempt - 1, now=tx.now)
    if mission is None:
        return None
    tally.claimed(tx, mission.vp_id, max(mission.queued_at, due_at or mission.not_before or AT_ONCE))
    token = clock.new_token()
    transitions_sql.INSERT_ATTEMPT.insert(
        mission=mission_id,
        number=attempt,
        worker_id=worker.worker_id,
        host=worker.host,
        host_identity=worker.host_identity,
        lease_token=token,
        lease_expires_at=tx.now + timedelta(seconds=lease_seconds),
        lease_expires_boottime_us=clock.boottime_us() + int(lease_seconds * 1_000_000),
        heartbeat_at=tx.now,
        workspace=workspace,
        started_at=tx.now,
    )
    record_mission_event(tx, mission, EventType.STARTED, {"worker_id": worker.worker_id, "host": worker.host})
    return mission, Claim(mission_id, mission.vp_id, attempt, token)


def complete(tx: Transaction, claim: Claim, ending: Ending) -> Mission | None:
    """running → completed. Only called when artifacts and receipt are on disk; a requested cancel prevails."""
    mission = _speaking(claim)
    if mission is None:
        return None
    if mission.cancel_requested_at is not None:
        return cancelled(tx, claim, ending)
    if mission.status == Status.NEEDS_INPUT:
        # It asked, then went on without an answer: the question is withdrawn.
        answer(tx, claim.mission_id, mission.question["question_id"], None)
    mission = _update(
        tx,
        _fenced(claim),
        status=Status.COMPLETED,
        finished_at=tx.now,
        attempts_charged=Mission.attempts_charged + 1,
        result=ending.result,
        usage=_total_usage(mission.usage, ending.usage),
        failure=None,
        question=None,
    )
    return _ended(tx, claim, mission, Outcome.COMPLETED, EventType.COMPLETED, ending, None)


def fail(tx: Transaction, claim: Claim, failure: Failure, ending: Ending, *, backoff_seconds: float) -> Mission | None:
    """running → failed, or → queued with back-off while attempts are left and another could succeed.

    Args:
        backoff_seconds: the wait after the first charged attempt; doubled for each further one.
    """
    return _charge(tx, claim, failure, ending, Outcome.FAILED, backoff_seconds)


def lose(
    tx: Transaction,
    claim: Claim,
    message: str,
    ending: Ending,
    *,
    backoff_seconds: float,
    log_tail: str | None = None,
    **facts: Any,
) -> Mission | None:
    """The worker is gone and its executor proved dead (or unreachable past its grace): as a failure ``worker_lost``."""
    failure = Failure(FailureCode.WORKER_LOST, message, ending.exit_code, log_tail)
    return _charge(tx, claim, failure, ending, Outcome.LOST, backoff_seconds, **facts)


def release(
    tx: Transaction,
    claim: Claim,
    ending: Ending,
    *,
    max_releases: int,
    backoff_seconds: float,
    reason: str = "the worker was stopped",
) -> Mission | None:
    """running → queued after an orderly stop: not charged, unless it was released too often already.

    Args:
        max_releases: how many a mission survives.
        backoff_seconds: as of :func:`fail`, should it be charged.
        reason: why it was stopped, for people.
    """
    mission = _speaking(claim)
    if mission is None:
        return None
    if mission.cancel_requested_at is not None:
        return cancelled(tx, claim, ending)
    if mission.releases >= max_releases:
        message = (
            f"Given back {mission.releases + 1} times (now: {reason}), and max_releases is {max_releases}. Raise it in "
            "the VP's profile if its workers are restarted that often."
        )
        return lose(tx, claim, message, ending, backoff_seconds=backoff_seconds)
    mission = _update(
        tx,
        _fenced(claim),
        status=Status.QUEUED,
        due_at=AT_ONCE,
        queued_at=tx.now,
        releases=Mission.releases + 1,
        usage=_total_usage(mission.usage, ending.usage),
        question=None,
    )
    return _ended(tx, claim, mission, Outcome.RELEASED, EventType.RELEASED, ending, None, reason=reason)


def cancelled(tx: Transaction, claim: Claim, ending: Ending, **facts: Any) -> Mission | None:
    """running → cancelled, when the executor's tree is proved dead (or its host unreachable past its grace)."""
    mission = _speaking(claim)
    if mission is None:
        return None
    mission = _update(
        tx,
        _fenced(claim),
        status=Status.CANCELLED,
        finished_at=tx.now,
        usage=_total_usage(mission.usage, ending.usage),
        question=None,
    )
    reason = mission.cancel_reason if mission else None
    return _ended(tx, claim, mission, Outcome.CANCELLED, EventType.CANCELLED, ending, None, reason=reason, **facts)


def request_cancel(tx: Transaction, mission_id: str, reason: str) -> tuple[Mission | None, bool]:
    """queued → cancelled at once; running: a durable request that its worker carries out.

    Returns:
        The mission (None if there is none), and whether this call changed anything.
    """
    mission = Mission.get_or_none(Mission.id == mission_id)
    if mission is None or mission.status in TERMINAL or mission.cancel_requested_at is not None:
        return mission, False
    asked = {"cancel_requested_at": tx.now, "cancel_reason": reason or None}
    if mission.status == Status.QUEUED:
        changed = _update(
            tx,
            (Mission.id == mission_id) & (Mission.status == Status.QUEUED),
            status=Status.CANCELLED,
            finished_at=tx.now,
            due_at=None,
            **asked,
        )
        event = EventType.CANCELLED
    else:
        changed = _update(tx, (Mission.id == mission_id) & (Mission.status.in_(EXECUTING)), **asked)
        event = EventType.CANCEL_REQUESTED
    assert changed is not None  # noqa: S101  the write lock is held since the read above
    record_mission_event(tx, changed, event, {"reason": reason or None, "by": origin.as_data()})
    return changed, True


def expire(tx: Transaction, mission_id: str) -> Mission | None:
    """queued → expired, if its start deadline passed and it never started."""
    mission = _update(
        tx,
        (Mission.id == mission_id)
        & (Mission.status == Status.QUEUED)
        & Mission.started_at.is_null()
        & (Mission.expires_at <= tx.now),
        status=Status.EXPIRED,
        finished_at=tx.now,
        due_at=None,
    )
    if mission is not None:
        record_mission_event(tx, mission, EventType.EXPIRED, {"expires_at": clock.as_text(mission.expires_at)})
    return mission


def ask(
    tx: Transaction, claim: Claim, question: str, options: Sequence[str] = (), deadline_at: datetime | None = None
) -> Mission | None:
    """running → needs_input with an open question. The attempt keeps its lease."""
    body = {
        "question_id": f"q-{clock.new_token()[:12]}",
        "question": question,
        "options": list(options),
        "asked_at": clock.as_text(tx.now),
        "deadline_at": clock.as_text(deadline_at) if deadline_at else None,
    }
    mission = _update(tx, _fenced(claim) & (Mission.status == Status.RUNNING), status=Status.NEEDS_INPUT, question=body)
    if mission is not None:
        record_mission_event(tx, mission, EventType.NEEDS_INPUT, body)
    return mission


def answer(tx: Transaction, mission_id: str, question_id: str, text: str | None) -> Mission | None:
    """needs_input → running with the open question answered (None: withdrawn); None if it is not open."""
    mission = Mission.get_or_none(Mission.id == mission_id, Mission.status == Status.NEEDS_INPUT)
    if mission is None or mission.question["question_id"] != question_id:
        return None
    mission = _update(
        tx,
        (Mission.id == mission_id) & (Mission.status == Status.NEEDS_INPUT),
        status=Status.RUNNING,
        question=None,
    )
    if mission is not None:
        by = {} if text is None else {"by": origin.as_data()}
        record_mission_event(tx, mission, EventType.ANSWERED, {"question_id": question_id, "answer": text, **by})
    return mission


def _update(tx: Transaction, condition: Any, **values: Any) -> Mission | None:
    """The compare-and-set all transitions share; raises the event count for the event that follows."""
    query = Mission.update(events=Mission.events + 1, **values).where(condition).returning(Mission)
    rows = list(query.execute())
    return rows[0] if rows else None


def _fenced(claim: Claim) -> Any:
    """True only for the worker that holds the lease of the current attempt."""
    lease = Attempt.select(Attempt.number).where(
        Attempt.mission == claim.mission_id,
        Attempt.number == claim.attempt,
        Attempt.lease_token == claim.token,
        Attempt.outcome == Outcome.RUNNING,
    )
    return (
        (Mission.id == claim.mission_id)
        & Mission.status.in_(EXECUTING)
        & (Mission.attempt == claim.attempt)
        & fn.EXISTS(lease)
    )


def _speaking(claim: Claim) -> Mission | None:
    mission: Mission | None = Mission.select().where(_fenced(claim)).first()
    return mission


def _charge(
    tx: Transaction,
    claim: Claim,
    failure: Failure,
    ending: Ending,
    outcome: Outcome,
    backoff_seconds: float,
    **facts: Any,
) -> Mission | None:
    mission = _speaking(claim)
    if mission is None:
        return None
    if mission.cancel_requested_at is not None:
        return cancelled(tx, claim, ending, **facts)
    charged = mission.attempts_charged + 1
    body = {**asdict(failure), "attempt": claim.attempt}
    values: dict[str, Any] = {
        "attempts_charged": charged,
        "failure": body,
        "result": ending.result,
        "usage": _total_usage(mission.usage, ending.usage),
        "question": None,
    }
    if charged < mission.max_attempts and failure.code not in FINAL_FAILURES:
        wait = min(backoff_seconds * 2 ** (charged - 1), BACKOFF_CAP_SECONDS)
        due_at = tx.now + timedelta(seconds=wait)
        mission = _update(tx, _fenced(claim), status=Status.QUEUED, due_at=due_at, queued_at=tx.now, **values)
        event = EventType.RETRYING
        facts = {**facts, "attempts_charged": charged, "retry_at": clock.as_text(due_at)}
    else:
        mission = _update(tx, _fenced(claim), status=Status.FAILED, finished_at=tx.now, **values)
        event = EventType.FAILED
    return _ended(tx, claim, mission, outcome, event, ending, body, **facts)


def _ended(
    tx: Transaction,
    claim: Claim,
    mission: Mission | None,
    outcome: Outcome,
    event: EventType,
    ending: Ending,
    failure: dict[str, Any] | None,
    **facts: Any,
) -> Mission | None:
    """Close the attempt, count it, note its artifacts, and record the event."""
    if mission is None:
        return None
    closed = Attempt.update(
        outcome=outcome,
        ended_at=tx.now,
        exit_code=ending.exit_code,
        signal=ending.signal,
        max_rss_bytes=ending.max_rss_bytes,
        cpu_seconds=ending.cpu_seconds,
        failure=failure,
        usage=ending.usage,
    ).where(Attempt.mission == claim.mission_id, Attempt.number == claim.attempt)
    [attempt] = closed.returning(Attempt.started_at).execute()
    code = failure["code"] if failure else None
    tally.attempt_ended(tx, mission.vp_id, attempt.started_at, outcome, event, code, ending.usage)
    rows = [{"mission": claim.mission_id, "attempt": claim.attempt, **artifact} for artifact in ending.artifacts]
    for start in range(0, len(rows), 100):
        Artifact.insert_many(rows[start : start + 100]).execute()
    data: dict[str, Any] = {**facts, "outcome": outcome, "artifacts": len(rows)}
    if failure is not None:
        data["failure"] = {key: value for key, value in failure.items() if key != "log_tail"}
    if ending.skipped_total:
        data |= {"skipped": list(ending.skipped), "skipped_total": ending.skipped_total}
    record_mission_event(tx, mission, event, data)
    return mission


def _total_usage(before: dict[str, Any] | None, more: dict[str, Any] | None) -> dict[str, Any] | None:
    """Usage over all attempts; a number is known as soon as one attempt told it."""
    if before is None or more is None:
        return more if before is None else before
    total = dict(before)
    for key, value in more.items():
        if value is not None:
            total[key] = (total.get(key) or 0) + value
    return total
