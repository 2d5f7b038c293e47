"""Queue rows: written with the ledger's transaction, taken in order, and never executed unless they are ours."""

from __future__ import annotations

import json
import logging
import pickle
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from huey import SqliteHuey
from huey.exceptions import TaskException
from huey.storage import CySqliteStorage

from tests.harness import CODER, GENERAL, Home, command, events, ok, refused, status
from vp_queue import clock, missions, tools
from vp_queue.contracts import EventType, FailureCode
from vp_queue.ledger import database, queries, transitions
from vp_queue.ledger.models import Event
from vp_queue.ledger.transitions import Claim, Ending, Failure, WorkerIdentity
from vp_queue.queue import huey as queue
from vp_queue.queue import storage
from vp_queue.queue.messages import TASK_NAME, wake_up_id


@pytest.fixture
def ran() -> list[tuple[str, int]]:
    """What the task's body was called with."""
    return []


@pytest.fixture
def general(home: Home, ran: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> SqliteHuey:
    """The Huey of a consumer of the Generalist; its dequeue does not wait."""
    monkeypatch.setattr(queue, "_hueys", {})
    monkeypatch.setattr(queue, "_tasks", {})
    missions.ready()
    made = queue.consumer_huey(GENERAL, lambda mission_id, attempt: ran.append((mission_id, attempt)), 1)
    monkeypatch.setattr(storage, "DEQUEUE_WAIT_SECONDS", 0.0)
    return made


def work_off(huey: SqliteHuey) -> list[str]:
    """Execute everything in the queue as a consumer's thread does; the task ids in order."""
    order = []
    while (task := huey.dequeue()) is not None:
        order.append(task.id)
        huey.execute(task)
    return order


def sql(statement: str, *parameters: Any) -> list[Any]:
    with database.write_transaction():
        return database.current().db.execute_sql(statement, parameters).fetchall()


def rows() -> list[Any]:
    return sql("SELECT queue, id, data FROM task ORDER BY id")


def kv() -> list[str]:
    return [key for (key,) in sql("SELECT key FROM kv")]


def counts() -> dict[str, int]:
    return {name: sql(f"SELECT COUNT(*) FROM {name}")[0][0] for name in ("vp_mission", "vp_event", "task", "kv")}


def claimed(mission_id: str) -> Claim:
    worker = WorkerIdentity("w-1", "host", clock.host_identity())
    with database.write_transaction() as tx:
        landed = transitions.claim(tx, mission_id, transitions.expected_attempt(mission_id) or 0, worker, 30)
    assert landed is not None
    return landed[1]


# --- one transaction ----------------------------------------------------------------------------


def test_a_dispatch_writes_mission_event_and_queue_row_together(general: SqliteHuey) -> None:
    mission = command("true")
    ((name, row_id, data),) = rows()
    assert name == GENERAL
    assert json.loads(data)["message"]["args"] == [mission["mission_id"], 1]
    with database.read_transaction():
        assert queries.mission_row(mission["mission_id"]).queue_row == row_id


def test_a_rolled_back_dispatch_leaves_nothing(general: SqliteHuey, monkeypatch: pytest.MonkeyPatch) -> None:
    command("true")
    before = counts()
    write = queue.WakeUp.write

    def write_and_fail(*arguments: Any) -> None:
        write(*arguments)
        assert len(database.current().db.execute_sql("SELECT id FROM task").fetchall()) == 2  # it was written
        raise RuntimeError("after the row")

    monkeypatch.setattr(queue.WakeUp, "write", write_and_fail)
    constraints = {"command": ["true"]}
    answer = tools.vp_dispatch_mission(
        vp_id=GENERAL, objective="x", mission_type="command", constraints=constraints, idempotency_key="k"
    )
    refused(answer, "internal_error")
    assert counts() == before
    assert sql("SELECT * FROM vp_idempotency_key") == []


def test_a_queue_write_of_its_own_is_a_transaction_of_its_own(general: SqliteHuey) -> None:
    general.storage.put_data("lock", b"x")
    assert not database.current().db.in_transaction()
    assert kv() == ["lock"]


def test_a_queue_write_of_several_statements_happens_whole_or_not_at_all(general: SqliteHuey) -> None:
    def broken() -> None:
        with general.storage.db(commit=True) as cursor:
            cursor.execute("INSERT INTO kv (queue, key, value) VALUES ('q', 'half', x'00')")
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert kv() == []


def test_the_queue_lives_in_the_ledgers_file_on_its_connection(general: SqliteHuey) -> None:
    assert isinstance(general.storage, CySqliteStorage)
    assert general.storage.conn is database.current().db.connection()
    assert general.storage.close() is False, "the connection is the ledger's to close"


# --- order, pause, due times --------------------------------------------------------------------


def test_higher_priority_first_then_first_come(general: SqliteHuey) -> None:
    by_id = {command("true", priority=priority)["mission_id"]: priority for priority in (0, -5, 5, 0, -5, 5)}
    order = [task_id.split(".")[0] for task_id in work_off(general)]
    assert [by_id[mission_id] for mission_id in order] == [5, 5, 0, 0, -5, -5]
    assert order == sorted(by_id, key=lambda mission_id: (-by_id[mission_id], mission_id))


def test_the_task_gets_the_mission_and_the_attempt(general: SqliteHuey, ran: list[tuple[str, int]]) -> None:
    mission_id = command("true")["mission_id"]
    assert work_off(general) == [f"{mission_id}.1"]
    assert ran == [(mission_id, 1)]
    assert rows() == []


def test_each_vp_takes_from_its_own_queue(general: SqliteHuey, ran: list[tuple[str, int]]) -> None:
    command("true", vp_id=CODER)
    assert work_off(general) == []
    assert len(rows()) == 1


def test_a_paused_vp_holds_its_queue_and_nothing_is_taken_and_put_back(general: SqliteHuey) -> None:
    first = command("true")["mission_id"]
    before = rows()
    missions.pause(GENERAL, "lunch")
    second = command("true")["mission_id"]
    assert general.dequeue() is None
    assert rows()[:1] == before
    missions.resume(GENERAL)
    assert work_off(general) == [f"{first}.1", f"{second}.1"]


def test_a_draining_vp_takes_nothing_new(general: SqliteHuey) -> None:
    command("true")
    sql("INSERT INTO vp_agent (vp_id, paused, draining, changed_at) VALUES (?, 0, 1, 0)", GENERAL)
    assert general.dequeue() is None
    assert len(rows()) == 1


def test_a_mission_that_is_not_due_has_no_row_until_it_is(general: SqliteHuey) -> None:
    later = clock.now() + timedelta(hours=1)
    mission_id = command("true", not_before=clock.as_text(later))["mission_id"]
    assert rows() == []
    assert storage.without_row(clock.now(), 10) == []
    assert storage.without_row(later, 10) == [mission_id]


def test_a_lost_row_is_found(general: SqliteHuey) -> None:
    mission_id = command("true")["mission_id"]
    assert storage.without_row(clock.now(), 10) == []
    sql("DELETE FROM task")
    assert storage.without_row(clock.now(), 10) == [mission_id]


def test_a_row_of_another_queue_does_not_stand_for_a_mission(general: SqliteHuey) -> None:
    mission_id = command("true")["mission_id"]
    sql("UPDATE task SET queue = 'elsewhere'")
    assert storage.without_row(clock.now(), 10) == [mission_id]


def test_a_waiting_dequeue_is_woken_by_a_dispatch(general: SqliteHuey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "DEQUEUE_WAIT_SECONDS", 60.0)  # a deadline that only a fault can reach
    looking, took = threading.Event(), threading.Event()
    look = general.storage._take

    def take() -> Any:
        data = look()
        looking.set()
        return data

    monkeypatch.setattr(general.storage, "_take", take)

    def consume() -> None:
        while general.dequeue() is None:
            pass
        took.set()

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    assert looking.wait(30)
    command("true")
    assert took.wait(30)
    consumer.join()


# --- hostile rows -------------------------------------------------------------------------------


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def crafted(mission_id: str, **fields: Any) -> bytes:
    """A wake-up of this mission with some fields replaced."""
    message = {"id": f"{mission_id}.1", "name": TASK_NAME, "args": [mission_id, 1], **fields}
    return json.dumps({"message": message}).encode()


HOSTILE = {
    "junk": lambda target, folder: b"\x00\xffjunk",
    "empty": lambda target, folder: b"",
    "pickle": lambda target, folder: pickle.dumps(Bomb(folder / "ran")),
    "text instead of a blob": lambda target, folder: crafted(target).decode(),
    "a number instead of a blob": lambda target, folder: 7,
    "an unknown task": lambda target, folder: crafted(target, name="os.system"),
    "wrong arguments": lambda target, folder: crafted(target, args=[target, 2]),
    "keyword arguments": lambda target, folder: crafted(target, kwargs={"attempt": 1}),
    "oversized": lambda target, folder: crafted(target) + b" " * 10_000_000,
    "nested JSON": lambda target, folder: b'{"message":' * 5_000 + b"1" + b"}" * 5_000,
    "two things at once": lambda target, folder: b'{"value": 1, ' + crafted(target)[1:],
    "an expiry that cannot be read": lambda target, folder: crafted(target, expires_resolved={"at": "soon"}),
    "a pipeline": lambda target, folder: crafted(target, on_complete={"id": "x", "name": "os.system"}),
    "a mission of another VP": lambda target, folder: crafted(target),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_row_is_removed_and_reported_and_later_rows_still_come(
    what: str, general: SqliteHuey, ran: list[tuple[str, int]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = command("true", vp_id=CODER)["mission_id"]
    data = HOSTILE[what](target, tmp_path)
    sql("INSERT INTO task (queue, data, priority) VALUES (?, ?, 100)", GENERAL, data)
    ((row_id,),) = sql("SELECT id FROM task WHERE queue = ?", GENERAL)
    mission_id = command("true")["mission_id"]
    with caplog.at_level(logging.ERROR):
        assert work_off(general) == [f"{mission_id}.1"]
    assert ran == [(mission_id, 1)], "nothing else was executed"
    assert not (tmp_path / "ran").exists()
    (reported,) = Event.select().where(Event.type == EventType.MESSAGE_REJECTED)
    assert (reported.vp_id, reported.mission_id) == (GENERAL, None)
    assert reported.data["queue_row"] == row_id
    assert reported.data["reason"]
    assert "removed unexecuted" in caplog.text
    assert sql("SELECT id FROM task WHERE queue = ?", GENERAL) == []
    assert status(target) == "queued"


def test_a_report_of_a_hostile_row_repeats_none_of_its_text(
    general: SqliteHuey, caplog: pytest.LogCaptureFixture
) -> None:
    sql("INSERT INTO task (queue, data, priority) VALUES (?, ?, 0)", GENERAL, b'{"message": "\x1b[2J CANARY"}')
    assert work_off(general) == []
    (reported,) = Event.select().where(Event.type == EventType.MESSAGE_REJECTED)
    assert "CANARY" not in json.dumps(reported.data) + caplog.text


def test_a_wake_up_of_a_mission_that_is_gone_is_harmless(general: SqliteHuey, ran: list[tuple[str, int]]) -> None:
    nobody = "m-0000000000-nobody"
    sql("INSERT INTO task (queue, data, priority) VALUES (?, ?, 0)", GENERAL, crafted(nobody))
    work_off(general)
    assert ran == [(nobody, 1)], "the body is asked, and the ledger will not let it claim"
    assert transitions.expected_attempt(nobody) is None


# --- results ------------------------------------------------------------------------------------


def finished(how: str) -> str:
    """The wake-up id of an attempt that ended so (or runs)."""
    mission_id = command("true")["mission_id"]
    claim = claimed(mission_id)
    with database.write_transaction() as tx:
        if how == "completed":
            transitions.complete(tx, claim, Ending(exit_code=0, result="a poem"))
        elif how == "failed":
            failure = Failure(FailureCode.EXIT_NONZERO, "it exited with status 3", 3, "log")
            transitions.fail(tx, claim, failure, Ending(exit_code=3), backoff_seconds=0)
        elif how == "cancelled":
            transitions.cancelled(tx, claim, Ending())
        elif how == "released":
            transitions.release(tx, claim, Ending(), max_releases=3, backoff_seconds=0)
    return wake_up_id(mission_id, 1)


def test_a_completed_attempts_result_is_the_ledgers(general: SqliteHuey) -> None:
    key = finished("completed")
    expected = {"mission_id": key.split(".")[0], "attempt": 1, "outcome": "completed", "result": "a poem"}
    assert general.result(key) == expected
    assert general.result(key) == expected, "reading does not consume it"
    assert general.result(key, blocking=True, timeout=0) == expected


@pytest.mark.parametrize("how", ["failed", "cancelled", "released"])
def test_an_attempt_that_did_not_complete_raises_what_the_ledger_knows(general: SqliteHuey, how: str) -> None:
    key = finished(how)
    with pytest.raises(TaskException) as raised:
        general.result(key)
    assert raised.value.metadata["outcome"] == how
    assert raised.value.metadata["mission_id"] == key.split(".")[0]
    if how == "failed":
        assert raised.value.metadata["error"] == "it exited with status 3"
        assert raised.value.metadata["failure"]["code"] == "exit_nonzero"


@pytest.mark.parametrize("how", ["running", "not begun", "unknown"])
def test_what_has_not_ended_has_no_result_yet(general: SqliteHuey, how: str) -> None:
    key = {
        "running": lambda: finished("running"),
        "not begun": lambda: wake_up_id(command("true")["mission_id"], 1),
        "unknown": lambda: "m-0000000000-nobody.1",
    }[how]()
    assert general.result(key) is None
    assert not general.storage.has_data_for_key(key)
    assert general.storage.wait_result(key, timeout=0) is False


def test_waiting_for_a_result_ends_with_the_attempt(general: SqliteHuey) -> None:
    mission_id = command("true")["mission_id"]
    claim = claimed(mission_id)
    results: list[Any] = []
    waiter = threading.Thread(
        target=lambda: results.append(general.result(f"{mission_id}.1", blocking=True, timeout=60))
    )
    waiter.start()
    with database.write_transaction() as tx:
        transitions.complete(tx, claim, Ending(exit_code=0))
    waiter.join()
    assert results[0]["outcome"] == "completed"


def test_a_completed_mission_of_two_attempts_has_a_result_for_each(general: SqliteHuey) -> None:
    key = finished("released")
    mission_id = key.split(".")[0]
    claim = claimed(mission_id)
    with database.write_transaction() as tx:
        transitions.complete(tx, claim, Ending(exit_code=0))
    assert general.result(f"{mission_id}.2")["outcome"] == "completed"
    with pytest.raises(TaskException):
        general.result(key)


def test_results_are_never_stored(general: SqliteHuey) -> None:
    general.put_result("some-key", {"value": 1})
    command("true")
    work_off(general)
    assert kv() == []


# --- revocations --------------------------------------------------------------------------------


def test_cancelling_a_queued_mission_revokes_its_wake_up_which_then_takes_the_revocation_with_it(
    general: SqliteHuey, ran: list[tuple[str, int]]
) -> None:
    mission_id = command("true")["mission_id"]
    assert ok(tools.vp_cancel_mission(mission_id=mission_id))["changed"]
    assert kv() == [f"r:{mission_id}.1"]
    assert general.is_revoked(f"{mission_id}.1")
    assert work_off(general) == [f"{mission_id}.1"]
    assert ran == []
    assert (kv(), rows()) == ([], [])
    assert events(mission_id) == [EventType.DISPATCHED, EventType.CANCELLED]


def test_cancelling_what_has_no_row_revokes_nothing(general: SqliteHuey) -> None:
    later = clock.as_text(clock.now() + timedelta(hours=1))
    mission_id = command("true", not_before=later)["mission_id"]
    assert ok(tools.vp_cancel_mission(mission_id=mission_id))["changed"]
    assert kv() == []


def test_a_rolled_back_cancel_revokes_nothing(general: SqliteHuey, monkeypatch: pytest.MonkeyPatch) -> None:
    mission_id = command("true")["mission_id"]
    revoke = queue.revoke

    def revoke_and_fail(mission: Any) -> None:
        revoke(mission)
        raise RuntimeError("after the revocation")

    monkeypatch.setattr(queue, "revoke", revoke_and_fail)
    refused(tools.vp_cancel_mission(mission_id=mission_id), "internal_error")
    assert kv() == []
    assert status(mission_id) == "queued"


def test_a_revocation_can_be_taken_back(general: SqliteHuey, ran: list[tuple[str, int]]) -> None:
    mission_id = command("true")["mission_id"]
    general.revoke_by_id(f"{mission_id}.1")
    assert general.restore_by_id(f"{mission_id}.1")
    work_off(general)
    assert ran == [(mission_id, 1)]


@pytest.fixture
def swept(general: SqliteHuey) -> Iterator[Any]:
    def sweep() -> int:
        with database.write_transaction():
            return storage.sweep_revocations(10)

    return sweep


def test_a_revocation_whose_message_is_gone_is_swept_when_its_mission_has_ended(
    general: SqliteHuey, swept: Any
) -> None:
    mission_id = command("true")["mission_id"]
    ok(tools.vp_cancel_mission(mission_id=mission_id))
    assert not storage.has_stale_revocations(), "its message is still there to meet it"
    assert swept() == 0
    sql("DELETE FROM task")
    assert storage.has_stale_revocations()
    assert swept() == 1
    assert kv() == []
    assert not storage.has_stale_revocations()


def test_only_stale_revocations_are_swept(general: SqliteHuey, swept: Any) -> None:
    live = command("true")["mission_id"]
    general.revoke_by_id(f"{live}.1")
    sql("DELETE FROM task")  # of a mission that has not ended: the keeper will write its row again
    general.storage.put_data("lock", b"x")
    general.revoke_by_id("not-ours")
    assert swept() == 0
    assert len(kv()) == 3


def test_hueys_schedule_is_looked_at_without_the_write_lock(
    general: SqliteHuey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> None:
        raise AssertionError("a write transaction for an empty schedule")

    monkeypatch.setattr(database, "write_transaction", never)
    assert general.read_schedule() == []


def test_a_lock_of_hueys_is_held_once(general: SqliteHuey) -> None:
    # With the plain SqliteStorage this raised cysqlite's own IntegrityError.
    assert general.put_if_empty("lock", "1")
    assert not general.put_if_empty("lock", "1")
