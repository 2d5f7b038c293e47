"""One process of the dispatch benchmark: told by lines on stdin how many to write, it answers with latencies.

``ceiling`` writes what a dispatch must write at the least, into a ledger of the real schema: mission, event
and queue row in one ``BEGIN IMMEDIATE`` with the bare driver, synced. ``ours`` calls ``vp_dispatch_mission``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

import cysqlite

from vp_queue import clock
from vp_queue.ledger import database

VP_ID = "vp.general.primary"
OBJECTIVE = "Summarise the minutes of the meeting, name who promised what, and list what is still open. " * 3
METADATA = {"project": "benchmark", "requested_by": "nobody"}
BUDGET = {"max_duration_seconds": 600.0}

MISSION = (
    "INSERT INTO vp_mission (id, vp_id, mission_type, priority, status, attempt, attempts_charged, releases, "
    "max_attempts, events, due_at, queue_row, created_at, queued_at, budget, metadata, constraints, objective) "
    "VALUES (?, ?, 'task', 0, 'queued', 0, 0, 0, 1, 1, 0, ?, ?, ?, ?, ?, '{}', ?)"
)
EVENT = (
    "INSERT INTO vp_event (mission_id, mission_seq, vp_id, type, at, data) VALUES (?, 1, ?, 'mission.dispatched', ?, ?)"
)
QUEUE_ROW = "INSERT INTO task (queue, data, priority) VALUES (?, ?, 0)"
EVENT_DATA = '{"mission_type":"task","priority":0,"retry_of":null}'


def ceiling(path: str) -> Callable[[], bool]:
    """One dispatch's rows, written without any of our code but the id."""
    connection = cysqlite.Connection(path, timeout=database.BEGIN_WAIT_SECONDS)
    connection.set_busy_handler(database.BEGIN_WAIT_SECONDS)
    for name, value in database.PRAGMAS.items():
        connection.pragma(name, value)
    budget, metadata = (json.dumps(value, separators=(",", ":")) for value in (BUDGET, METADATA))

    def write() -> bool:
        mission_id, now = clock.new_mission_id(), time.time_ns() // 1000
        fields = {"id": f"{mission_id}.1", "name": "vp_queue.queue.huey.run_mission", "args": [mission_id, 1]}
        data = json.dumps({"message": {**fields, "retries": 0, "retry_delay": 0}}, separators=(",", ":")).encode()
        connection.execute("BEGIN IMMEDIATE")
        row_id = connection.execute(QUEUE_ROW, (VP_ID, data)).lastrowid
        connection.execute(MISSION, (mission_id, VP_ID, row_id, now, now, budget, metadata, OBJECTIVE))
        connection.execute(EVENT, (mission_id, VP_ID, now, EVENT_DATA))
        connection.execute("COMMIT")
        return True

    return write


def ours(_: str) -> Callable[[], bool]:
    """The tool, as an orchestrator calls it."""
    from vp_queue.tools import vp_dispatch_mission

    def dispatch() -> bool:
        answer = vp_dispatch_mission(vp_id=VP_ID, objective=OBJECTIVE, budget=BUDGET, metadata=METADATA)
        return bool(answer["ok"])

    return dispatch


def main(kind: str, path: str) -> None:
    write = {"ceiling": ceiling, "ours": ours}[kind](path)
    for _ in range(3):  # first connection, first statements: not what is measured
        write()
    print("ready", flush=True)
    for line in sys.stdin:
        latencies, errors = [], 0
        start = time.monotonic()
        for _ in range(int(line)):
            began = time.perf_counter()
            try:
                errors += not write()
            except cysqlite.Error:
                errors += 1
            latencies.append(time.perf_counter() - began)
        answer = {"start": start, "end": time.monotonic(), "latencies": latencies, "errors": errors}
        print(json.dumps({**answer, "cpu": sum(os.times()[:2])}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
