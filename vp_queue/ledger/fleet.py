"""What is recorded about VPs and their workers: who works, who is paused, which messages were refused."""

from __future__ import annotations

import os
import socket
from datetime import datetime, timedelta
from typing import Any, Final

from vp_queue import __version__, clock
from vp_queue.contracts import EventType, WorkerState
from vp_queue.ledger.database import Transaction
from vp_queue.ledger.events import record_vp_event
from vp_queue.ledger.models import Agent, Worker
from vp_queue.ledger.records import WorkerIdentity

# Ended workers are kept this long for `vp status`; a consumer that restarts hourly must not fill the table.
ENDED_WORKERS_KEPT: Final = timedelta(days=1)
KEEPER: Final = "keeper"  # the vp_id under which the keeper's own events stand


def register(tx: Transaction, vp_id: str | None, profile_digest: str | None) -> WorkerIdentity:
    """Record this process as a worker of ``vp_id`` (None: as a keeper)."""
    identity = WorkerIdentity(f"w-{clock.new_token()[:16]}", socket.gethostname(), clock.host_identity())
    Worker.delete().where(
        Worker.state.in_((WorkerState.STOPPED, WorkerState.LOST)), Worker.heartbeat_at < tx.now - ENDED_WORKERS_KEPT
    ).execute()
    start_ticks = clock.process_start_ticks(os.getpid())
    # After SIGHUP Huey executes itself anew: the same process was a worker before.
    for row in Worker.select().where(
        Worker.host_identity == identity.host_identity, Worker.pid == os.getpid(), Worker.start_ticks == start_ticks
    ):
        end(tx, row.worker_id, WorkerState.STOPPED)
    Worker.insert(
        worker_id=identity.worker_id,
        vp_id=vp_id,
        host=identity.host,
        host_identity=identity.host_identity,
        pid=os.getpid(),
        start_ticks=start_ticks,
        version=__version__,
        profile_digest=profile_digest,
        started_at=tx.now,
        heartbeat_at=tx.now,
        heartbeat_boottime_us=clock.boottime_us(),
        state=WorkerState.RUNNING,
    ).execute()
    _record(tx, vp_id, EventType.WORKER_STARTED, identity.worker_id)
    return identity


def beat(tx: Transaction, worker_id: str) -> None:
    """This worker is alive."""
    Worker.update(heartbeat_at=tx.now, heartbeat_boottime_us=clock.boottime_us()).where(
        Worker.worker_id == worker_id
    ).execute()


def end(tx: Transaction, worker_id: str, state: WorkerState, **facts: Any) -> bool:
    """A worker stopped (said so itself) or was found lost; False if it had ended already."""
    rows = list(
        Worker.update(state=state)
        .where(Worker.worker_id == worker_id, Worker.state.in_((WorkerState.RUNNING, WorkerState.DRAINING)))
        .returning(Worker)
        .execute()
    )
    if not rows:
        return False
    event = EventType.WORKER_LOST if state == WorkerState.LOST else EventType.WORKER_STOPPED
    _record(tx, rows[0].vp_id, event, worker_id, **facts)
    return True


def gone(now: datetime, lost_host_grace_seconds: float) -> list[str]:
    """Workers that have not ended by their own word but are: dead here, or long silent elsewhere. Reads only."""
    here = clock.host_identity()
    silent = now - timedelta(seconds=lost_host_grace_seconds)
    found = []
    for row in Worker.select().where(Worker.state.in_((WorkerState.RUNNING, WorkerState.DRAINING))):
        if row.host_identity == here:
            start = clock.process_start_ticks(row.pid)
            if start is None or start != row.start_ticks:
                found.append(row.worker_id)
        elif row.heartbeat_at < silent:
            found.append(row.worker_id)
    return found


def _record(tx: Transaction, vp_id: str | None, event: EventType, worker_id: str, **facts: Any) -> None:
    record_vp_event(tx, vp_id or KEEPER, event, {"worker_id": worker_id, **facts})


def set_paused(tx: Transaction, vp_id: str, paused: bool, reason: str | None = None) -> bool:
    """Pause or resume a VP: its queue is no longer (or again) taken from. False if nothing changed."""
    row = Agent.get_or_none(Agent.vp_id == vp_id)
    if (row.paused if row else False) == paused:
        return False
    values = {"paused": paused, "pause_reason": reason if paused else None, "changed_at": tx.now}
    Agent.insert(vp_id=vp_id, **values).on_conflict(conflict_target=[Agent.vp_id], update=values).execute()
    record_vp_event(tx, vp_id, EventType.VP_PAUSED if paused else EventType.VP_RESUMED, {"reason": reason})
    return True


def reject_message(tx: Transaction, vp_id: str, row_id: int, reason: str) -> None:
    """A queue row that is no wake-up of ours was removed unexecuted."""
    record_vp_event(tx, vp_id, EventType.MESSAGE_REJECTED, {"queue_row": row_id, "reason": reason})
