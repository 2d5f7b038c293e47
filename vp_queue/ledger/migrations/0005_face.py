"""What the operator's face needs: counts that outlive missions, what a person has seen, lineage, traces."""

from typing import Any

SQLITE = (
    """CREATE TABLE "vp_tally" (
    "vp_id" TEXT NOT NULL,
    "day" INTEGER NOT NULL,
    "measure" TEXT NOT NULL,
    "value" REAL NOT NULL,
    PRIMARY KEY ("vp_id", "day", "measure")
) WITHOUT ROWID""",
    """CREATE TABLE "vp_seen" (
    "mission_id" TEXT NOT NULL PRIMARY KEY,
    "seen_at" INTEGER NOT NULL,
    "seen_by" TEXT NOT NULL,
    FOREIGN KEY ("mission_id") REFERENCES "vp_mission" ("id") ON DELETE CASCADE
)""",
    'ALTER TABLE "vp_mission" ADD COLUMN "trace_context" TEXT',
    """CREATE INDEX "vp_mission_retry_of" ON "vp_mission" ("retry_of") WHERE retry_of IS NOT NULL""",
)


def up(migrator: Any, db: Any) -> None:
    """Add the tables, the column and the index."""
    for statement in SQLITE:
        db.execute_sql(statement)
