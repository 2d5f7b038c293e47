"""The SqliteHuey of each VP, the one task, and enqueueing inside the ledger's transaction."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from huey import SqliteHuey
from huey.api import Task, TaskWrapper
from huey.consumer import Consumer
from huey.signals import SIGNAL_ENQUEUED

from vp_queue.ledger import database, transitions
from vp_queue.ledger.database import Transaction
from vp_queue.ledger.models import Mission
from vp_queue.ledger.records import NewMission
from vp_queue.queue import signals
from vp_queue.queue.messages import JsonSerializer, wake_up_id
from vp_queue.queue.storage import LedgerStorage

MissionBody = Callable[[str, int], None]

JOIN_SLICE_SECONDS: Final = 0.1

_hueys: dict[str, SqliteHuey] = {}
_tasks: dict[str, TaskWrapper] = {}
_lock = threading.Lock()


class VpConsumer(Consumer):
    """Huey's consumer, but a SIGTERM also ends a drain.

    After SIGINT the main thread joins the workers, and Huey would only note a SIGTERM that comes meanwhile:
    `vp down` during a drain would run into supervisord's SIGKILL and lose the missions.
    """

    def _join_workers(self) -> bool:
        threads = [thread for _, thread in self.worker_threads]
        while any(thread.is_alive() for thread in threads):
            if self._signum == self._interrupt_sig:
                return False
            threads[0].join(JOIN_SLICE_SECONDS)
            threads = [thread for thread in threads if thread.is_alive()] or threads
        return True


class VpHuey(SqliteHuey):
    """A SqliteHuey whose consumer is set up by the VP's profile, not by command-line flags."""

    concurrency = 1

    def create_consumer(self, **options: Any) -> Consumer:
        """One worker thread per mission at once.

        Threads only: with ``-k process`` a SIGKILL leaves orphans behind. Huey's own schedule is not
        used, so its scheduler runs once a minute instead of every second.
        """
        fixed = {"workers": self.concurrency, "worker_type": "thread", "periodic": False, "scheduler_interval": 60}
        return VpConsumer(self, **{**options, **fixed})


def _not_a_consumer(mission_id: str, attempt: int) -> None:
    raise RuntimeError(f"this process only enqueues missions; {mission_id}.{attempt} needs a consumer")


def bind(huey: SqliteHuey, body: MissionBody) -> TaskWrapper:
    """Define the task ``run_mission`` on a Huey.

    Here and nowhere else: Huey registers a task as ``module.name``, and one of the same name in another
    module would be "not found" in the consumer, after its row was consumed. ``retries=0``, because
    Huey's own retry path can lose a task; retries are the ledger's.
    """

    def run_mission(mission_id: str, attempt: int) -> None:
        body(mission_id, attempt)

    return huey.task(retries=0, name="run_mission")(run_mission)


def huey_for(vp_id: str) -> SqliteHuey:
    """The Huey of a VP's queue (named by its ``vp_id``), one per process; it writes wake-ups."""
    with _lock:
        return _hueys.get(vp_id) or _make(vp_id, _not_a_consumer, concurrency=1)


def consumer_huey(vp_id: str, body: MissionBody, concurrency: int) -> SqliteHuey:
    """The Huey that ``huey_consumer`` runs.

    Args:
        body: what executes a mission, given its id and attempt number.
        concurrency: missions at once, from the VP's profile.

    Raises:
        RuntimeError: this process made a Huey for this VP already.
    """
    with _lock:
        if vp_id in _hueys:
            raise RuntimeError(f"this process already has a Huey for {vp_id}")
        return _make(vp_id, body, concurrency)


def _make(vp_id: str, body: MissionBody, concurrency: int) -> SqliteHuey:
    huey = VpHuey(vp_id, storage_class=LedgerStorage, serializer=JsonSerializer(), utc=True)
    huey.concurrency = concurrency
    _tasks[vp_id] = bind(huey, body)
    signals.connect(huey)
    _hueys[vp_id] = huey
    return huey


def _wake_up(mission: Mission) -> Task:
    expires_at = mission.expires_at if mission.started_at is None else None
    return _task(mission.vp_id, mission.id, mission.attempt + 1, mission.priority, expires_at)


def _task(vp_id: str, mission_id: str, attempt: int, priority: int, expires_at: datetime | None) -> Task:
    return _tasks[vp_id].task_class(
        (mission_id, attempt), id=wake_up_id(mission_id, attempt), priority=priority, expires=expires_at
    )


def enqueue(tx: Transaction, mission: Mission) -> None:
    """Write the wake-up of a queued mission's next attempt, in the transaction that queued it."""
    huey = huey_for(mission.vp_id)
    huey.enqueue(_wake_up(mission))
    transitions.enqueued(tx, mission.id, huey.storage.last_row_id)


@dataclass(frozen=True)
class WakeUp:
    """The wake-up of a mission that is being dispatched, made ready before the transaction that writes it."""

    huey: SqliteHuey
    task: Task
    data: bytes

    def write(self) -> int:
        """Write it in the open transaction; returns its row's id.

        What ``Huey.enqueue`` does, but for the handle on a result, which nobody asks for here.
        """
        self.huey._emit(SIGNAL_ENQUEUED, self.task)
        self.huey.storage.enqueue(self.data, self.task.priority)
        row_id: int = self.huey.storage.last_row_id
        return row_id


def first_wake_up(new: NewMission) -> WakeUp:
    """The wake-up of a new mission's first attempt."""
    huey = huey_for(new.vp_id)
    task = _task(new.vp_id, new.mission_id, 1, new.priority, new.expires_at)
    if task.expires:
        task.resolve_expires(huey.utc)
    return WakeUp(huey, task, huey.serialize_task(task))


def revoke(mission: Mission) -> None:
    """Huey's own revocation of the wake-up that is still queued, in the transaction that cancels.

    ``revoke_once``: the consumer that meets the message deletes the revocation with it.
    """
    huey_for(mission.vp_id).revoke_by_id(wake_up_id(mission.id, mission.attempt + 1), revoke_once=True)


def _send_lifecycle(events: list[dict[str, Any]]) -> None:
    for event in events:
        huey = huey_for(event["vp_id"]) if event["mission_id"] else _hueys.get(event["vp_id"])
        if huey is not None:
            signals.send(huey, event)


database.observe_commits(_send_lifecycle)


def _forget_lock() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it when this process was forked


os.register_at_fork(after_in_child=_forget_lock)
