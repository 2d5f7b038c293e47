"""What the tools answer: the JSON of tools.md, as models. Schemas are generated from these."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vp_queue.contracts.vocabulary import Outcome, Status, WorkerState


class View(BaseModel):
    """Base of all answers. ``dump`` gives plain JSON types; instants end in Z."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    def dump(self) -> dict[str, Any]:
        """The view as JSON-able types."""
        return self.model_dump(mode="json")


class UsageView(View):
    """What an attempt or mission used; null = not known."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    turns: int | None = None


class FailureView(View):
    """Why it failed, with the end of the log."""

    code: str
    message: str
    attempt: int | None = None
    exit_code: int | None = None
    log_tail: str | None = None


class ProgressView(View):
    """The VP's own last word."""

    fraction: float | None
    message: str | None
    at: datetime


class QuestionView(View):
    """What a mission in needs_input asks."""

    question_id: str
    question: str
    options: list[str]
    asked_at: datetime
    deadline_at: datetime | None


class MissionView(View):
    """One mission."""

    mission_id: str
    vp_id: str
    mission_type: str
    objective: str
    constraints: dict[str, Any]
    budget: dict[str, Any]
    metadata: dict[str, str]
    priority: int
    idempotency_key: str | None
    status: Status
    terminal: bool
    cancel_requested: bool
    attempt: int
    attempts_charged: int
    max_attempts: int
    created_at: datetime
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    not_before: datetime | None
    expires_at: datetime | None
    duration_seconds: float | None
    stalled: bool
    workspace: str
    result: str | None
    failure: FailureView | None
    usage: UsageView | None
    progress: ProgressView | None
    question: QuestionView | None
    retry_of: str | None
    source_session_id: str | None


class AttemptView(View):
    """One execution of a mission by one worker."""

    number: int
    worker_id: str
    host: str
    workspace: str | None
    started_at: datetime
    ended_at: datetime | None
    outcome: Outcome
    exit_code: int | None
    signal: int | None
    max_rss_bytes: int | None
    cpu_seconds: float | None
    failure: FailureView | None
    usage: UsageView | None


class ArtifactView(View):
    """One artifact; content is null where it was not asked for, did not fit, or no longer matches its hash."""

    path: str
    size: int
    media_type: str
    sha256: str
    attempt: int
    content: str | None
    encoding: Literal["utf-8", "base64"] | None
    truncated: bool
    problem: Literal["changed", "missing"] | None
    uri: str


class EventView(View):
    """One thing that happened. ``seq`` is the feed's cursor; ``mission_seq`` counts within the mission."""

    seq: int
    mission_seq: int | None
    type: str
    mission_id: str | None
    vp_id: str
    attempt: int | None
    at: datetime
    data: dict[str, Any]


class WorkerView(View):
    """One consumer process of a VP.

    ``stale``: it gave no sign of life for longer than a lease. ``outdated``: what has changed since it started,
    its VP's profile or vp-queue's own code; `vp restart` starts it anew.
    """

    worker_id: str
    host: str
    pid: int
    state: WorkerState
    heartbeat_at: datetime
    version: str
    stale: bool
    outdated: list[Literal["profile", "code"]]


class AvailabilityView(View):
    """Whether a VP's executor can run here; the reason says what to do if not."""

    ok: bool
    reason: str | None = None


class VpView(View):
    """One VP as configured, and how it is doing."""

    vp_id: str
    title: str
    description: str
    executor: str
    enabled: bool
    paused: bool
    pause_reason: str | None
    draining: bool
    drain_reason: str | None
    available: AvailabilityView
    queued: int
    running: int
    needs_input: int
    concurrency: int
    workers: list[WorkerView]


class Answer(View):
    """Base of the tools' successes."""

    ok: Literal[True] = True


class DispatchAnswer(Answer):
    """``created`` is false where the key had been dispatched before."""

    mission: MissionView
    created: bool


class GetAnswer(Answer):
    mission: MissionView
    attempts: list[AttemptView]
    events: list[EventView]


class ListAnswer(Answer):
    missions: list[MissionView]
    next_cursor: str | None
    counts: dict[str, int]


class WaitAnswer(Answer):
    timed_out: bool
    mission: MissionView
    events: list[EventView]


class CancelAnswer(Answer):
    """``changed`` is false on a terminal mission or a repeated request."""

    mission: MissionView
    changed: bool


class ReadAnswer(Answer):
    mission_id: str
    status: Status
    result: str | None
    artifacts: list[ArtifactView]
    files_total: int
    truncated: bool


class RetryAnswer(Answer):
    mission: MissionView
    created: bool


class EventsAnswer(Answer):
    """Events after the reader's last acknowledged seq; ``last_seq`` is what to acknowledge next.

    ``last_seq`` passes over what the reader did not ask for (other sessions' events) and what is gone: ``pruned`` is
    how many events between the two retention removed before they were read.
    """

    events: list[EventView]
    last_seq: int
    pruned: int


class VpsAnswer(Answer):
    vps: list[VpView]


class ErrorBody(View):
    code: str
    message: str
    retryable: bool
    retry_after_seconds: Annotated[float, Field(ge=0)] | None = None
    details: dict[str, Any]


class ErrorAnswer(View):
    ok: Literal[False] = False
    error: ErrorBody
