"""What each of Huey's signals means for a mission, and the lifecycle sent through Huey after each commit."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import Any

import pytest
from huey import SqliteHuey
from huey import signals as S
from huey.exceptions import CancelExecution, RateLimitExceeded, RetryTask, TaskLockedException, TaskTimeout

from tests.harness import GENERAL, Home, command, events, ok, status
from vp_queue import clock, missions, tools
from vp_queue.contracts import EventType
from vp_queue.ledger import database, transitions
from vp_queue.ledger.transitions import Claim, Ending, WorkerIdentity
from vp_queue.queue import huey as queue
from vp_queue.queue.signals import on_interrupted

CONSTANTS = {name: getattr(S, name) for name in dir(S) if name.startswith("SIGNAL_")}


class Body:
    """The task's body: notes its calls and, if told to, raises."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.raises: BaseException | None = None

    def __call__(self, mission_id: str, attempt: int) -> None:
        self.calls.append((mission_id, attempt))
        if self.raises is not None:
            raise self.raises


@pytest.fixture
def body() -> Body:
    return Body()


@pytest.fixture
def huey(home: Home, body: Body, monkeypatch: pytest.MonkeyPatch) -> SqliteHuey:
    """The Huey of a consumer; its dequeue does not wait."""
    monkeypatch.setattr(queue, "_hueys", {})
    monkeypatch.setattr(queue, "_tasks", {})
    missions.ready()
    made = queue.consumer_huey(GENERAL, body, 1)
    monkeypatch.setattr("vp_queue.queue.storage.DEQUEUE_WAIT_SECONDS", 0.0)
    return made


@pytest.fixture
def sent(huey: SqliteHuey) -> list[str]:
    """Every signal sent, Huey's own and the lifecycle's, in order."""
    names: list[str] = []
    huey.signal()(lambda signal, task, *rest: names.append(signal))
    return names


def work_off(huey: SqliteHuey) -> None:
    while (task := huey.dequeue()) is not None:
        huey.execute(task)


def claimed(mission_id: str) -> Claim:
    worker = WorkerIdentity("w-1", "host", clock.host_identity())
    with database.write_transaction() as tx:
        landed = transitions.claim(tx, mission_id, 1, worker, 30)
    assert landed is not None
    return landed[1]


def queue_rows() -> int:
    return int(database.current().db.execute_sql("SELECT COUNT(*) FROM task").fetchone()[0])


def unchanged(mission_id: str) -> bool:
    """Whether the mission stands as it was dispatched, ready for the keeper to wake it again."""
    return status(mission_id) == "queued" and events(mission_id) == [EventType.DISPATCHED]


def test_each_signal_of_huey_has_its_test() -> None:
    tests = dir(sys.modules[__name__])
    missing = [name for name in CONSTANTS if not any(test.startswith(f"test_{name.lower()}_") for test in tests)]
    assert missing == []
    assert len(CONSTANTS) == 13


# --- Huey → ledger: those that drive a transition ---------------------------------------------


def test_signal_revoked_cancels_the_mission_whose_wake_up_was_revoked_by_hand(
    huey: SqliteHuey, sent: list[str], body: Body
) -> None:
    mission_id = command("true")["mission_id"]
    huey.revoke_by_id(f"{mission_id}.1")
    work_off(huey)
    assert S.SIGNAL_REVOKED in sent
    assert body.calls == []
    mission = ok(tools.vp_get_mission(mission_id=mission_id))["mission"]
    assert (mission["status"], mission["cancel_requested"]) == ("cancelled", True)
    assert events(mission_id) == [EventType.DISPATCHED, EventType.CANCELLED]


def test_signal_revoked_of_an_old_attempt_says_nothing_about_the_next(huey: SqliteHuey, sent: list[str]) -> None:
    mission_id = command("true")["mission_id"]
    old = huey.dequeue()
    claim = claimed(mission_id)
    with database.write_transaction() as tx:
        transitions.release(tx, claim, Ending(), max_releases=3, backoff_seconds=0)
    huey.revoke_by_id(f"{mission_id}.1")
    huey.execute(old)
    assert S.SIGNAL_REVOKED in sent
    assert status(mission_id) == "queued"
    assert not ok(tools.vp_get_mission(mission_id=mission_id))["mission"]["cancel_requested"]


