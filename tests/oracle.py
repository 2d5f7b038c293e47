"""What must hold of a ledger after anything that can happen to it (docs: the promise).

Every acceptance and fault test ends with :func:`check`. It reads with a connection of its own in a process
of its own kind: plain SQL, none of the code under test.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cysqlite

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
# So long may an attempt outlast its lease where nobody was there to end it.
UNRESCUED_SECONDS = 60.0


def check(
    database: Path,
    workspaces: Path,
    acknowledged: list[str] | None = None,
    *,
    live: bool = True,
    rescued: bool = False,
) -> None:
    """Assert every invariant of ledger.md.

    Args:
        acknowledged: ids of missions whose dispatch was acknowledged; each must exist.
        live: False for a copy: what runs on this machine, and what has become due since, does not concern it.
        rescued: a keeper has had its time, or every worker has ended in good order: what runs has a living worker
            and a living lease. Else a dead worker's attempt may be there until its lease has run out for a while.
    """
    connection = cysqlite.connect(str(database))
    try:
        missions = check_rows(connection, acknowledged)
        _check_artifacts(connection, workspaces)
        if live:
            _check_processes(missions)
            _check_leases(connection, rescued)
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
    _check_tally(connection)
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


def _check_tally(connection: Any) -> None:
    """What was counted is what is there; where retention removed something, no less than that."""
    first_to_last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'vp_event'").fetchone() or (0,)
    there = connection.execute("SELECT COUNT(*) FROM vp_event").fetchone()
    for kind, rows in (
        ("event", "SELECT vp_id, 'event:' || type, COUNT(*) FROM vp_event GROUP BY 1, 2"),
        (
            "attempt",
            "SELECT m.vp_id, 'attempt:' || a.outcome, COUNT(*) FROM vp_attempt AS a "
            "JOIN vp_mission AS m ON m.id = a.mission_id WHERE a.outcome <> 'running' GROUP BY 1, 2",
        ),
    ):
        found = {(vp_id, measure): count for vp_id, measure, count in connection.execute(rows).fetchall()}
        counted = {
            (vp_id, measure): value
            for vp_id, measure, value in connection.execute(
                "SELECT vp_id, measure, SUM(value) FROM vp_tally WHERE measure LIKE ? GROUP BY 1, 2", (f"{kind}:%",)
            ).fetchall()
        }
        less = {key: (counted.get(key, 0), count) for key, count in found.items() if counted.get(key, 0) < count}
        assert less == {}, f"counted less than there is: {less}"
        if there == first_to_last:  # nothing was ever removed
            assert counted == found, f"counted {counted}, but there is {found}"


def _check_processes(missions: dict[str, str]) -> None:
    programs = _programs()
    for mission_id, status in missions.items():
        alive = programs.get(mission_id, {})
        if status in TERMINAL:
            assert alive == {}, f"{mission_id} is {status} but {sorted(alive)} live"
        if len(set(alive.values())) > 1:  # the processes were not looked at all at once: those that still live count
            still = _programs().get(mission_id, {}).keys() & alive.keys()
            attempts = {alive[pid] for pid in still}
            assert len(attempts) <= 1, f"attempts {sorted(attempts)} of {mission_id} run at once: {sorted(still)}"


def _programs() -> dict[str, dict[int, str]]:
    """The living processes of each mission, with the attempt each belongs to, by their environment."""
    found: dict[str, dict[int, str]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _lives(int(folder.name)):
            with contextlib.suppress(OSError):
                pairs = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                environment = dict(pair.partition("=")[::2] for pair in pairs)
                if "VP_MISSION_ID" in environment:
                    alive = found.setdefault(environment["VP_MISSION_ID"], {})
                    alive[int(folder.name)] = environment.get("VP_ATTEMPT", "")
    return found


def _lives(pid: int, start_ticks: int | None = None) -> bool:
    """Whether it is a living process, and the one that started then."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return False
    return fields[0] not in (b"Z", b"X") and start_ticks in (None, int(fields[19]))


def _check_leases(connection: Any, rescued: bool) -> None:
    running = connection.execute(
        "SELECT a.mission_id, a.lease_expires_boottime_us, w.pid, w.start_ticks FROM vp_attempt AS a "
        "LEFT JOIN vp_worker AS w ON w.worker_id = a.worker_id WHERE a.outcome = 'running' AND a.host_identity = ?",
        (_host_identity(),),
    ).fetchall()
    now_us = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
    for mission_id, expires_us, pid, start_ticks in running:
        worker_lives = pid is not None and _lives(pid, start_ticks)
        overdue_seconds = (now_us - expires_us) / 1e6
        if rescued:
            assert worker_lives, f"{mission_id} runs, but its worker is dead"
            assert overdue_seconds <= 0, f"{mission_id} runs, and its lease ran out {overdue_seconds:.1f} s ago"
        else:
            assert worker_lives or overdue_seconds <= UNRESCUED_SECONDS, f"{mission_id} runs, but nobody does it"


def _host_identity() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{os.stat('/proc/self/ns/pid').st_ino}"


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
