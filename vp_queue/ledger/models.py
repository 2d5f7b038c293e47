"""Peewee models of the ledger's tables.

The schema a user gets is made by ``migrations``; these models and ``triggers`` must equal it, and a test compares
the two. Instants are integer microseconds since 1970 and read back as *aware*
datetimes on every back end (the earlier system's list crashed on naive minus aware).
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final

from peewee import (
    SQL,
    BigIntegerField,
    BooleanField,
    Check,
    CompositeKey,
    DatabaseProxy,
    Field,
    FloatField,
    ForeignKeyField,
    IntegerField,
    Model,
    TextField,
)
from playhouse.sqlite_ext import AutoIncrementField

from vp_queue import clock
from vp_queue.contracts import ONCE_PER_ATTEMPT, TERMINAL_EVENTS, DeliveryState, Outcome, Status, WorkerState

database_proxy = DatabaseProxy()
# Made once: json.dumps would make a new encoder each time.
as_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class InstantField(Field):
    """An aware UTC instant, stored as integer microseconds since 1970."""

    field_type = "BIGINT"

    def db_value(self, value: datetime | None) -> int | None:
        return None if value is None else clock.to_micros(value)

    def python_value(self, value: int | None) -> datetime | None:
        return None if value is None else clock.from_micros(value)


class JsonText(str):
    """A document that is JSON text already, for whoever had to encode it to know its size."""


class JsonField(Field):
    """A JSON document stored as compact text."""

    field_type = "TEXT"

    def db_value(self, value: Any) -> str | None:
        return value if value is None or type(value) is JsonText else as_json(value)

    def python_value(self, value: str | None) -> Any:
        return None if value is None else json.loads(value)


def _one_of(column: str, words: Any) -> Any:  # Check is a function
    return Check(f"{column} IN ({', '.join(repr(str(word)) for word in words)})")


def _words(words: Any) -> str:
    return ", ".join(repr(str(word)) for word in words)


class LedgerModel(Model):
    class Meta:
        database = database_proxy
        legacy_table_names = False


class Mission(LedgerModel):
    """One delegated piece of work. ``attempt`` is the fencing number; ``events`` counts its events."""

    id = TextField(primary_key=True)
    vp_id = TextField()
    mission_type = TextField()
    priority = IntegerField()
    idempotency_key = TextField(null=True)
    status = TextField(constraints=[_one_of("status", Status)])
    attempt = IntegerField(default=0)
    attempts_charged = IntegerField(default=0)
    releases = IntegerField(default=0)
    max_attempts = IntegerField()
    events = IntegerField(default=1)
    # Due when the wall clock passes this; a queue row exists from then on. NULL = not queued.
    due_at = InstantField(null=True)
    queue_row = BigIntegerField(null=True)
    not_before = InstantField(null=True)
    expires_at = InstantField(null=True)
    target_realpath = TextField(null=True)
    cancel_requested_at = InstantField(null=True)
    cancel_reason = TextField(null=True)
    source_session_id = TextField(null=True)
    retry_of = TextField(null=True)
    created_at = InstantField()
    queued_at = InstantField()
    started_at = InstantField(null=True)
    finished_at = InstantField(null=True)
    # The large columns stand last: a row that spills over its page is then read without them.
    usage = JsonField(null=True)
    progress = JsonField(null=True)
    question = JsonField(null=True)
    budget = JsonField()
    failure = JsonField(null=True)
    result = TextField(null=True)
    metadata = JsonField()
    guidance = TextField(null=True)
    constraints = JsonField()
    objective = TextField()
    # On disk, measured once after the end. Last, as ALTER TABLE puts it; read from vp_mission_ended.
    workspace_bytes = BigIntegerField(null=True)
    trace_context = TextField(null=True)  # the W3C traceparent of the span that dispatched it

    class Meta:
        table_name = "vp_mission"
        indexes = (
            (("vp_id", "status", "id"), False),
            (("status", "id"), False),
            (("source_session_id", "id"), False),
        )
        constraints = (
            Check("attempt >= 0 AND attempts_charged >= 0 AND releases >= 0 AND attempts_charged <= max_attempts"),
            Check("(status IN ('completed', 'failed', 'cancelled', 'expired')) = (finished_at IS NOT NULL)"),
            Check("(status = 'queued') = (due_at IS NOT NULL)"),
        )


# They cover the keeper's sweeps, which run every second however long the queue is.
Mission.add_index(
    Mission.due_at, Mission.queue_row, Mission.vp_id, Mission.id, where=SQL("status = 'queued'"), name="vp_mission_due"
)
Mission.add_index(
    Mission.expires_at, where=SQL("status = 'queued' AND expires_at IS NOT NULL"), name="vp_mission_start_deadline"
)
# These serve retention; a mission that has not ended costs them nothing.
Mission.add_index(
    Mission.vp_id,
    Mission.finished_at,
    Mission.id,
    Mission.status,
    Mission.workspace_bytes,
    where=SQL("finished_at IS NOT NULL"),
    name="vp_mission_ended",
)
Mission.add_index(
    Mission.finished_at,
    Mission.id,
    Mission.vp_id,
    Mission.attempt,
    where=SQL("finished_at IS NOT NULL AND workspace_bytes IS NULL"),
    name="vp_mission_unmeasured",
)
# Who was retried, and by whom.
Mission.add_index(Mission.retry_of, where=SQL("retry_of IS NOT NULL"), name="vp_mission_retry_of")


class IdempotencyKey(LedgerModel):
    """A key and the digest of the request it stood for; kept apart so that it outlives its mission."""

    vp_id = TextField()
    key = TextField()
    request_digest = TextField()
    mission_id = TextField()
    created_at = InstantField()
    pruned_at = InstantField(null=True)  # when its mission was

    class Meta:
        table_name = "vp_idempotency_key"
        primary_key = CompositeKey("vp_id", "key")


IdempotencyKey.add_index(IdempotencyKey.pruned_at, where=SQL("pruned_at IS NOT NULL"), name="vp_idempotency_key_pruned")


class Attempt(LedgerModel):
    """One execution of a mission by one worker, with its lease and the identity of its process tree."""

    mission_id: str
    mission = ForeignKeyField(Mission, on_delete="CASCADE", index=False)
    number = IntegerField()
    worker_id = TextField()
    keeper_id = TextField(null=True)  # the keeper that took the lease over to end the attempt
    host = TextField()
    host_identity = TextField()
    lease_token = TextField()
    lease_expires_at = InstantField()
    lease_expires_boottime_us = BigIntegerField()
    heartbeat_at = InstantField()
    last_output_at = InstantField(null=True)
    executor = JsonField(null=True)  # worker.tree.TreeIdentity: pids, start times, group, cgroup
    workspace = TextField(null=True)
    started_at = InstantField()
    ended_at = InstantField(null=True)
    outcome = TextField(default=Outcome.RUNNING, constraints=[_one_of("outcome", Outcome)])
    exit_code = IntegerField(null=True)
    signal = IntegerField(null=True)
    max_rss_bytes = BigIntegerField(null=True)
    cpu_seconds = FloatField(null=True)
    failure = JsonField(null=True)
    usage = JsonField(null=True)

    class Meta:
        table_name = "vp_attempt"
        primary_key = CompositeKey("mission", "number")
        constraints = (Check("(outcome = 'running') = (ended_at IS NULL)"),)


Attempt.add_index(Attempt.mission, where=SQL("outcome = 'running'"), unique=True, name="vp_attempt_running")


class Event(LedgerModel):
    """One thing that happened. AUTOINCREMENT: pruning never reuses a seq."""

    seq = AutoIncrementField()
    mission_id: str | None
    mission = ForeignKeyField(Mission, null=True, on_delete="CASCADE", index=False)
    mission_seq = IntegerField(null=True)
    vp_id = TextField()
    attempt = IntegerField(null=True)
    type = TextField()  # no CHECK: a new event type must not need SQLite to rebuild this table
    at = InstantField()
    data = JsonField()

    class Meta:
        table_name = "vp_event"
        indexes = ((("mission_id", "mission_seq"), True),)
        constraints = (Check("(mission_id IS NULL) = (mission_seq IS NULL)"),)


Event.add_index(
    Event.mission, where=SQL(f"type IN ({_words(TERMINAL_EVENTS)})"), unique=True, name="vp_event_one_terminal"
)
Event.add_index(
    Event.mission,
    Event.attempt,
    Event.type,
    where=SQL(f"type IN ({_words(ONCE_PER_ATTEMPT)})"),
    unique=True,
    name="vp_event_once_per_attempt",
)


class Artifact(LedgerModel):
    """One published file of an attempt."""

    mission_id: str
    mission = ForeignKeyField(Mission, on_delete="CASCADE", index=False)
    attempt = IntegerField()
    path = TextField()
    media_type = TextField()
    size = BigIntegerField()
    sha256 = TextField()
    role = TextField()

    class Meta:
        table_name = "vp_artifact"
        primary_key = CompositeKey("mission", "attempt", "path")


class Worker(LedgerModel):
    """One consumer or keeper process; ``vp_id`` is NULL for a keeper."""

    worker_id = TextField(primary_key=True)
    vp_id = TextField(null=True, index=True)
    host = TextField()
    host_identity = TextField()
    pid = IntegerField()
    start_ticks = BigIntegerField(null=True)
    version = TextField()
    profile_digest = TextField(null=True)
    started_at = InstantField()
    heartbeat_at = InstantField()
    heartbeat_boottime_us = BigIntegerField()
    state = TextField(constraints=[_one_of("state", WorkerState)])
    code_digest = TextField(null=True)

    class Meta:
        table_name = "vp_worker"


class Inbox(LedgerModel):
    """How far a reader of events has acknowledged."""

    reader = TextField(primary_key=True)
    acknowledged_seq = BigIntegerField()
    updated_at = InstantField()

    class Meta:
        table_name = "vp_inbox"


class Agent(LedgerModel):
    """What an operator decided about a VP: paused or draining. No row = neither."""

    vp_id = TextField(primary_key=True)
    paused = BooleanField(default=False)
    pause_reason = TextField(null=True)
    draining = BooleanField(default=False)
    changed_at = InstantField()
    drain_reason = TextField(null=True)

    class Meta:
        table_name = "vp_agent"


class PrunedWorkspace(LedgerModel):
    """A folder whose mission was pruned and that is still to be removed; the row goes when the folder has gone."""

    mission_id = TextField(primary_key=True)
    vp_id = TextField()
    bytes = BigIntegerField(null=True)
    pruned_at = InstantField()
    tries = IntegerField(default=0)
    retry_at = InstantField(index=True)
    problem = TextField(null=True)

    class Meta:
        table_name = "vp_pruned_workspace"


class Sink(LedgerModel):
    """Somebody who is told of events: how far it was read for, whether it rests, and which keeper tells it now."""

    sink = TextField(primary_key=True)
    label = TextField()
    cursor_seq = BigIntegerField()
    created_at = InstantField()
    failures = IntegerField(default=0)  # since it last took something
    rests_until = InstantField(null=True)
    claim_token = TextField(null=True)
    claim_host_identity = TextField(null=True)
    claim_pid = IntegerField(null=True)
    claim_start_ticks = BigIntegerField(null=True)
    claim_expires_at = InstantField(null=True)
    claim_expires_boottime_us = BigIntegerField(null=True)

    class Meta:
        table_name = "vp_sink"


class Delivery(LedgerModel):
    """One event that one sink is still to be told, or could not be told (dead). No row = told."""

    id = AutoIncrementField()
    sink = TextField()
    lane = TextField()  # the mission, or the VP: within it, order is kept
    event_seq = BigIntegerField()  # no foreign key: the event may be pruned first
    event_at = InstantField()
    type = TextField()
    vp_id = TextField()
    mission_id = TextField(null=True)
    state = TextField(constraints=[_one_of("state", DeliveryState)])
    attempts = IntegerField(default=0)
    next_at = InstantField()
    created_at = InstantField()
    tried_at = InstantField(null=True)
    died_at = InstantField(null=True)
    error = TextField(null=True)

    class Meta:
        table_name = "vp_delivery"
        indexes = (
            (("sink", "event_seq"), True),
            (("sink", "state", "lane", "event_seq"), False),
            (("state", "died_at"), False),
        )
        constraints = (Check("(state = 'dead') = (died_at IS NOT NULL)"),)


class Tally(LedgerModel):
    """What was counted for a VP on a UTC day; it outlives the missions that were counted."""

    vp_id = TextField()
    day = IntegerField()  # since 1970
    measure = TextField()
    value = FloatField()

    class Meta:
        table_name = "vp_tally"
        primary_key = CompositeKey("vp_id", "day", "measure")
        without_rowid = True


class Seen(LedgerModel):
    """A failed mission that a person has looked at and wants to be reminded of no more."""

    mission_id: str
    mission = ForeignKeyField(Mission, primary_key=True, on_delete="CASCADE")
    seen_at = InstantField()
    seen_by = TextField()

    class Meta:
        table_name = "vp_seen"


MODELS: Final = (
    Mission,
    IdempotencyKey,
    Attempt,
    Event,
    Artifact,
    Worker,
    Inbox,
    Agent,
    PrunedWorkspace,
    Sink,
    Delivery,
    Tally,
    Seen,
)