def test_signal_revoked_confirms_a_cancel_without_a_second_event(huey: SqliteHuey, sent: list[str]) -> None:
    mission_id = command("true")["mission_id"]
    ok(tools.vp_cancel_mission(mission_id=mission_id))
    work_off(huey)
    assert S.SIGNAL_REVOKED in sent
    assert events(mission_id) == [EventType.DISPATCHED, EventType.CANCELLED]


def test_signal_canceled_by_a_pre_execute_hook_cancels_the_mission(
    huey: SqliteHuey, sent: list[str], body: Body
) -> None:
    @huey.pre_execute()
    def refuse(task: Any) -> None:
        raise CancelExecution

    mission_id = command("true")["mission_id"]
    work_off(huey)
    assert S.SIGNAL_CANCELED in sent
    assert body.calls == []
    assert status(mission_id) == "cancelled"


def test_signal_canceled_from_within_a_running_attempt_means_nothing(
    huey: SqliteHuey, sent: list[str], body: Body
) -> None:
    mission_id = command("true")["mission_id"]
    task = huey.dequeue()
    claimed(mission_id)
    body.raises = CancelExecution()
    huey.execute(task)
    assert S.SIGNAL_CANCELED in sent
    assert status(mission_id) == "running"
    assert events(mission_id) == [EventType.DISPATCHED, EventType.STARTED]


def test_signal_expired_expires_the_mission(huey: SqliteHuey, sent: list[str], body: Body) -> None:
    class Later(clock.SystemClock):
        def now(self) -> datetime:
            return super().now() + timedelta(hours=2)

    soon = clock.as_text(clock.now() + timedelta(hours=1))
    mission_id = command("true", expires_at=soon)["mission_id"]
    task = huey.dequeue()
    with clock.use(Later()):
        huey.execute(task, datetime.now() + timedelta(days=2))  # noqa: DTZ005  Huey's own times are naive
    assert S.SIGNAL_EXPIRED in sent
    assert body.calls == []
    assert status(mission_id) == "expired"


