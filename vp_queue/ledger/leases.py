"""What a worker writes while its attempt runs: heartbeats, its executor's identity, progress.

Every write carries the claim and lands only while that claim still holds (rule 6: the attempt number and
lease token fence). A lease holds until a point on this host's boot-time clock, so a wall clock that jumps
expires nothing; the UTC value beside it is for other hosts and for people.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from peewee import JOIN, fn

from vp_queue import clock
from vp_queue.contracts import EXECUTING, EventType, Outcome
from vp_queue.ledger.database import Transaction
from vp_queue.ledger.events import record_mission_event
from vp_queue.ledger.models import Attempt, Mission, Worker
from vp_queue.ledger.records import Claim
from vp_queue.ledger.statements import Change, slot


def _held(claim: Claim) -> Any:
    return (
        (Attempt.mission == claim.mission_id)
        & (Attempt.number == claim.attempt)
        & (Attempt.lease_token == claim.token)
        & (Attempt.outcome == Outcome.RUNNING)
    )


def _held_by_claim() -> Any:
    """The same, with slots for the claim's fields."""
    return (
        (Attempt.mission == slot(Attempt.mission, "mission_id"))
        & (Attempt.number == slot(Attempt.number, "attempt"))
        & (Attempt.lease_token == slot(Attempt.lease_token, "token"))
        & (Attempt.outcome == Outcome.RUNNING)
    )


# What stands between a claim and its program's start.
_SPAWNED: Final = Change(lambda: Attempt.update(executor=slot(Attempt.executor)).where(_held_by_claim()))


def renew(tx: Transaction, claim: Claim, lease_seconds: float, last_output_at: datetime | None) -> bool:
    """A heartbeat: the lease holds ``lease_seconds`` from now. False = the lease is lost, stop at once.

    Args:
        last_output_at: when the program last printed or reported something, for "stalled".
    """
    changed: int = (
        Attempt.update(
            heartbeat_at=tx.now,
            lease_expires_at=tx.now + timedelta(seconds=lease_seconds),
            lease_expires_boottime_us=clock.boottime_us() + int(lease_seconds * 1_000_000),
            last_output_at=fn.COALESCE(
                clock.to_micros(last_output_at) if last_output_at else None, Attempt.last_output_at
            ),
        )
        .where(_held(claim))
        .execute()
    )
    return changed == 1


def spawned(tx: Transaction, claim: Claim, executor: dict[str, Any]) -> bool:
    """Record the gated executor's process identity; it may start only once this is committed (rule 9)."""
    return _SPAWNED.landed(executor=executor, **asdict(claim))


def progress(tx: Transaction, claim: Claim, fraction: float | None, message: str | None, *, event: bool = True) -> bool:
    """The VP's own word on how far it is.

    Args:
        event: also record it as an event; False once an attempt has recorded its share of them.
    """
    held = Attempt.select(Attempt.number).where(_held(claim))
    body = {"fraction": fraction, "message": message, "at": clock.as_text(tx.now)}
    rows = list(
        Mission.update(events=Mission.events + (1 if event else 0), progress=body)
        .where(Mission.id == claim.mission_id, Mission.status.in_(EXECUTING), fn.EXISTS(held))
        .returning(Mission)
        .execute()
    )
    if not rows:
        return False
    Attempt.update(last_output_at=tx.now).where(_held(claim)).execute()
    if event:
        record_mission_event(tx, rows[0], EventType.PROGRESS, {"fraction": fraction, "message": message})
    return True


@dataclass(frozen=True)
class Suspect:
    """A running attempt whose worker may be gone, as the keeper sees it."""

    claim: Claim
    host_identity: str
    worker_pid: int | None
    worker_start: int | None
    expired: bool  # by the boot-time clock on its own host, else by UTC plus the grace
    grace: timedelta


def running(now: datetime, lost_host_grace_seconds: float) -> Iterable[Suspect]:
    """All running attempts, each with what is needed to judge its worker. Reads only."""
    here, boottime_us = clock.host_identity(), clock.boottime_us()
    query = (
        # Only what it takes to judge: a damaged text in one attempt must not keep the others from repair.
        Attempt.select(
            Attempt.mission,
            Attempt.number,
            Attempt.lease_token,
            Attempt.host_identity,
            Attempt.lease_expires_at,
            Attempt.lease_expires_boottime_us,
            Mission.vp_id.alias("of_vp"),
            Worker.pid.alias("pid"),
            Worker.start_ticks.alias("start"),
        )
        .join(Mission)
        .join(Worker, JOIN.LEFT_OUTER, on=(Worker.worker_id == fn.COALESCE(Attempt.keeper_id, Attempt.worker_id)))
        .where(Attempt.outcome == Outcome.RUNNING)
    )
    grace = timedelta(seconds=lost_host_grace_seconds)
    rows: Iterable[Any] = query.objects()
    for row in rows:
        if row.host_identity == here:
            expired = row.lease_expires_boottime_us < boottime_us
        else:
            expired = row.lease_expires_at + grace < now
        yield Suspect(
            claim=Claim(row.mission_id, row.of_vp, row.number, row.lease_token),
            host_identity=row.host_identity,
            worker_pid=row.pid,
            worker_start=row.start,
            expired=expired,
            grace=grace,
        )


@dataclass(frozen=True)
class TakenOver:
    """What a keeper needs to end an attempt: read in the same statement that fenced its worker."""

    claim: Claim
    executor: dict[str, Any] | None


def take_over(
    tx: Transaction, suspect: Suspect, lease_seconds: float, keeper_id: str | None, *, only_if_expired: bool
) -> TakenOver | None:
    """Fence a lost worker: a new token, by compare-and-set on the old. From then on it writes nothing.

    A suspect was read a while ago. Its worker may have thawed since and renewed its lease, or started its
    program; so expiry is judged again here, and the executor is the one of this very moment.

    Args:
        keeper_id: the keeper's own worker id. The lease is its own now: another keeper leaves the attempt
            alone until this one dies or the lease taken here runs out.
        only_if_expired: the reason is a lease that ran out (not a dead process): it must still be so.

    Returns:
        None if somebody else was faster, or the worker turned out to be alive.
    """
    token = clock.new_token()
    condition = _held(suspect.claim)
    if only_if_expired:
        condition &= _expired(suspect.host_identity, tx.now, suspect.grace)
    rows = list(
        Attempt.update(
            lease_token=token,
            keeper_id=keeper_id,
            lease_expires_at=tx.now + timedelta(seconds=lease_seconds),
            lease_expires_boottime_us=clock.boottime_us() + int(lease_seconds * 1_000_000),
        )
        .where(condition)
        .returning(Attempt.executor)
        .execute()
    )
    if not rows:
        return None
    claim = suspect.claim
    return TakenOver(Claim(claim.mission_id, claim.vp_id, claim.attempt, token), rows[0].executor)


def _expired(host_identity: str, now: datetime, grace: timedelta) -> Any:
    """The lease ran out: by the boot-time clock on its own host, else by UTC plus the grace."""
    if host_identity == clock.host_identity():
        return Attempt.lease_expires_boottime_us < clock.boottime_us()
    return Attempt.lease_expires_at < now - grace
