"""What an overview shows, in queries that stay quick on a ledger with a hundred thousand missions. Reads only.

Each is answered from an index: what has ended by ``vp_mission_ended`` (VP by VP, in the order of ending), what was
dispatched by the ids themselves, which are ordered by time. SQLite is told which index where its planner, for want of
statistics, might take another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from vp_queue import clock
from vp_queue.contracts import EXECUTING, Outcome, Status, WorkerState
from vp_queue.ledger import database
from vp_queue.ledger.models import Agent, Attempt, Event, Mission, Worker

_ENDED_VPS: Final = (
    "WITH RECURSIVE vps(vp_id) AS (SELECT (SELECT MIN(vp_id) FROM vp_mission INDEXED BY vp_mission_ended "
    "WHERE finished_at IS NOT NULL) UNION ALL SELECT (SELECT MIN(vp_id) FROM vp_mission INDEXED BY vp_mission_ended "
    "WHERE finished_at IS NOT NULL AND vp_id > vps.vp_id) FROM vps WHERE vps.vp_id IS NOT NULL) "
    "SELECT vp_id FROM vps WHERE vp_id IS NOT NULL"
)
# Of one VP, after an instant.
_ENDED: Final = (
    "FROM vp_mission AS m INDEXED BY vp_mission_ended "
    "WHERE m.vp_id = :vp_id AND m.finished_at > :after AND m.finished_at IS NOT NULL"
)
_ENDED_BY_STATUS: Final = f"SELECT m.status, COUNT(*) {_ENDED} GROUP BY m.status"
_ENDED_BY_STEP: Final = f"SELECT (m.finished_at - :after - 1) / :step, m.status, COUNT(*) {_ENDED} GROUP BY 1, 2"
_FAILED: Final = (
    f"SELECT m.id {_ENDED} AND m.finished_at <= :until AND m.status = 'failed' "  # noqa: S608  of constants
    "AND NOT EXISTS (SELECT 1 FROM vp_mission AS again WHERE again.retry_of = m.id) "
    "AND NOT EXISTS (SELECT 1 FROM vp_seen AS seen WHERE seen.mission_id = m.id) "
    "ORDER BY m.finished_at DESC LIMIT :limit"
)
_DISPATCHED_BY_STEP: Final = (
    "SELECT step.key, (SELECT COUNT(*) FROM vp_mission WHERE id >= json_extract(step.value, '$[0]') "
    "AND id < json_extract(step.value, '$[1]')) FROM json_each(:steps) AS step"
)
# What is due at once stands in the order of its queue rows, in which it came; what has a time, in that of its time.
_DUE: Final = (
    "FROM vp_mission INDEXED BY vp_mission_due WHERE status = 'queued' AND vp_id = :vp_id AND due_at {} "
    "ORDER BY due_at, queue_row LIMIT 1"
)
_DUE_AT_ONCE: Final = "SELECT queued_at " + _DUE.format("= 0")
_DUE_AT_A_TIME: Final = "SELECT due_at " + _DUE.format("> 0 AND due_at <= :now")
_EXECUTING: Final = (
    "SELECT m.id, m.vp_id, COALESCE(a.last_output_at, a.started_at) "  # noqa: S608  of constants
    "FROM vp_attempt AS a INDEXED BY vp_attempt_running CROSS JOIN vp_mission AS m ON m.id = a.mission_id "
    f"WHERE a.outcome = '{Outcome.RUNNING}' LIMIT :limit"
)
EXECUTING_LOOKED_AT: Final = 1_000


@dataclass(frozen=True)
class Steps:
    """What happened in steps of equal length up to now: how many were dispatched, and ended by status, in each."""

    dispatched: list[int]
    ended: dict[Status, list[int]]


def ended_since(vp_id: str, after: datetime) -> dict[str, int]:
    """How many missions of a VP ended after an instant, by status."""
    values = {"vp_id": vp_id, "after": clock.to_micros(after)}
    return dict(_rows(_ENDED_BY_STATUS, values))


def steps(now: datetime, count: int, step_seconds: int) -> Steps:
    """What happened in the last steps, oldest first; what the clock says is still to come counts to the last."""
    step = step_seconds * 1_000_000
    after = clock.to_micros(now) - count * step
    ended = {status: [0] * count for status in Status}
    for vp_id in ended_vps():
        for number, status, found in _rows(_ENDED_BY_STEP, {"vp_id": vp_id, "after": after, "step": step}):
            ended[Status(status)][min(number, count - 1)] += found
    begins = [clock.first_mission_id(clock.from_micros(after + number * step + 1)) for number in range(count)]
    bounds = json.dumps(list(zip(begins, [*begins[1:], "n"], strict=True)))
    dispatched = dict(_rows(_DISPATCHED_BY_STEP, {"steps": bounds}))
    return Steps([dispatched[number] for number in range(count)], ended)


def ended_vps() -> list[str]:
    """The VPs of which a mission has ended, whether they are configured still or not."""
    return [vp_id for (vp_id,) in _rows(_ENDED_VPS, {})]


def waiting_since(vp_id: str, now: datetime) -> datetime | None:
    """Since when the mission of a VP that has waited longest could have started; None if none could."""
    values = {"vp_id": vp_id, "now": clock.to_micros(now)}
    found = [row[0] for sql in (_DUE_AT_ONCE, _DUE_AT_A_TIME) for row in _rows(sql, values)]
    return clock.from_micros(min(found)) if found else None


def executing(vp_id: str, limit: int) -> list[tuple[Mission, Attempt]]:
    """Missions of a VP that execute, with their attempts, newest first."""
    of_vp = Mission.select().where(Mission.vp_id == vp_id, Mission.status.in_(EXECUTING))
    rows = {row.id: row for row in of_vp.order_by(Mission.id.desc()).limit(limit)}
    attempts = Attempt.select().where(Attempt.mission.in_(list(rows)), Attempt.outcome == Outcome.RUNNING)
    found = {attempt.mission_id: attempt for attempt in attempts} if rows else {}
    return [(row, found[row.id]) for row in rows.values() if row.id in found]


def silent(now: datetime, stall_limits: dict[str, float], limit: int) -> list[tuple[datetime, str]]:
    """Executing missions without output or progress for longer than their VP's limit: since when, and the id."""
    found = []
    for mission_id, vp_id, last in _rows(_EXECUTING, {"limit": EXECUTING_LOOKED_AT}):
        since = clock.from_micros(last)
        if vp_id in stall_limits and now - since > timedelta(seconds=stall_limits[vp_id]):
            found.append((since, mission_id))
    return sorted(found)[:limit]


