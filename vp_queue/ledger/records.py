"""The nouns that transitions speak in: who claims, what is accepted, how an attempt ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vp_queue.contracts import FailureCode


@dataclass(frozen=True)
class Claim:
    """A worker's right to speak for one attempt: the attempt number fences, the token proves the lease."""

    mission_id: str
    vp_id: str
    attempt: int
    token: str


@dataclass(frozen=True)
class WorkerIdentity:
    """Who claims: enough to find the process again and to know on which host its pids mean anything."""

    worker_id: str
    host: str
    host_identity: str


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed."""

    code: FailureCode
    message: str
    exit_code: int | None = None
    log_tail: str | None = None


@dataclass(frozen=True)
class Ending:
    """What is known of an attempt when it ends, however it ends."""

    exit_code: int | None = None
    signal: int | None = None
    max_rss_bytes: int | None = None
    cpu_seconds: float | None = None
    result: str | None = None
    usage: dict[str, Any] | None = None
    artifacts: Sequence[dict[str, Any]] = ()
    skipped: Sequence[dict[str, str]] = ()
    skipped_total: int = 0


@dataclass(frozen=True)
class NewMission:
    """A dispatch or retry, validated."""

    mission_id: str
    vp_id: str
    mission_type: str
    objective: str
    constraints: dict[str, Any]
    budget: dict[str, Any]
    metadata: dict[str, str]
    priority: int
    max_attempts: int
    request_digest: str | None  # only with a key does anybody compare it
    idempotency_key: str | None = None
    not_before: datetime | None = None
    expires_at: datetime | None = None
    source_session_id: str | None = None
    guidance: str | None = None
    retry_of: str | None = None
    target_realpath: str | None = None
    trace_context: str | None = None  # W3C traceparent