def test_signal_expired_of_a_clock_that_differs_does_not_expire_early(huey: SqliteHuey, sent: list[str]) -> None:
    soon = clock.as_text(clock.now() + timedelta(hours=1))
    mission_id = command("true", expires_at=soon)["mission_id"]
    huey.execute(huey.dequeue(), datetime.now() + timedelta(days=2))  # noqa: DTZ005
    assert S.SIGNAL_EXPIRED in sent
    assert unchanged(mission_id), "the ledger's own clock decides; the keeper will wake it again"


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
def test_signal_expired_is_not_sent_early_in_any_zone(
    huey: SqliteHuey, sent: list[str], body: Body, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        soon = clock.as_text(clock.now() + timedelta(minutes=5))
        mission_id = command("true", expires_at=soon)["mission_id"]
        work_off(huey)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert S.SIGNAL_EXPIRED not in sent
    assert body.calls == [(mission_id, 1)]


def test_signal_interrupted_lets_the_worker_end_what_it_runs(huey: SqliteHuey, body: Body) -> None:
    interrupted: list[bool] = []
    on_interrupted(huey, lambda: interrupted.append(True))
    mission_id = command("true")["mission_id"]
    task = huey.dequeue()
    huey._tasks_in_flight.add(task)
    huey.notify_interrupted_tasks()  # what a consumer's main thread does on SIGTERM
    assert interrupted == [True]
    assert unchanged(mission_id), "the worker releases; the signal itself writes nothing"


# --- Huey → ledger: those that mean nothing for a mission -------------------------------------


def test_signal_enqueued_comes_before_the_row_and_means_nothing(huey: SqliteHuey) -> None:
    rows: list[int] = []
    huey.signal(S.SIGNAL_ENQUEUED)(lambda signal, task: rows.append(queue_rows()))
    mission_id = command("true")["mission_id"]
    assert rows == [0]
    assert unchanged(mission_id)


def test_signal_enqueued_is_no_proof_of_a_dispatch(
    huey: SqliteHuey, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the transaction fails after it")

    monkeypatch.setattr(transitions, "accept", broken)
    tools.vp_dispatch_mission(vp_id=GENERAL, objective="x")
    assert S.SIGNAL_ENQUEUED in sent
    assert EventType.DISPATCHED not in sent
    assert ok(tools.vp_list_missions())["missions"] == []


def test_signal_executing_does_not_make_a_mission_running(huey: SqliteHuey, sent: list[str], body: Body) -> None:
    mission_id = command("true")["mission_id"]
    work_off(huey)
    assert S.SIGNAL_EXECUTING in sent
    assert body.calls == [(mission_id, 1)]
    assert unchanged(mission_id), "only a claim makes it running"


def test_signal_complete_does_not_complete_a_mission(huey: SqliteHuey, sent: list[str]) -> None:
    mission_id = command("true")["mission_id"]
    work_off(huey)
    assert sent[-1] == S.SIGNAL_COMPLETE
    assert unchanged(mission_id)


def test_signal_error_does_not_fail_a_mission(huey: SqliteHuey, sent: list[str], body: Body) -> None:
    body.raises = RuntimeError("a bug in the worker")
    mission_id = command("true")["mission_id"]
    work_off(huey)
    assert S.SIGNAL_ERROR in sent
    assert S.SIGNAL_RETRYING not in sent, "retries are the ledger's, never Huey's"
    assert unchanged(mission_id)
    assert queue_rows() == 0


def test_signal_locked_means_nothing(huey: SqliteHuey, sent: list[str], body: Body) -> None:
    body.raises = TaskLockedException("held")
    mission_id = command("true")["mission_id"]
    work_off(huey)
    assert S.SIGNAL_LOCKED in sent
    assert unchanged(mission_id)


def test_signal_rate_limited_means_nothing(huey: SqliteHuey, sent: list[str], body: Body) -> None:
    body.raises = RateLimitExceeded("key", 1, False)
    mission_id = command("true")["mission_id"]
    work_off(huey)
    assert S.SIGNAL_RATE_LIMITED in sent
    assert unchanged(mission_id)


def test_signal_timeout_means_nothing(huey: SqliteHuey, sent: list[str], body: Body) -> None:
    body.raises = TaskTimeout("too long")  # time limits are the worker's; Huey's do nothing in threads
    mission_id = command("true")["mission_id"]
    work_off(huey)
    assert S.SIGNAL_TIMEOUT in sent
    assert unchanged(mission_id)


def test_signal_retrying_is_no_attempt_and_the_row_it_makes_is_a_harmless_duplicate(
    huey: SqliteHuey, sent: list[str], body: Body
) -> None:
    body.raises = RetryTask()
    mission_id = command("true")["mission_id"]
    huey.execute(huey.dequeue())
    assert S.SIGNAL_RETRYING in sent
    assert unchanged(mission_id)
    body.raises = None
    work_off(huey)
    assert body.calls == [(mission_id, 1), (mission_id, 1)]


def test_signal_scheduled_means_nothing(huey: SqliteHuey, sent: list[str], body: Body) -> None:
    body.raises = RetryTask(delay=3600)
    mission_id = command("true")["mission_id"]
    work_off(huey)
    assert S.SIGNAL_SCHEDULED in sent
    assert unchanged(mission_id), "due times live in the ledger"


@pytest.mark.parametrize("signal", sorted(set(CONSTANTS.values())))
def test_no_signal_of_a_foreign_task_touches_a_mission(huey: SqliteHuey, signal: str) -> None:
    from huey.api import Task

    on_interrupted(huey, lambda *_: pytest.fail("interrupt of a task that is not ours"))
    mission_id = command("true")["mission_id"]
    for task_id in ("some-uuid", mission_id, f"{mission_id}.0", f"{mission_id}.7"):
        if task_id.endswith(".7") and signal == S.SIGNAL_INTERRUPTED:
            continue
        huey._emit(signal, Task(id=task_id))
    assert unchanged(mission_id)


# --- ledger → Huey ----------------------------------------------------------------------------


def test_each_lifecycle_event_is_sent_under_its_own_name_with_its_task_and_data(huey: SqliteHuey) -> None:
    heard: list[tuple[str, str, dict[str, Any]]] = []
    for name in EventType:
        huey.signal(str(name))(lambda signal, task, event: heard.append((signal, task.id, event)))
    mission_id = command("true")["mission_id"]
    claim = claimed(mission_id)
    with database.write_transaction() as tx:
        transitions.complete(tx, claim, Ending(exit_code=0))
    assert [(signal, task_id) for signal, task_id, _ in heard] == [
        ("mission.dispatched", f"{mission_id}.0"),
        ("mission.started", f"{mission_id}.1"),
        ("mission.completed", f"{mission_id}.1"),
    ]
    stored = ok(tools.vp_get_mission(mission_id=mission_id))["events"]
    assert [event for _, _, event in heard] == stored, "the handler gets the event as the feed shows it"


def test_a_handler_hears_of_completion_after_the_commit(huey: SqliteHuey) -> None:
    seen: list[str] = []

    @huey.signal("mission.completed")
    def finished(signal: str, task: Any, event: dict[str, Any]) -> None:
        seen.append(status(event["mission_id"]))

    claim = claimed(command("true")["mission_id"])
    with database.write_transaction() as tx:
        transitions.complete(tx, claim, Ending(exit_code=0))
        assert seen == []
    assert seen == ["completed"]


def test_a_rollback_sends_nothing(huey: SqliteHuey, sent: list[str]) -> None:
    claim = claimed(command("true")["mission_id"])
    sent.clear()

    def broken() -> None:
        with database.write_transaction() as tx:
            transitions.complete(tx, claim, Ending(exit_code=0))
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert sent == []
    assert status(claim.mission_id) == "running"


def test_a_failing_handler_costs_nothing(huey: SqliteHuey, caplog: pytest.LogCaptureFixture) -> None:
    after: list[str] = []

    @huey.signal("mission.dispatched")
    def broken(signal: str, task: Any, event: dict[str, Any]) -> None:
        raise RuntimeError("a handler's bug")

    huey.signal("mission.dispatched")(lambda signal, task, event: after.append(signal))
    mission_id = command("true")["mission_id"]
    assert after == ["mission.dispatched"]
    assert status(mission_id) == "queued"
    assert "a handler's bug" in caplog.text


def test_a_handler_may_dispatch_the_next_mission(huey: SqliteHuey) -> None:
    made: list[str] = []

    @huey.signal("mission.cancelled")
    def again(signal: str, task: Any, event: dict[str, Any]) -> None:
        made.append(ok(tools.vp_retry_mission(mission_id=event["mission_id"]))["mission"]["mission_id"])

    mission_id = command("true")["mission_id"]
    ok(tools.vp_cancel_mission(mission_id=mission_id))
    assert status(made[0]) == "queued"


def test_events_of_a_vp_are_sent_too(huey: SqliteHuey) -> None:
    heard: list[tuple[str, str, str]] = []
    huey.signal("vp.paused")(lambda signal, task, event: heard.append((signal, task.id, event["data"]["reason"])))
    missions.pause(GENERAL, "lunch")
    assert heard == [("vp.paused", GENERAL, "lunch")]


def test_a_consumers_huey_is_made_once_per_process(huey: SqliteHuey, body: Body) -> None:
    with pytest.raises(RuntimeError, match="already has a Huey"):
        queue.consumer_huey(GENERAL, body, 1)
    assert queue.huey_for(GENERAL) is huey


def test_the_task_in_a_process_that_only_enqueues_runs_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(queue, "_hueys", {})
    monkeypatch.setattr(queue, "_tasks", {})
    mission_id = command("true")["mission_id"]
    enqueuer = queue.huey_for(GENERAL)
    monkeypatch.setattr("vp_queue.queue.storage.DEQUEUE_WAIT_SECONDS", 0.0)
    work_off(enqueuer)
    assert "only enqueues" in caplog.text
    assert unchanged(mission_id)
