"""What takes room: counts and sizes, for ``vp usage``. Reads only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from peewee import fn

from vp_queue.contracts import EXECUTING, Status
from vp_queue.ledger import database
from vp_queue.ledger.models import Mission

LIVE: Final = (Status.QUEUED, *EXECUTING)
HUEYS: Final = ("task", "schedule", "kv")


@dataclass(frozen=True)
class LedgerPages:
    """The ledger's file: its size, and what of it is free for reuse."""

    bytes: int
    free_bytes: int


def live_missions() -> dict[str, int]:
    """How many missions have not ended, by VP."""
    query = Mission.select(Mission.vp_id, fn.COUNT(Mission.id)).where(Mission.status.in_(LIVE)).group_by(Mission.vp_id)
    rows: Iterable[Any] = query.tuples()
    return dict(rows)


def live_workspaces(limit: int) -> list[tuple[str, str]]:
    """Missions that have not ended but have a workspace: VP and id, at most so many."""
    query = Mission.select(Mission.vp_id, Mission.id).where(Mission.status.in_(LIVE), Mission.attempt > 0)
    rows: Iterable[Any] = query.limit(limit).tuples()
    return list(rows)


def huey_rows() -> dict[str, int]:
    """How many rows Huey's tables hold: wake-ups, scheduled tasks, revocations."""
    return {name: _scalar(f"SELECT COUNT(*) FROM {name}") for name in HUEYS}  # noqa: S608  constants


def pages() -> LedgerPages:
    """The size of the ledger's file as SQLite counts it."""
    size = _scalar("PRAGMA page_size")
    return LedgerPages(_scalar("PRAGMA page_count") * size, _scalar("PRAGMA freelist_count") * size)


def _scalar(sql: str) -> int:
    row: Any = database.current().db.execute_sql(sql).fetchone()
    return int(row[0])
