"""Who is told of events, and what is still to be told (``[notify]``)."""

from typing import Any

SQLITE = (
    """CREATE TABLE "vp_sink" (
    "sink" TEXT NOT NULL PRIMARY KEY,
    "label" TEXT NOT NULL,
    "cursor_seq" INTEGER NOT NULL,
    "created_at" INTEGER NOT NULL,
    "failures" INTEGER NOT NULL,
    "rests_until" INTEGER,
    "claim_token" TEXT,
    "claim_host_identity" TEXT,
    "claim_pid" INTEGER,
    "claim_start_ticks" INTEGER,
    "claim_expires_at" INTEGER,
    "claim_expires_boottime_us" INTEGER
)""",
    """CREATE TABLE "vp_delivery" (
    "id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "sink" TEXT NOT NULL,
    "lane" TEXT NOT NULL,
    "event_seq" INTEGER NOT NULL,
    "event_at" INTEGER NOT NULL,
    "type" TEXT NOT NULL,
    "vp_id" TEXT NOT NULL,
    "mission_id" TEXT,
    "state" TEXT NOT NULL CHECK (state IN ('pending', 'dead')),
    "attempts" INTEGER NOT NULL,
    "next_at" INTEGER NOT NULL,
    "created_at" INTEGER NOT NULL,
    "tried_at" INTEGER,
    "died_at" INTEGER,
    "error" TEXT,
    CHECK ((state = 'dead') = (died_at IS NOT NULL))
)""",
    """CREATE UNIQUE INDEX "vp_delivery_sink_event_seq" ON "vp_delivery" ("sink", "event_seq")""",
    """CREATE INDEX "vp_delivery_sink_state_lane_event_seq" ON "vp_delivery" ("sink", "state", "lane", "event_seq")""",
    """CREATE INDEX "vp_delivery_state_died_at" ON "vp_delivery" ("state", "died_at")""",
)


def up(migrator: Any, db: Any) -> None:
    """Add the tables."""
    for statement in SQLITE:
        db.execute_sql(statement)
