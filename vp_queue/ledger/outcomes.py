"""The part of the feed that an orchestrator waits for: missions that ended, and questions still open. Reads only."""

from __future__ import annotations

from typing import Any, Final

from vp_queue.contracts import TERMINAL_EVENTS, EventType, Status
from vp_queue.ledger import database

_ASKED: Final = str(EventType.NEEDS_INPUT)
_TYPES: Final = ", ".join(repr(str(event)) for event in (*TERMINAL_EVENTS, _ASKED))
# The feed comes first (CROSS JOIN), and the missions of those few events after it. A question counts while it is open.
_OUTCOMES: Final = (
    "FROM vp_event AS e CROSS JOIN vp_mission AS m ON m.id = e.mission_id "  # noqa: S608  of constants
    f"WHERE e.seq > :after AND e.seq <= :until AND e.type IN ({_TYPES}) "
    "AND (:session IS NULL OR m.source_session_id = :session) "
    f"AND (e.type <> '{_ASKED}' OR (m.status = '{Status.NEEDS_INPUT}' AND NOT EXISTS (SELECT 1 FROM vp_event AS later "
    f"WHERE later.mission_id = e.mission_id AND later.mission_seq > e.mission_seq AND later.type = '{_ASKED}')))"
)
_NEWEST: Final = f"SELECT e.seq, e.mission_id {_OUTCOMES} ORDER BY e.seq DESC LIMIT :limit"
_TOTAL: Final = f"SELECT COUNT(*), MIN(e.seq) {_OUTCOMES}"


def newest(after: int, until: int, limit: int, source_session_id: str | None) -> list[tuple[int, str]]:
    """The newest outcomes of a stretch of the feed, newest first: seq and mission id."""
    values = {"after": after, "until": until, "session": source_session_id, "limit": limit}
    return list(_execute(_NEWEST, values).fetchall())


def total(after: int, until: int, source_session_id: str | None) -> tuple[int, int | None]:
    """How many outcomes there are in it, and the seq of the oldest."""
    count, oldest = _execute(_TOTAL, {"after": after, "until": until, "session": source_session_id}).fetchone()
    return count, oldest


def _execute(sql: str, values: dict[str, Any]) -> Any:
    return database.current().db.execute_sql(sql, values)
