"""Whoever can write the database file can write rows: a real consumer runs none that are not vp-queue's own.

``tests/unit/queue`` has every kind of row for the queue itself; here are Huey's other tables, and the consumer's
own threads, which must not die of what they find.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.harness import CODER, GENERAL, Home, ended, exited, shell, status, until
from vp_queue import missions
from vp_queue.ledger import database
from vp_queue.queue.messages import TASK_NAME, is_revocation


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def message(mission_id: str, **fields: Any) -> bytes:
    """A wake-up of this mission with some fields replaced."""
    return json.dumps(
        {"message": {"id": f"{mission_id}.1", "name": TASK_NAME, "args": [mission_id, 1], **fields}}
    ).encode()


Row = Callable[[str, Path], Any]
CRAFTED: dict[str, Row] = {
    "junk": lambda target, ran: b"\x00\xffjunk",
    "empty": lambda target, ran: b"",
    "pickle": lambda target, ran: pickle.dumps(Bomb(ran)),
    "a number that would be a terabyte of zeros": lambda target, ran: 2**40,
    "text": lambda target, ran: "text",
    "nested JSON": lambda target, ran: b"[" * 5_000,
    "an unknown task": lambda target, ran: message(target, name="os.system"),
    "an eta": lambda target, ran: message(target, eta={"at": "2030-01-01T00:00:00"}),
    "a pipeline": lambda target, ran: message(target, on_complete={"id": "x", "name": "os.system"}),
    "a mission of another VP": lambda target, ran: message(target),
}


def sql(statement: str, *parameters: Any) -> list[Any]:
    with database.write_transaction():
        return database.current().db.execute_sql(statement, parameters).fetchall()


def rejections() -> list[str]:
    return [event.data["reason"] for event in missions.events_after(0, 1000) if event.type == "vp.message_rejected"]


@pytest.mark.parametrize("table", ["task", "schedule"])
def test_a_real_consumer_removes_and_reports_every_crafted_row_and_goes_on(home: Home, table: str) -> None:
    missions.ready()
    ran = home.path / "ran"
    target = shell("true", vp_id=CODER)["mission_id"]
    where = "priority" if table == "task" else "timestamp"
    for row in CRAFTED.values():
        sql(f"INSERT INTO {table} (queue, data, {where}) VALUES (?, ?, 50)", GENERAL, row(target, ran))
    consumer = home.consumer()
    until(lambda: len(rejections()) == len(CRAFTED) or exited(consumer), "every row is told of")
    assert sql(f"SELECT COUNT(*) FROM {table} WHERE queue = ?", GENERAL) == [(0,)]
    mission_id = shell("true")["mission_id"]
    assert ended(mission_id)["status"] == "completed"
    assert not exited(consumer)
    assert (status(target), ran.exists()) == ("queued", False)
    assert all(reason.startswith("in the schedule: ") for reason in rejections()) == (table == "schedule")
    assert "Traceback" not in home.logs()
    sql("DELETE FROM vp_mission WHERE id = ?", target)
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [mission_id])


def test_crafted_revocations_stop_neither_missions_nor_consumer(home: Home) -> None:
    missions.ready()
    ran, dispatched = home.path / "ran", []
    for row in CRAFTED.values():
        mission_id = shell("true")["mission_id"]
        dispatched.append(mission_id)
        value = row(mission_id, ran)
        sql("INSERT INTO kv (queue, key, value) VALUES (?, ?, ?)", GENERAL, f"r:{mission_id}.1", value)
    consumer = home.consumer()
    for mission_id in dispatched:
        assert ended(mission_id)["status"] == "completed"
    assert not exited(consumer)
    assert not ran.exists()
    assert "Traceback" not in home.logs()
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", dispatched)


def test_a_wake_up_that_was_scheduled_by_hand_is_a_wake_up(home: Home) -> None:
    mission_id = shell("true")["mission_id"]
    sql("DELETE FROM task")
    sql("INSERT INTO schedule (queue, data, timestamp) VALUES (?, ?, 1)", GENERAL, message(mission_id))
    home.consumer()
    assert ended(mission_id)["status"] == "completed"
    assert rejections() == []
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [mission_id])


@pytest.mark.parametrize("table", ["task", "schedule"])
def test_control_without_the_check_hueys_own_code_meets_the_row(home: Home, table: str) -> None:
    missions.ready()
    where = "priority" if table == "task" else "timestamp"
    sql(f"INSERT INTO {table} (queue, data, {where}) VALUES (?, x'00ff', 50)", GENERAL)
    home.start("huey_consumer", "vp_queue.tasks.app.huey", mutants="rows-are-trusted", VP_ID=GENERAL)
    until(lambda: "Traceback" in home.logs(), "Huey stumbles over it")
    assert rejections() == []


def test_control_a_number_taken_for_a_revocation_would_be_that_many_bytes() -> None:
    with pytest.raises(MemoryError):
        is_revocation(2**46)  # type: ignore[arg-type]  what a row of that type gives
