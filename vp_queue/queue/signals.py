"""Huey's signals and the lifecycle, in both directions.

Huey → ledger: what only Huey knows drives a transition. A wake-up *revoked* (also by hand, through Huey's
API) or *canceled* by a pre-execute hook cancels its mission; one that *expired* expires it; *interrupted*
is handed to the worker, which ends its executors and releases. All other signals mean nothing for a
mission: Huey logs and swallows what a handler raises, so no handler is the only writer of a fact, and the
keeper stands behind each.

Ledger → Huey: after the commit every lifecycle event is sent through the VP's Huey under its own name, so
``@huey.signal("mission.completed")`` works for any Python user. The handler gets the signal's name, a Huey
task whose id is ``<mission_id>.<attempt>``, and the event as a dict.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from huey import SqliteHuey
from huey import signals as S
from huey.api import Task

from vp_queue import clock
from vp_queue.ledger import database, transitions
from vp_queue.queue.messages import parse_wake_up_id, wake_up_id

logger = logging.getLogger("vp_queue.queue")


def connect(huey: SqliteHuey) -> None:
    """Let what only Huey knows drive the ledger."""
    huey.signal(S.SIGNAL_REVOKED)(_cancelled_by("revoked in Huey"))
    huey.signal(S.SIGNAL_CANCELED)(_cancelled_by("cancelled by a pre-execute hook"))
    huey.signal(S.SIGNAL_EXPIRED)(_expired)


def on_interrupted(huey: SqliteHuey, stop_all: Callable[[], None]) -> None:
    """Let the worker end everything it runs when Huey says that a task was interrupted.

    SIGTERM ends a consumer in 0.14 s with no ``finally``: this signal, in the main thread, is where executors are
    ended in an orderly way. It comes once per task that Huey believes in flight; Huey counts tasks by id, so
    the worker relies on its own list of what runs, and on ``atexit`` where the signal does not come at all.
    """

    def interrupted(signal: str, task: Task) -> None:
        if parse_wake_up_id(task.id) is not None:
            stop_all()

    huey.signal(S.SIGNAL_INTERRUPTED)(interrupted)


def _cancelled_by(reason: str) -> Callable[[str, Task], None]:
    def cancelled(signal: str, task: Task) -> None:
        parsed = parse_wake_up_id(task.id)
        if parsed is None:
            return
        with database.write_transaction() as tx:
            # Only while that wake-up is the one expected: a revocation of an old attempt says nothing.
            if transitions.expected_attempt(parsed[0]) == parsed[1]:
                transitions.request_cancel(tx, parsed[0], reason)

    return cancelled


def _expired(signal: str, task: Task) -> None:
    parsed = parse_wake_up_id(task.id)
    if parsed is not None:
        with database.write_transaction() as tx:
            transitions.expire(tx, parsed[0])


def send(huey: SqliteHuey, event: dict[str, Any]) -> None:
    """Send one committed event under its own name; what a handler raises is logged by Huey."""
    receivers = huey._signal.receivers
    if not receivers.get(event["type"]) and not receivers["any"]:
        return
    task_id = wake_up_id(event["mission_id"], event["attempt"] or 0) if event["mission_id"] else event["vp_id"]
    huey._emit(str(event["type"]), Task(id=task_id), {**event, "at": clock.as_text(event["at"])})
