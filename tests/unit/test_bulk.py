"""Cancel and retry on all that match: what was meant and nothing else, once, and on where it stopped."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest

from tests import ended, oracle
from tests.ended import HOUR
from tests.harness import CODER, GENERAL, Home, ok, shell, status, until
from vp_queue import missions, missions_bulk, origin, tools
from vp_queue.contracts import Status, limits
from vp_queue.contracts.overview import BulkAnswer
from vp_queue.contracts.selections import CancelMatching, RetryMatching
from vp_queue.errors import LedgerBusy, NotRetryableState, ValidationError
from vp_queue.ledger import database, fleet, transitions
from vp_queue.ledger.models import Mission


@pytest.fixture(autouse=True)
def _ready(home: Home) -> None:
    missions.ready()


def newest() -> str:
    found = missions_bulk.newest_mission_id()
    assert found is not None
    return found


def cancel(**given: Any) -> BulkAnswer:
    return missions_bulk.cancel_matching(CancelMatching(**{"through_mission_id": newest(), **given}))


def retry(**given: Any) -> BulkAnswer:
    return missions_bulk.retry_matching(RetryMatching(**{"through_mission_id": newest(), "token": "t", **given}))


def retries(mission_id: str) -> int:
    with database.read_transaction():
        return Mission.select().where(Mission.retry_of == mission_id).count()


def test_all_that_match_are_cancelled_queued_ones_at_once_and_running_ones_when_they_are_dead(home: Home) -> None:
    home.consumer()
    running = shell("sleep 60")["mission_id"]
    until(lambda: status(running) == "running", "it runs")
    queued = shell("true")["mission_id"]
    other = shell("true", vp_id=CODER)["mission_id"]
    answer = cancel(vp_id=GENERAL, reason="enough")
    assert (answer.matched, answer.changed, answer.left, answer.errors) == (2, 2, 0, [])
    assert status(queued) == "cancelled"
    until(lambda: status(running) == "cancelled", "its program is dead")
    assert status(other) == "queued"
    again = cancel(vp_id=GENERAL)
    assert (again.matched, again.changed) == (0, 0)
    oracle.check(home.database, home.path)


def test_what_is_dispatched_after_the_decision_is_left_alone() -> None:
    before = shell("true")["mission_id"]
    through = newest()
    later = shell("true")["mission_id"]
    assert cancel(through_mission_id=through).changed == 1
    assert (status(before), status(later)) == ("cancelled", "queued")


def test_the_filters_are_those_of_a_list() -> None:
    wanted = shell("true", source_session_id="s-1")["mission_id"]
    others = [shell("true", source_session_id="s-2")["mission_id"], shell("true")["mission_id"]]
    with pytest.raises(ValidationError):
        tools.parsed(CancelMatching, {"through_mission_id": newest(), "unknown": 1})
    assert cancel(source_session_id="s-1", status="queued", text="command").changed == 1
    assert status(wanted) == "cancelled"
    assert {status(each) for each in others} == {"queued"}
    assert cancel(status="completed").matched == 0  # nothing that ended can be cancelled


def test_what_began_to_run_meanwhile_is_not_ended_as_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [shell("true")["mission_id"] for _ in range(3)]
    really = missions.cancel

    def one_is_claimed_first(request: Any, **more: Any) -> Any:
        if request.mission_id == ids[0]:
            with database.write_transaction() as tx:
                assert transitions.claim(tx, ids[1], 1, fleet.register(tx, GENERAL, ""), 30)
        return really(request, **more)

    monkeypatch.setattr(missions, "cancel", one_is_claimed_first)
    answer = cancel(status="queued")
    assert (answer.matched, answer.changed, answer.left, answer.errors) == (3, 2, 0, [])
    assert [status(each) for each in ids] == ["cancelled", "running", "cancelled"]
    assert not ok(tools.vp_get_mission(mission_id=ids[1]))["mission"]["cancel_requested"]
    assert cancel(status=["queued", "running"]).changed == 1


def test_a_call_does_so_many_and_the_next_goes_on() -> None:
    ids = [shell("true")["mission_id"] for _ in range(5)]
    through = newest()
    first = cancel(limit=2, through_mission_id=through)
    assert (first.matched, first.changed, first.left, first.continue_after) == (5, 2, 3, ids[1])
    second = cancel(limit=9, through_mission_id=through, after_mission_id=first.continue_after)
    assert (second.matched, second.changed, second.left) == (3, 3, 0)
    assert {status(each) for each in ids} == {"cancelled"}


def test_a_call_takes_so_long_and_does_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BULK_SECONDS", 0.0)
    for _ in range(3):
        shell("true")
    answer = cancel()
    assert (answer.changed, answer.left) == (1, 2)


def test_all_that_did_not_complete_is_dispatched_again_in_its_order() -> None:
    ids = [ended.mission(HOUR, each) for each in (Status.FAILED, Status.CANCELLED, Status.EXPIRED)]
    ended.mission(HOUR, Status.COMPLETED)
    answer = retry(guidance="Use the other API")
    assert (answer.matched, answer.changed, answer.left) == (3, 3, 0)
    made = [ok(tools.vp_get_mission(mission_id=each))["mission"] for each in answer.retried]
    assert [each["retry_of"] for each in made] == ids
    assert {each["status"] for each in made} == {"queued"}
    assert answer.retried == sorted(answer.retried)


def test_what_was_retried_already_is_not_retried_again() -> None:
    failed = ended.mission(HOUR, Status.FAILED)
    ok(tools.vp_retry_mission(mission_id=failed))
    assert retry().matched == 0
    assert retries(failed) == 1


def test_pressing_twice_at_once_retries_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ended.many(3, HOUR, Status.FAILED)
    through = newest()
    both = threading.Barrier(2)
    found_before, answers = missions.retry, []

    def retry_together(request: Any) -> Any:
        both.wait(30)  # both have found the same missions, which nobody retried yet
        return found_before(request)

    monkeypatch.setattr(missions, "retry", retry_together)
    pressed = [
        threading.Thread(target=lambda: answers.append(retry(through_mission_id=through, token="once")))
        for _ in range(2)
    ]
    for each in pressed:
        each.start()
    for each in pressed:
        each.join(60)
    assert sorted(answer.matched for answer in answers) == [3, 3]
    assert sum(answer.changed for answer in answers) == 3
    assert [retries(each) for each in ids] == [1, 1, 1]


def test_with_two_tokens_it_would_be_retried_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    # The control of the test above: it is the token that holds.
    failed = ended.mission(HOUR, Status.FAILED)
    both, found_before = threading.Barrier(2), missions.retry

    def retry_together(request: Any) -> Any:
        both.wait(30)
        return found_before(request)

    monkeypatch.setattr(missions, "retry", retry_together)
    pressed = [threading.Thread(target=retry, kwargs={"token": token}) for token in ("a", "b")]
    for each in pressed:
        each.start()
    for each in pressed:
        each.join(60)
    assert retries(failed) == 2


def test_one_that_is_refused_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ended.mission(2 * HOUR, Status.FAILED, vp_id="vp.gone")
    good = ended.mission(HOUR, Status.FAILED)
    answer = retry()
    assert (answer.matched, answer.changed, answer.failed, answer.left) == (2, 1, 1, 0)
    assert answer.errors[0].code == "unknown_vp"
    assert retries(good) == 1


def test_a_ledger_in_trouble_stops_it_and_it_goes_on_later(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [shell("true")["mission_id"] for _ in range(3)]
    really = missions.cancel

    def busy_at_the_second(request: Any, **more: Any) -> Any:
        if request.mission_id == ids[1]:
            raise LedgerBusy("busy", retry_after_seconds=0.5)
        return really(request, **more)

    monkeypatch.setattr(missions, "cancel", busy_at_the_second)
    answer = cancel()
    assert (answer.changed, answer.left, answer.continue_after) == (1, 2, ids[0])
    with pytest.raises(LedgerBusy):  # it got nowhere, and says so
        cancel(after_mission_id=answer.continue_after)
    monkeypatch.setattr(missions, "cancel", really)
    assert cancel(after_mission_id=answer.continue_after).changed == 2


def test_only_so_many_errors_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> Any:
        raise NotRetryableState("no")

    monkeypatch.setattr(missions, "retry", refuse)
    ended.many(limits.BULK_ERRORS + 5, HOUR, Status.FAILED)
    answer = retry()
    assert (len(answer.errors), answer.failed) == (limits.BULK_ERRORS, limits.BULK_ERRORS + 5)


def test_each_event_tells_who_pressed() -> None:
    mission_id = shell("true")["mission_id"]
    with origin.acting("dashboard", "ops"):
        cancel()
    event = ok(tools.vp_get_mission(mission_id=mission_id))["events"][-1]
    assert event["data"]["by"] == {"face": "dashboard", "actor": "ops"}


def test_counting_changes_nothing() -> None:
    shell("true")
    request = CancelMatching(through_mission_id=newest())
    assert missions_bulk.count_matching(request) == missions_bulk.count_matching(request) == 1
    failed = ended.mission(timedelta(0), Status.FAILED)
    assert missions_bulk.count_matching(RetryMatching(through_mission_id=newest(), token="t")) == 1
    assert retries(failed) == 0
