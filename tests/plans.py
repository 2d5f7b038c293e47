"""What SQLite would go through to answer: the plans of all queries of a call."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vp_queue.ledger import database

# Of whoever configured, registered or reads; of a day's VPs; of an argument. They do not grow with the missions.
SMALL = ("vp_worker", "vp_agent", "vp_tally", "vp_sink", "vp_inbox", "json_each", "sqlite_sequence")
# Each of these goes through something on purpose.
BOUNDED = (
    "SCAN a USING INDEX vp_attempt_running",  # an index of what runs
    "SCAN vps",  # rows of the statement itself
    "SCAN step",
    "SCAN CONSTANT ROW",
    "SCAN (",
)


def whole_reads(monkeypatch: pytest.MonkeyPatch, look: Callable[[], object]) -> set[str]:
    """The steps of the plans that go through the whole of a table, or of an index, that grows with the missions.

    A look at the end of the feed, in its own order and with a limit, is none.
    """
    asked: list[tuple[str, object]] = []
    execute_sql = database.LedgerDatabase.execute_sql

    def noting(db: database.LedgerDatabase, sql: str, params: object = None) -> object:
        asked.append((sql, params))
        return execute_sql(db, sql, params)

    with monkeypatch.context() as patched:
        patched.setattr(database.LedgerDatabase, "execute_sql", noting)
        look()
    queries = [(sql, params) for sql, params in asked if sql.upper().startswith(("SELECT", "WITH"))]
    assert queries
    with database.read_transaction():
        steps = [
            (row[3], sql)
            for sql, params in queries
            for row in database.current().db.execute_sql(f"EXPLAIN QUERY PLAN {sql}", params).fetchall()
        ]
    return {step for step, sql in steps if step.startswith("SCAN") and not _is_bounded(step, sql)}


def _is_bounded(step: str, sql: str) -> bool:
    if step.startswith(BOUNDED) or any(f'FROM "{name}"' in sql or f"FROM {name}" in sql for name in SMALL):
        return True
    return step == "SCAN t1" and 'FROM "vp_event"' in sql and '"seq" DESC LIMIT' in sql
