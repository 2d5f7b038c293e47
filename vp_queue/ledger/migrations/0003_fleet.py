"""What code a worker runs, and why a VP drains."""

from typing import Any

SQLITE = (
    'ALTER TABLE "vp_worker" ADD COLUMN "code_digest" TEXT',
    'ALTER TABLE "vp_agent" ADD COLUMN "drain_reason" TEXT',
)


def up(migrator: Any, db: Any) -> None:
    """Add the columns."""
    for statement in SQLITE:
        db.execute_sql(statement)
