"""Huey's SQLite storage on the ledger's own connection.

Every write in Huey's SQL storages goes through one context manager, ``db(commit=...)``, and one property,
``conn``. Lending both Peewee's connection, and beginning a transaction only where none is open, makes an
enqueue part of the ledger's transaction: of 333 missions dispatched in two transactions under SIGKILL 15
were stranded, of 552 in one none. Results are not stored at all: the ledger has them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from huey.constants import EmptyData
from huey.storage import CySqliteStorage
from huey.utils import Error

from vp_queue import clock
from vp_queue.contracts import Outcome
from vp_queue.ledger import database, fleet, queries, watch
from vp_queue.ledger.models import Attempt
from vp_queue.queue.messages import JsonSerializer, check_wake_up, is_revocation, parse_wake_up_id

logger = logging.getLogger("vp_queue.queue")

# How long a worker thread waits for a change before Huey's loop looks at its stop flag again.
DEQUEUE_WAIT_SECONDS: Final = 1.0
# The next row of a queue, unless its VP is paused or draining: then rows stay, nothing is taken and put back.
NEXT_ROW: Final = (
    "SELECT id, data FROM task WHERE queue = ? "
    "AND NOT EXISTS (SELECT 1 FROM vp_agent WHERE vp_id = ? AND (paused OR draining)) "
    "ORDER BY priority DESC, id LIMIT 1"
)
# A row's time is whatever was written there: one that is no number is never due.
DUE_ROWS: Final = "SELECT id, data FROM schedule WHERE queue = ? AND timestamp <= ? ORDER BY timestamp, id LIMIT 100"
OWNER: Final = "SELECT vp_id FROM vp_mission WHERE id = ?"
# Queued, due, and without its row: a consumer took the row and died before it could claim, or the row
# was lost otherwise, or the mission just became due.
WITHOUT_ROW: Final = (
    "SELECT m.id FROM vp_mission AS m INDEXED BY vp_mission_due "
    "LEFT JOIN task AS t ON t.id = m.queue_row AND t.queue = m.vp_id "
    "WHERE m.status = 'queued' AND m.due_at <= ? AND t.id IS NULL LIMIT ?"
)

# A revocation r:<mission>.<attempt> of a mission that has ended and whose queue row is gone.
STALE_REVOCATIONS: Final = (
    "SELECT k.rowid FROM kv AS k JOIN vp_mission AS m ON m.id = substr(k.key, 3, instr(k.key, '.') - 3) "
    "WHERE k.key GLOB 'r:m-*' AND m.finished_at IS NOT NULL "
    "AND NOT EXISTS (SELECT 1 FROM task AS t WHERE t.id = m.queue_row)"
)


class LedgerStorage(CySqliteStorage):
    """The queue tables inside the ledger's database and transactions."""

    blocking = True  # dequeue waits for a commit instead of being polled at up to 10 s intervals

    def __init__(self, name: str = "huey", **_: Any) -> None:
        super().__init__(name, filename="", create_tables=False)
        self._inserted = threading.local()

    @property
    def conn(self) -> Any:
        return database.current().db.connection()

    @contextlib.contextmanager
    def db(self, commit: bool = False, close: bool = False) -> Iterator[Any]:
        """A cursor on the ledger's connection; a write joins the open transaction or makes its own."""
        if database.current().db.in_transaction():
            yield self.conn.cursor()
        elif commit:
            with database.write_transaction():
                yield self.conn.cursor()
        else:
            with database.read_transaction():
                yield self.conn.cursor()

    def close(self) -> bool:
        """The connection is the ledger's to close."""
        return False

    def enqueue(self, data: bytes, priority: float | None = None) -> None:
        with self.db(commit=True) as cursor:
            cursor.execute(
                "INSERT INTO task (queue, data, priority) VALUES (?, ?, ?)", (self.name, bytes(data), priority or 0)
            )
            self._inserted.row_id = cursor.lastrowid

    @property
    def last_row_id(self) -> int:
        """The id of the row this thread enqueued last."""
        row_id: int = self._inserted.row_id
        return row_id

    def dequeue(self) -> bytes | None:
        """Take the next wake-up, or wait for a commit and return None so that Huey looks again."""
        changes = watch.current()
        token = changes.token()
        data = self._take()
        if data is None:
            changes.wait(token, DEQUEUE_WAIT_SECONDS)
        return data

    def _take(self) -> bytes | None:
        parameters = (self.name, self.name)
        # Most wake-ups are for somebody else: look without the write lock first.
        while self.sql(NEXT_ROW, parameters, results=True):
            # Not synced: a wake-up that a power cut brings back is stale, or wanted.
            with database.write_transaction(synced=False) as tx:
                row = self.conn.execute(NEXT_ROW, parameters).fetchone()
                if row is None:
                    return None
                row_id, data = row
                self.conn.execute("DELETE FROM task WHERE id = ?", (row_id,))
                problem = _problem(data) or _foreign(data, self.name)
                if problem is None:
                    return bytes(data)
                fleet.reject_message(tx, self.name, row_id, problem)
            logger.error("queue row %s of %s was removed unexecuted: %s", row_id, self.name, problem)
        return None

    def read_schedule(self, ts: datetime) -> list[bytes]:
        """Take what is due from Huey's schedule, which vp-queue never writes: wake-ups by hand, or hostile rows.

        Huey's own version takes the write lock each time, due or not, and one row that cannot be read would lose
        all that were taken with it.
        """
        parameters = (self.name, ts.timestamp())
        if not self.sql(DUE_ROWS, parameters, results=True):
            return []
        taken: list[bytes] = []
        with database.write_transaction() as tx:
            for row_id, data in self.conn.execute(DUE_ROWS, parameters).fetchall():
                self.conn.execute("DELETE FROM schedule WHERE id = ?", (row_id,))
                problem = _problem(data) or _foreign(data, self.name)
                if problem is None:
                    taken.append(bytes(data))
                    continue
                fleet.reject_message(tx, self.name, row_id, f"in the schedule: {problem}")
                logger.error("schedule row %s of %s was removed unexecuted: %s", row_id, self.name, problem)
        return taken

    def put_data(self, key: str, value: bytes, is_result: bool = False) -> None:
        """Keep revocations and locks; drop results, which the ledger holds."""
        if not is_result:
            super().put_data(key, value)

    def peek_data(self, key: str) -> Any:
        outcome = _outcome(key)
        return super().peek_data(key) if outcome is None else outcome

    def peek_many(self, keys: list[str]) -> dict[str, bytes]:
        """Revocations; what is none is left out, for Huey would stumble over it at every dequeue."""
        return {
            key: value
            for key, value in super().peek_many(keys).items()
            if isinstance(value, bytes) and is_revocation(value)
        }

    def pop_data(self, key: str) -> Any:
        """Reading a result does not consume it."""
        outcome = _outcome(key)
        return super().pop_data(key) if outcome is None else outcome

    def has_data_for_key(self, key: str) -> bool:
        outcome = _outcome(key)
        return bool(super().has_data_for_key(key)) if outcome is None else outcome is not EmptyData

    def wait_result(
        self, key: str, timeout: float | None = None, backoff: float = 1.15, max_delay: float = 1.0
    ) -> bool:
        """Wait for an attempt's end by the ledger's changes rather than by polling."""
        deadline = None if timeout is None else clock.monotonic() + timeout
        changes = watch.current()
        while True:
            token = changes.token()
            if self.has_data_for_key(key):
                return True
            left = DEQUEUE_WAIT_SECONDS if deadline is None else deadline - clock.monotonic()
            if left <= 0:
                return False
            changes.wait(token, min(left, DEQUEUE_WAIT_SECONDS))


