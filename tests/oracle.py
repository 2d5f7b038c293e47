"""What must hold of a ledger after anything that can happen to it (docs: the promise).

Every acceptance and fault test ends with :func:`check`. It reads with a connection of its own in a process
of its own kind: plain SQL, none of the code under test.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cysqlite

from tests.harness import alive_with_environment

TERMINAL = ("completed", "failed", "cancelled", "expired")
# The status a mission must have after each event; progress and cancel requests change none.
STATUS_AFTER = {
    "mission.dispatched": "queued",
    "mission.started": "running",
    "mission.needs_input": "needs_input",
    "mission.answered": "running",
    "mission.retrying": "queued",
    "mission.released": "queued",
    "mission.completed": "completed",
    "mission.failed": "failed",
    "mission.cancelled": "cancelled",
    "mission.expired": "expired",
}
# Told as often as it happens within one attempt; everything else happens to an attempt once.
REPEATED = ("mission.progress", "mission.needs_input", "mission.answered")


def check(database: Path, workspaces: Path, acknowledged: list[str] | None = None, *, live: bool = True) -> None:
    """Assert every invariant of ledger.md.

    Args:
        acknowledged: ids of missions whose dispatch was acknowledged; each must exist.
        live: False for a copy: what runs on this machine, and what has become due since, does not concern it.
    """
    connection = cysqlite.connect(str(database))
    try:
        missions = check_rows(connection, acknowledged)
        _check_artifacts(connection, workspaces)
        if live:
            _check_processes(missions)
            _check_queue(connection)
    finally:
        connection.close()


def check_rows(connection: Any, acknowledged: Iterable[str] | None = None) -> dict[str, str]:
    """The part of :func:`check` that needs nothing but the tables, at any moment whatever runs.

    Returns:
        each mission's status.
    """
    assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    missions = dict(connection.execute("SELECT id, status FROM vp_mission").fetchall())
    for mission_id in acknowledged or ():
        assert mission_id in missions, f"acknowledged mission {mission_id} is lost"
    _check_events(connection, missions)
    _check_attempts(connection, missions)
    return missions


def _check_events(connection: Any, missions: dict[str, str]) -> None:
    folded = dict.fromkeys(missions, "")
    terminal_events = dict.fromkeys(missions, 0)
    position = dict.fromkeys(missions, 0)
    rows = connection.execute(
        "SELECT mission_id, mission_seq, type FROM vp_event WHERE mission_id IS NOT NULL ORDER BY seq"
    ).fetchall()
    for mission_id, mission_seq, kind in rows:
        position[mission_id] += 1
        assert mission_seq == position[mission_id], f"gap in the events of {mission_id} at {mission_seq}"
        assert terminal_events[mission_id] == 0, f"{mission_id}: {kind} after its end"
        folded[mission_id] = STATUS_AFTER.get(kind, folded[mission_id])
        terminal_events[mission_id] += folded[mission_id] in TERMINAL
    assert folded == missions, "a status differs from the fold of its events"
    twice = connection.execute(
        "SELECT mission_id, attempt, type FROM vp_event WHERE mission_id IS NOT NULL "
        f"AND type NOT IN ({', '.join('?' * len(REPEATED))}) GROUP BY 1, 2, 3 HAVING COUNT(*) > 1",
        REPEATED,
    ).fetchall()
    assert twice == [], f"a lifecycle event was recorded twice: {twice}"


def _check_attempts(connection: Any, missions: dict[str, str]) -> None:
    running = connection.execute("SELECT mission_id, COUNT(*) FROM vp_attempt WHERE outcome = 'running' GROUP BY 1")
    for mission_id, count in running.fetchall():
        assert count == 1, f"{mission_id} has {count} running attempts"
        assert missions[mission_id] in ("running", "needs_input"), f"{mission_id} has a stray running attempt"


def _check_processes(missions: dict[str, str]) -> None:
    for mission_id, status in missions.items():
        alive = alive_with_environment("VP_MISSION_ID", mission_id)
        if status in TERMINAL:
            assert alive == [], f"{mission_id} is {status} but {alive} live"


def _check_artifacts(connection: Any, workspaces: Path) -> None:
    rows = connection.execute(
        "SELECT m.vp_id, a.mission_id, a.attempt, a.path, a.size, a.sha256 FROM vp_artifact AS a "
        "JOIN vp_mission AS m ON m.id = a.mission_id"
    ).fetchall()
    for vp_id, mission_id, attempt, path, size, sha256 in rows:
        folder = vp_id.replace(".", "_") + "_external"
        file = workspaces / folder / mission_id / f"attempt-{attempt}" / "work_products" / path
        content = file.read_bytes()
        assert len(content) == size
        assert hashlib.sha256(content).hexdigest() == sha256
        assert os.path.realpath(file).startswith(os.path.realpath(workspaces))


def _check_queue(connection: Any) -> None:
    lost = connection.execute(
        "SELECT m.id FROM vp_mission AS m LEFT JOIN task AS t ON t.id = m.queue_row AND t.queue = m.vp_id "
        "WHERE m.status = 'queued' AND m.due_at <= CAST(unixepoch('subsec') * 1000000 AS INTEGER) - 3000000 "
        "AND m.queued_at <= CAST(unixepoch('subsec') * 1000000 AS INTEGER) - 3000000 AND t.id IS NULL"
    ).fetchall()
    assert lost == [], f"queued and due, but without a queue row: {lost}"
