"""What retention needs: the size of an ended mission's workspace, folders still to remove, keys of pruned missions.

Both indexes are partial: a mission that has not ended costs nothing. ``vp_mission_ended`` covers the sweeps.
"""

from typing import Any

SQLITE = (
    """ALTER TABLE "vp_mission" ADD COLUMN "workspace_bytes" INTEGER""",
    """ALTER TABLE "vp_idempotency_key" ADD COLUMN "pruned_at" INTEGER""",
    """CREATE INDEX "vp_mission_ended" ON "vp_mission" ("vp_id", "finished_at", "id", "status", "workspace_bytes")
WHERE finished_at IS NOT NULL""",
    """CREATE INDEX "vp_mission_unmeasured" ON "vp_mission" ("finished_at", "id", "vp_id", "attempt")
WHERE finished_at IS NOT NULL AND workspace_bytes IS NULL""",
    """CREATE INDEX "vp_idempotency_key_pruned" ON "vp_idempotency_key" ("pruned_at")
WHERE pruned_at IS NOT NULL""",
    """CREATE TABLE "vp_pruned_workspace" (
    "mission_id" TEXT NOT NULL PRIMARY KEY,
    "vp_id" TEXT NOT NULL,
    "bytes" INTEGER,
    "pruned_at" INTEGER NOT NULL,
    "tries" INTEGER NOT NULL,
    "retry_at" INTEGER NOT NULL,
    "problem" TEXT
)""",
    """CREATE INDEX "vp_pruned_workspace_retry_at" ON "vp_pruned_workspace" ("retry_at")""",
)


def up(migrator: Any, db: Any) -> None:
    """Add the columns, the indexes and the table; no table is rebuilt, so no trigger is lost."""
    for statement in SQLITE:
        db.execute_sql(statement)