def _problem(data: Any) -> str | None:
    return check_wake_up(data) if isinstance(data, bytes) else "not bytes"


def _foreign(data: bytes, vp_id: str) -> str | None:
    """A row must not make one VP's worker run, with its rights, another VP's mission."""
    mission_id = json.loads(bytes(data))["message"]["args"][0]
    row = database.current().db.execute_sql(OWNER, (mission_id,)).fetchone()
    return None if row is None or row[0] == vp_id else "a mission of another VP"


def _outcome(key: str) -> Any:
    """A result key's answer from the ledger: bytes, EmptyData while it runs, or None for other keys."""
    parsed = parse_wake_up_id(key)
    if parsed is None:
        return None
    mission_id, number = parsed
    with database.read_transaction():
        attempt = Attempt.get_or_none(Attempt.mission == mission_id, Attempt.number == number)
        mission = queries.mission_row(mission_id) if attempt is not None else None
    if attempt is None or mission is None or attempt.outcome == Outcome.RUNNING:
        return EmptyData
    body = {"mission_id": mission_id, "attempt": number, "outcome": attempt.outcome}
    if attempt.outcome == Outcome.COMPLETED:
        body["result"] = mission.result
        return JsonSerializer().serialize(body)
    failure = attempt.failure or {}
    error = failure.get("message") or f"the attempt was {attempt.outcome}"
    return JsonSerializer().serialize(Error({**body, "error": error, "failure": json.loads(json.dumps(failure))}))


def forget(vp_id: str, mission_id: str, queue_row: int | None) -> None:
    """Delete what the queue still holds of a mission whose rows were deleted, in that transaction.

    A queue row outlives a cancelled mission whose VP has no consumer; a revocation would be swept with its mission.
    """
    db = database.current().db
    if queue_row is not None:
        db.execute_sql("DELETE FROM task WHERE id = ? AND queue = ?", (queue_row, vp_id))
    # "r:<mission>.<attempt>", as a range: "/" follows "." in ASCII, and kv's key is its index.
    db.execute_sql(
        "DELETE FROM kv WHERE queue = ? AND key > ? AND key < ?", (vp_id, f"r:{mission_id}.", f"r:{mission_id}/")
    )


def without_row(now: datetime, limit: int) -> list[str]:
    """Ids of missions that are due but have no queue row. Reads only."""
    rows = database.current().db.execute_sql(WITHOUT_ROW, (clock.to_micros(now), limit))
    return [mission_id for (mission_id,) in rows.fetchall()]


def has_stale_revocations() -> bool:
    """Whether :func:`sweep_revocations` would delete something. Reads only."""
    return database.current().db.execute_sql(f"{STALE_REVOCATIONS} LIMIT 1").fetchone() is not None


def sweep_revocations(limit: int) -> int:
    """Delete revocations whose mission has ended and whose message is gone: nobody else ever would.

    Call inside a write transaction. Returns how many were deleted.
    """
    cursor = database.current().db.execute_sql(
        f"DELETE FROM kv WHERE rowid IN ({STALE_REVOCATIONS} LIMIT ?)",  # noqa: S608  a constant
        (limit,),
    )
    return int(database.current().db.rows_affected(cursor))
