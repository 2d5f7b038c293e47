"""The fixed words: statuses, event types, attempt outcomes, failure codes (tools.md, ledger.md)."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Status(StrEnum):
    """Where a mission stands; ``docs/lifecycle.md`` draws the edges."""

    QUEUED = "queued"
    RUNNING = "running"
    NEEDS_INPUT = "needs_input"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


TERMINAL: Final = (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED)
EXECUTING: Final = (Status.RUNNING, Status.NEEDS_INPUT)

# Every edge of the state machine; the ledger's trigger refuses any other.
EDGES: Final[dict[Status, tuple[Status, ...]]] = {
    Status.QUEUED: (Status.RUNNING, Status.CANCELLED, Status.EXPIRED),
    Status.RUNNING: (Status.QUEUED, Status.NEEDS_INPUT, Status.COMPLETED, Status.FAILED, Status.CANCELLED),
    Status.NEEDS_INPUT: (Status.RUNNING, Status.QUEUED, Status.FAILED, Status.CANCELLED),
}


class Outcome(StrEnum):
    """How an attempt ended (or that it has not)."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RELEASED = "released"
    LOST = "lost"


class EventType(StrEnum):
    """What can happen; each is written in the transaction of the change it tells."""

    DISPATCHED = "mission.dispatched"
    STARTED = "mission.started"
    PROGRESS = "mission.progress"
    NEEDS_INPUT = "mission.needs_input"
    ANSWERED = "mission.answered"
    CANCEL_REQUESTED = "mission.cancel_requested"
    RETRYING = "mission.retrying"
    RELEASED = "mission.released"
    COMPLETED = "mission.completed"
    FAILED = "mission.failed"
    CANCELLED = "mission.cancelled"
    EXPIRED = "mission.expired"
    VP_PAUSED = "vp.paused"
    VP_DRAINING = "vp.draining"
    VP_RESUMED = "vp.resumed"
    WORKER_STARTED = "vp.worker_started"
    WORKER_STOPPED = "vp.worker_stopped"
    WORKER_LOST = "vp.worker_lost"
    MESSAGE_REJECTED = "vp.message_rejected"


TERMINAL_EVENTS: Final = (EventType.COMPLETED, EventType.FAILED, EventType.CANCELLED, EventType.EXPIRED)
# At most one of each per attempt; progress and questions repeat.
ONCE_PER_ATTEMPT: Final = (EventType.STARTED, EventType.RELEASED, EventType.RETRYING, *TERMINAL_EVENTS)


class FailureCode(StrEnum):
    """Why an attempt failed. What cannot succeed a second time is in :data:`FINAL_FAILURES`."""

    EXIT_NONZERO = "exit_nonzero"
    EXECUTOR_ERROR = "executor_error"
    EXECUTOR_UNAVAILABLE = "executor_unavailable"
    TARGET_PATH_DENIED = "target_path_denied"
    TIMEOUT = "timeout"
    BUDGET_EXHAUSTED = "budget_exhausted"
    WORKER_LOST = "worker_lost"
    OUTPUT_LIMIT = "output_limit"
    ARTIFACT_LIMIT = "artifact_limit"
    EVIDENCE_MISSING = "evidence_missing"
    AUTH = "auth"
    RATE_LIMITED = "rate_limited"
    CONTEXT_EXCEEDED = "context_exceeded"
    REFUSED = "refused"
    CRASHED = "crashed"


# A second attempt of the same request on the same host cannot end otherwise, so it is not tried
# whatever max_attempts says (incident: an expired login was retried three times).
FINAL_FAILURES: Final = (
    FailureCode.EXECUTOR_UNAVAILABLE,
    FailureCode.TARGET_PATH_DENIED,
    FailureCode.BUDGET_EXHAUSTED,
    FailureCode.AUTH,
    FailureCode.CONTEXT_EXCEEDED,
    FailureCode.REFUSED,
)

# What a program may report of itself (``{"failure": …}``); the others are the worker's own findings.
REPORTABLE_FAILURES: Final = (
    FailureCode.EXECUTOR_ERROR,
    FailureCode.EXECUTOR_UNAVAILABLE,
    FailureCode.OUTPUT_LIMIT,
    FailureCode.AUTH,
    FailureCode.RATE_LIMITED,
    FailureCode.CONTEXT_EXCEEDED,
    FailureCode.REFUSED,
    FailureCode.CRASHED,
)


class WorkerState(StrEnum):
    """What a worker last said of itself, or what the keeper found."""

    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"
    LOST = "lost"


class DeliveryState(StrEnum):
    """Whether an event is still to be told, or was given up; what was told has no row."""

    PENDING = "pending"
    DEAD = "dead"