def asking(limit: int) -> list[Mission]:
    """Missions that wait for an answer, oldest first."""
    return list(Mission.select().where(Mission.status == Status.NEEDS_INPUT).order_by(Mission.id).limit(limit))


def failed_unseen(after: datetime, limit: int, *, until: datetime = clock.LATEST) -> list[str]:
    """Missions that failed within a time, were not marked as seen and not retried: newest first, of each VP."""
    values = {"after": clock.to_micros(after), "until": clock.to_micros(until), "limit": limit}
    return [mission_id for vp_id in ended_vps() for (mission_id,) in _rows(_FAILED, {**values, "vp_id": vp_id})]


def missions(ids: Sequence[str]) -> list[Mission]:
    """The rows of these missions, in the order of the ids."""
    rows = {row.id: row for row in Mission.select().where(Mission.id.in_(ids))} if ids else {}
    return [rows[mission_id] for mission_id in ids if mission_id in rows]


def lost_workers() -> list[Worker]:
    """Of each VP the newest worker, where that was found lost: nobody came after it."""
    newest: dict[str | None, Worker] = {}
    for row in Worker.select().where(Worker.vp_id.is_null(False)).order_by(Worker.started_at):
        newest[row.vp_id] = row
    return [row for row in newest.values() if row.state == WorkerState.LOST]


def held_since(vp_id: str) -> datetime | None:
    """When somebody last decided to pause, drain or resume a VP."""
    row = Agent.get_or_none(Agent.vp_id == vp_id)
    return row.changed_at if row else None


def newest_events(limit: int) -> list[Event]:
    """The end of the feed, newest first."""
    return list(Event.select().order_by(Event.seq.desc()).limit(limit))


def _rows(sql: str, values: dict[str, Any]) -> Iterable[Any]:
    return database.current().db.execute_sql(sql, values).fetchall()  # type: ignore[no-any-return]
