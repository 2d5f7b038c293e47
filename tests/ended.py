"""Missions that ended some time ago, made by the real transitions under a clock that is set back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.harness import GENERAL, Home
from vp_queue import clock
from vp_queue.contracts import TERMINAL, FailureCode, Status, WorkerState
from vp_queue.ledger import database, inbox, retention, transitions
from vp_queue.ledger.database import Transaction
from vp_queue.ledger.models import Event, Mission, Worker
from vp_queue.ledger.records import Ending, Failure, NewMission, WorkerIdentity

WORKER = WorkerIdentity("w-ended", "here", "here")
CONTENT = b"a" * 10_000
ARTIFACT = {
    "path": "a.txt",
    "media_type": "text/plain",
    "size": len(CONTENT),
    "sha256": hashlib.sha256(CONTENT).hexdigest(),
    "role": "output",
}
REQUEST: dict[str, Any] = {
    "mission_type": "task",
    "objective": "x",
    "constraints": {},
    "budget": {},
    "metadata": {},
    "priority": 0,
    "max_attempts": 1,
}
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


class Ago(clock.SystemClock):
    """The wall clock, set back."""

    def __init__(self, age: timedelta) -> None:
        self._age = age

    def now(self) -> datetime:
        return super().now() - self._age


@contextmanager
def at_age(age: timedelta) -> Iterator[None]:
    """What is written in this block happened so long ago; a negative age is the future."""
    with clock.use(Ago(age)):
        yield


def worker_seen(age: timedelta, boottime_us: int = 0, *, host_identity: str = "before this boot") -> None:
    """A worker whose last heartbeat was so long ago, when the boot-time clock of its boot said this."""
    with at_age(age), database.write_transaction() as tx:
        Worker.insert(
            worker_id=f"w-{clock.new_token()[:16]}",
            host="here",
            host_identity=host_identity,
            pid=1,
            version="0",
            started_at=tx.now,
            heartbeat_at=tx.now,
            heartbeat_boottime_us=boottime_us,
            state=WorkerState.STOPPED,
        ).execute()


def on_until_now() -> None:
    """The machine was in use until shortly before this boot, so that its clock is in no doubt."""
    worker_seen(timedelta(microseconds=clock.boottime_us()) + HOUR)


def mission(
    age: timedelta,
    status: Status = Status.COMPLETED,
    *,
    vp_id: str = GENERAL,
    key: str | None = None,
    size: int | None = None,
    **values: Any,
) -> str:
    """A mission that came to this status so long ago; returns its id. A completed one has :data:`ARTIFACT`.

    Args:
        size: bytes its workspace was measured to take; None: not measured yet.
        values: of the request.
    """
    with at_age(age), database.write_transaction() as tx:
        return _made(tx, status, vp_id, key, size, values, [ARTIFACT])


def many(count: int, age: timedelta, status: Status = Status.COMPLETED, vp_id: str = GENERAL) -> list[str]:
    """So many of them, without artifacts, in one transaction."""
    with at_age(age), database.write_transaction() as tx:
        return [_made(tx, status, vp_id, None, None, {}, []) for _ in range(count)]


def _made(
    tx: Transaction,
    status: Status,
    vp_id: str,
    key: str | None,
    size: int | None,
    values: dict[str, Any],
    artifacts: Sequence[dict[str, Any]],
) -> str:
    new = NewMission(
        mission_id=clock.new_mission_id(),
        vp_id=vp_id,
        request_digest="digest",
        idempotency_key=key,
        expires_at=tx.now if status == Status.EXPIRED else None,
        **{**REQUEST, **values},
    )
    transitions.accept(tx, new)
    if status == Status.EXPIRED:
        assert transitions.expire(tx, new.mission_id) is not None
    elif status != Status.QUEUED:
        _executed(tx, new.mission_id, status, artifacts)
    if size is not None:
        retention.record_size(new.mission_id, size)
    return new.mission_id


def _executed(tx: Transaction, mission_id: str, status: Status, artifacts: Sequence[dict[str, Any]]) -> None:
    claimed = transitions.claim(tx, mission_id, 1, WORKER, 30)
    assert claimed is not None
    claim = claimed[1]
    if status == Status.COMPLETED:
        assert transitions.complete(tx, claim, Ending(artifacts=artifacts)) is not None
    elif status == Status.FAILED:
        failure = Failure(FailureCode.EXIT_NONZERO, "1")
        assert transitions.fail(tx, claim, failure, Ending(), backoff_seconds=0) is not None
    elif status == Status.CANCELLED:
        assert transitions.cancelled(tx, claim, Ending()) is not None
    elif status == Status.NEEDS_INPUT:
        assert transitions.ask(tx, claim, "which?") is not None


def acknowledged_up_to(reader: str, mission_id: str | None) -> None:
    """The reader has acknowledged everything up to this mission's newest event; None: nothing."""
    with database.write_transaction() as tx:
        seq = 0 if mission_id is None else _newest(mission_id)
        inbox.acknowledge(tx, reader, seq)


def _newest(mission_id: str) -> int:
    event = Event.select().where(Event.mission == mission_id).order_by(Event.seq.desc()).get()
    return int(event.seq)


def left() -> set[str]:
    """The missions that are there."""
    with database.read_transaction():
        return {row.id for row in Mission.select(Mission.id)}


def workspace(home: Home, mission_id: str, vp_id: str = GENERAL) -> Path:
    """A completed mission's folder with its artifact; returns the attempt's folder."""
    folder = home.workspace(mission_id, vp_id)
    (folder / "work_products").mkdir(parents=True)
    (folder / "work_products" / "a.txt").write_bytes(CONTENT)
    return folder


def backdate(mission_id: str, age: timedelta) -> None:
    """Let a mission that really ran have ended so long ago."""
    with database.write_transaction() as tx:
        Mission.update(finished_at=tx.now - age).where(Mission.id == mission_id, Mission.status.in_(TERMINAL)).execute()
