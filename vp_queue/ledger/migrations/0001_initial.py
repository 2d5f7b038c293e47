"""The first schema. Frozen: later changes are new files, never edits here.

Raw SQL rather than today's models, so that this file means the same for ever. Huey's four tables are
made here too (``task`` with AUTOINCREMENT, so that a row id never names two wake-ups); their storage
is then opened with ``create_tables=False`` and no process ever races another to make them.
"""

from typing import Any

SQLITE = (
    """CREATE TABLE "vp_agent" (
    "vp_id" TEXT NOT NULL PRIMARY KEY,
    "paused" INTEGER NOT NULL,
    "pause_reason" TEXT,
    "draining" INTEGER NOT NULL,
    "changed_at" INTEGER NOT NULL
)""",
    """CREATE TABLE "vp_mission" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "vp_id" TEXT NOT NULL,
    "mission_type" TEXT NOT NULL,
    "priority" INTEGER NOT NULL,
    "idempotency_key" TEXT,
    "status" TEXT NOT NULL CHECK (status IN ('queued', 'running', 'needs_input', 'completed', 'failed', 'cancelled', 'expired')),
    "attempt" INTEGER NOT NULL,
    "attempts_charged" INTEGER NOT NULL,
    "releases" INTEGER NOT NULL,
    "max_attempts" INTEGER NOT NULL,
    "events" INTEGER NOT NULL,
    "due_at" INTEGER,
    "queue_row" INTEGER,
    "not_before" INTEGER,
    "expires_at" INTEGER,
    "target_realpath" TEXT,
    "cancel_requested_at" INTEGER,
    "cancel_reason" TEXT,
    "source_session_id" TEXT,
    "retry_of" TEXT,
    "created_at" INTEGER NOT NULL,
    "queued_at" INTEGER NOT NULL,
    "started_at" INTEGER,
    "finished_at" INTEGER,
    "usage" TEXT,
    "progress" TEXT,
    "question" TEXT,
    "budget" TEXT NOT NULL,
    "failure" TEXT,
    "result" TEXT,
    "metadata" TEXT NOT NULL,
    "guidance" TEXT,
    "constraints" TEXT NOT NULL,
    "objective" TEXT NOT NULL,
    CHECK (attempt >= 0 AND attempts_charged >= 0 AND releases >= 0 AND attempts_charged <= max_attempts),
    CHECK ((status IN ('completed', 'failed', 'cancelled', 'expired')) = (finished_at IS NOT NULL)),
    CHECK ((status = 'queued') = (due_at IS NOT NULL))
)""",
    """CREATE INDEX "vp_mission_vp_id_status_id" ON "vp_mission" ("vp_id", "status", "id")""",
    """CREATE INDEX "vp_mission_status_id" ON "vp_mission" ("status", "id")""",
    """CREATE INDEX "vp_mission_source_session_id_id" ON "vp_mission" ("source_session_id", "id")""",
    """CREATE INDEX "vp_mission_due" ON "vp_mission" ("due_at", "queue_row", "vp_id", "id")
WHERE status = 'queued'""",
    """CREATE INDEX "vp_mission_start_deadline" ON "vp_mission" ("expires_at")
WHERE status = 'queued' AND expires_at IS NOT NULL""",
    """CREATE TABLE "vp_artifact" (
    "mission_id" TEXT NOT NULL,
    "attempt" INTEGER NOT NULL,
    "path" TEXT NOT NULL,
    "media_type" TEXT NOT NULL,
    "size" INTEGER NOT NULL,
    "sha256" TEXT NOT NULL,
    "role" TEXT NOT NULL,
    PRIMARY KEY ("mission_id", "attempt", "path"),
    FOREIGN KEY ("mission_id") REFERENCES "vp_mission" ("id") ON DELETE CASCADE
)""",
    """CREATE TABLE "vp_attempt" (
    "mission_id" TEXT NOT NULL,
    "number" INTEGER NOT NULL,
    "worker_id" TEXT NOT NULL,
    "keeper_id" TEXT,
    "host" TEXT NOT NULL,
    "host_identity" TEXT NOT NULL,
    "lease_token" TEXT NOT NULL,
    "lease_expires_at" INTEGER NOT NULL,
    "lease_expires_boottime_us" INTEGER NOT NULL,
    "heartbeat_at" INTEGER NOT NULL,
    "last_output_at" INTEGER,
    "executor" TEXT,
    "workspace" TEXT,
    "started_at" INTEGER NOT NULL,
    "ended_at" INTEGER,
    "outcome" TEXT NOT NULL CHECK (outcome IN ('running', 'completed', 'failed', 'cancelled', 'released', 'lost')),
    "exit_code" INTEGER,
    "signal" INTEGER,
    "max_rss_bytes" INTEGER,
    "cpu_seconds" REAL,
    "failure" TEXT,
    "usage" TEXT,
    PRIMARY KEY ("mission_id", "number"),
    FOREIGN KEY ("mission_id") REFERENCES "vp_mission" ("id") ON DELETE CASCADE,
    CHECK ((outcome = 'running') = (ended_at IS NULL))
)""",
    """CREATE UNIQUE INDEX "vp_attempt_running" ON "vp_attempt" ("mission_id")
WHERE outcome = 'running'""",
    """CREATE TABLE "vp_event" (
    "seq" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "mission_id" TEXT,
    "mission_seq" INTEGER,
    "vp_id" TEXT NOT NULL,
    "attempt" INTEGER,
    "type" TEXT NOT NULL,
    "at" INTEGER NOT NULL,
    "data" TEXT NOT NULL,
    FOREIGN KEY ("mission_id") REFERENCES "vp_mission" ("id") ON DELETE CASCADE,
    CHECK ((mission_id IS NULL) = (mission_seq IS NULL))
)""",
    """CREATE UNIQUE INDEX "vp_event_mission_id_mission_seq" ON "vp_event" ("mission_id", "mission_seq")""",
    """CREATE UNIQUE INDEX "vp_event_one_terminal" ON "vp_event" ("mission_id")
WHERE type IN ('mission.completed', 'mission.failed', 'mission.cancelled', 'mission.expired')""",
    """CREATE UNIQUE INDEX "vp_event_once_per_attempt" ON "vp_event" ("mission_id", "attempt", "type")
WHERE type IN ('mission.started', 'mission.released', 'mission.retrying', 'mission.completed', 'mission.failed', 'mission.cancelled', 'mission.expired')""",
    """CREATE TABLE "vp_idempotency_key" (
    "vp_id" TEXT NOT NULL,
    "key" TEXT NOT NULL,
    "request_digest" TEXT NOT NULL,
    "mission_id" TEXT NOT NULL,
    "created_at" INTEGER NOT NULL,
    PRIMARY KEY ("vp_id", "key")
)""",
    """CREATE TABLE "vp_inbox" (
    "reader" TEXT NOT NULL PRIMARY KEY,
    "acknowledged_seq" INTEGER NOT NULL,
    "updated_at" INTEGER NOT NULL
)""",
    """CREATE TABLE "vp_worker" (
    "worker_id" TEXT NOT NULL PRIMARY KEY,
    "vp_id" TEXT,
    "host" TEXT NOT NULL,
    "host_identity" TEXT NOT NULL,
    "pid" INTEGER NOT NULL,
    "start_ticks" INTEGER,
    "version" TEXT NOT NULL,
    "profile_digest" TEXT,
    "started_at" INTEGER NOT NULL,
    "heartbeat_at" INTEGER NOT NULL,
    "heartbeat_boottime_us" INTEGER NOT NULL,
    "state" TEXT NOT NULL CHECK (state IN ('running', 'draining', 'stopped', 'lost'))
)""",
    """CREATE INDEX "vp_worker_vp_id" ON "vp_worker" ("vp_id")""",
    """CREATE TRIGGER vp_mission_edge BEFORE UPDATE OF status ON vp_mission
WHEN NEW.status <> OLD.status AND NOT ((OLD.status = 'queued' AND NEW.status IN ('running', 'cancelled', 'expired')) OR (OLD.status = 'running' AND NEW.status IN ('queued', 'needs_input', 'completed', 'failed', 'cancelled')) OR (OLD.status = 'needs_input' AND NEW.status IN ('running', 'queued', 'failed', 'cancelled')))
BEGIN SELECT RAISE(ABORT, 'no such status change'); END""",
    """CREATE TRIGGER vp_mission_born_queued BEFORE INSERT ON vp_mission
WHEN NEW.status <> 'queued'
BEGIN SELECT RAISE(ABORT, 'a mission begins queued'); END""",
    """CREATE TRIGGER vp_mission_attempt_rises BEFORE UPDATE OF attempt ON vp_mission
WHEN NEW.attempt < OLD.attempt
BEGIN SELECT RAISE(ABORT, 'attempt numbers only rise'); END""",
    """CREATE TRIGGER vp_event_immutable BEFORE UPDATE ON vp_event
BEGIN SELECT RAISE(ABORT, 'events never change'); END""",
    """CREATE TABLE kv (queue text not null, key text not null, value blob not null, primary key(queue, key))""",
    """CREATE TABLE schedule (id integer not null primary key, queue text not null, data blob not null, timestamp real not null)""",
    """CREATE INDEX schedule_queue_timestamp ON schedule (queue, timestamp)""",
    """CREATE TABLE task (id integer not null primary key autoincrement, queue text not null, data blob not null, priority real not null default 0.0)""",
    """CREATE INDEX task_queue_priority_id ON task (queue, priority desc, id)""",
    """CREATE TABLE counter (queue text not null, key text not null, value integer not null default 0, primary key(queue, key))""",
)


def up(migrator: Any, db: Any) -> None:
    """Make all tables, indexes and triggers."""
    for statement in SQLITE:
        db.execute_sql(statement)
