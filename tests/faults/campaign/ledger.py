"""What the ledger says, in plain SQL over a connection of the campaign's own: none of the code under test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import cysqlite

TERMINAL: Final = ("completed", "failed", "cancelled", "expired")
TERMINAL_EVENTS: Final = tuple(f"mission.{status}" for status in TERMINAL)
BUSY_SECONDS: Final = 30.0


class Ledger:
    """The ledger of a campaign, read only."""

    def __init__(self, path: Path) -> None:
        self._connection = cysqlite.connect(f"file:{path}?mode=ro", timeout=BUSY_SECONDS, flags=0x1 | 0x40)

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """All rows of a query."""
        return list(self._connection.execute(sql, parameters).fetchall())

    def value(self, sql: str, *parameters: Any) -> Any:
        """The first column of the first row, or None."""
        row = self._connection.execute(sql, parameters).fetchone()
        return row[0] if row else None

    def unfinished(self) -> list[str]:
        """Ids of missions that have not ended."""
        return [
            mission_id
            for (mission_id,) in self.rows(
                "SELECT id FROM vp_mission WHERE status NOT IN ('completed', 'failed', 'cancelled', 'expired')"
            )
        ]

    def failed_without_retry(self) -> list[str]:
        """Ids of missions that could be retried and were not."""
        rows = self.rows(
            "SELECT id FROM vp_mission AS m WHERE status IN ('failed', 'cancelled', 'expired') "
            "AND NOT EXISTS (SELECT 1 FROM vp_mission AS r WHERE r.retry_of = m.id)"
        )
        return [mission_id for (mission_id,) in rows]

    def newest_seq(self) -> int:
        return int(self.value("SELECT COALESCE(MAX(seq), 0) FROM vp_event"))

    def queue_rows(self) -> list[Any]:
        """Rows of Huey's queue, with the status of the mission that each stands for."""
        return self.rows(
            "SELECT t.id, t.queue, json_extract(CAST(t.data AS TEXT), '$.message.args[0]'), m.status FROM task AS t "
            "LEFT JOIN vp_mission AS m ON m.id = json_extract(CAST(t.data AS TEXT), '$.message.args[0]')"
        )

    def stale_revocations(self) -> int:
        """Revocations of missions that have ended."""
        return int(
            self.value(
                "SELECT COUNT(*) FROM kv AS k JOIN vp_mission AS m "
                "ON m.id = substr(k.key, 3, instr(k.key, '.') - 3) WHERE k.key GLOB 'r:m-*' AND m.finished_at > 0"
            )
        )

    def attempt_is_running(self, mission_id: str, attempt: int) -> bool:
        outcome = self.value("SELECT outcome FROM vp_attempt WHERE mission_id = ? AND number = ?", mission_id, attempt)
        return bool(outcome == "running")

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Ledger]:
    """The ledger, closed at the end."""
    ledger = Ledger(path)
    try:
        yield ledger
    finally:
        ledger.close()
