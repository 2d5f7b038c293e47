"""What is recorded about VPs and their workers: who works, who is paused, which messages were refused."""

from __future__ import annotations

import os
import socket
from datetime import datetime, timedelta
from typing import Any, Final

from vp_queue import __version__, clock, origin
from vp_queue.code_digest import code_digest
from vp_queue.contracts import EventType, WorkerState
from vp_queue.ledger.database import Transaction
from vp_queue.ledger.events import record_vp_event
from vp_queue.ledger.models import Agent, Worker
from vp_queue.ledger.records import WorkerIdentity

# Ended workers are kept this long for `vp status`; a consumer that restarts hourly must not fill the table.
ENDED_WORKERS_KEPT: Final = timedelta(days=1)
RESTARTING: Final = "vp restart waits for its missions to end"  # why a restart drains
KEEPER: Final = "keeper"  # the vp_id under which the keeper's own events stand


def register(tx: Transaction, vp_id: str | None, profile_digest: str | None) -> WorkerIdentity:
    """Record this process as a worker of ``vp_id`` (None: as a keeper).

    Args:
        profile_digest: of the profile it works by.
    """
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
        state=WorkerState.DRAINING if vp_id is not None and _draining(vp_id) else WorkerState.RUNNING,
        code_digest=code_digest(),
    ).execute()
    _record(tx, vp_id, EventType.WORKER_STARTED, identity.worker_id)
    return identity


def beat(tx: Transaction, worker_id: str | None) -> None:
    """This worker is alive; None is one that has not registered, and changes nothing."""
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
    judged = (Worker.worker_id, Worker.host_identity, Worker.pid, Worker.start_ticks, Worker.heartbeat_at)
    for row in Worker.select(*judged).where(Worker.state.in_((WorkerState.RUNNING, WorkerState.DRAINING))):
        if row.host_identity == here:
            start = clock.process_start_ticks(row.pid)
            if start is None or start != row.start_ticks:
                found.append(row.worker_id)
        elif row.heartbeat_at < silent:
            found.append(row.worker_id)
    return found


def processes_here() -> list[tuple[int, int]]:
    """Pid and start time of this host's workers that have not ended. Reads only."""
    rows: Any = Worker.select(Worker.pid, Worker.start_ticks).where(
        Worker.host_identity == clock.host_identity(),
        Worker.state.in_((WorkerState.RUNNING, WorkerState.DRAINING)),
        Worker.start_ticks.is_null(False),
    )
    return list(rows.tuples())


def _record(tx: Transaction, vp_id: str | None, event: EventType, worker_id: str, **facts: Any) -> None:
    record_vp_event(tx, vp_id or KEEPER, event, {"worker_id": worker_id, **facts})


def pause(tx: Transaction, vp_id: str, reason: str | None = None) -> bool:
    """Take nothing more from a VP's queue until it is resumed. False if it was paused already."""
    if Agent.select().where(Agent.vp_id == vp_id, Agent.paused).exists():
        return False
    values = {"paused": True, "pause_reason": reason, "changed_at": tx.now}
    Agent.insert(vp_id=vp_id, **values).on_conflict(conflict_target=[Agent.vp_id], update=values).execute()
    record_vp_event(tx, vp_id, EventType.VP_PAUSED, {"reason": reason, "by": origin.as_data()})
    return True


def resume(tx: Transaction, vp_id: str, *, only_drain_for: str | None = None) -> bool:
    """Take from a VP's queue again, whether it was paused or draining. False if it was neither.

    Args:
        only_drain_for: end only a draining for this reason; another, or a pause, was somebody else's decision.
    """
    ends = {"draining": False, "drain_reason": None, "changed_at": tx.now}
    condition: Any = Agent.draining & (Agent.drain_reason == only_drain_for)
    if only_drain_for is None:
        ends |= {"paused": False, "pause_reason": None}
        condition = Agent.paused | Agent.draining
    if not Agent.update(**ends).where(Agent.vp_id == vp_id, condition).execute():
        return False
    _mark_workers(vp_id, WorkerState.DRAINING, WorkerState.RUNNING)
    record_vp_event(tx, vp_id, EventType.VP_RESUMED, {"still_paused": on_hold(vp_id), "by": origin.as_data()})
    return True


def on_hold(vp_id: str) -> bool:
    """Whether nothing may start for this VP now."""
    return Agent.select().where(Agent.vp_id == vp_id, Agent.paused | Agent.draining).exists()


def set_draining(tx: Transaction, vp_id: str, reason: str | None = None) -> bool:
    """Let a VP finish what runs and start nothing more, until it is resumed.

    False if it was draining already, and there is nothing new to say of it. An operator's drain takes the place of
    that of a restart (:data:`RESTARTING`), which then does not end it.
    """
    row = Agent.get_or_none(Agent.vp_id == vp_id, Agent.draining)
    if row is not None and (row.drain_reason == reason or (reason is None and row.drain_reason != RESTARTING)):
        return False
    values = {"draining": True, "drain_reason": reason, "changed_at": tx.now}
    Agent.insert(vp_id=vp_id, **values).on_conflict(conflict_target=[Agent.vp_id], update=values).execute()
    _mark_workers(vp_id, WorkerState.RUNNING, WorkerState.DRAINING)
    record_vp_event(tx, vp_id, EventType.VP_DRAINING, {"reason": reason, "by": origin.as_data()})
    return True


def _draining(vp_id: str) -> bool:
    return Agent.select().where(Agent.vp_id == vp_id, Agent.draining).exists()


def _mark_workers(vp_id: str, before: WorkerState, after: WorkerState) -> None:
    Worker.update(state=after).where(Worker.vp_id == vp_id, Worker.state == before).execute()


def reject_message(tx: Transaction, vp_id: str, row_id: int, reason: str) -> None:
    """A queue row that is no wake-up of ours was removed unexecuted."""
    record_vp_event(tx, vp_id, EventType.MESSAGE_REJECTED, {"queue_row": row_id, "reason": reason})
