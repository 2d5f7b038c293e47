"""The state machine: every edge lands, every other is refused, and what each change writes beside the status."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import oracle
from vp_queue import clock
from vp_queue.contracts import EDGES, FINAL_FAILURES, TERMINAL, EventType, FailureCode, Outcome, Status, limits
from vp_queue.ledger import database, leases, queries, transitions
from vp_queue.ledger.database import Transaction
from vp_queue.ledger.events import record_vp_event
from vp_queue.ledger.models import MODELS, Artifact, Attempt, Event, Mission
from vp_queue.ledger.transitions import Claim, Ending, Failure, NewMission, WorkerIdentity

VP = "vp.general.primary"
START = datetime(2030, 1, 1, 12, tzinfo=UTC)
BY = {"face": "python", "actor": None}
HOUR = timedelta(hours=1)
DONE = Ending(exit_code=0)
BROKEN = Failure(FailureCode.EXIT_NONZERO, "it exited with status 3", 3)


class WallClock(clock.SystemClock):
    """A wall clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.instant = START

    def now(self) -> datetime:
        return self.instant


@pytest.fixture
def wall() -> Iterator[WallClock]:
    stopped = WallClock()
    with clock.use(stopped):
        yield stopped


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, wall: WallClock) -> Path:
    return database.open_ledger(tmp_path / "vp_state.db").path


@pytest.fixture(autouse=True)
def announced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The types of all events handed to observers, in order."""
    types: list[str] = []
    monkeypatch.setattr(database, "_observers", [lambda events: types.extend(event["type"] for event in events)])
    return types


def accepted(**fields: Any) -> str:
    """The id of a new queued mission that may start within the hour."""
    new = NewMission(
        **{
            "mission_id": clock.new_mission_id(),
            "vp_id": VP,
            "mission_type": "task",
            "objective": "a poem",
            "constraints": {},
            "budget": {},
            "metadata": {},
            "priority": 0,
            "max_attempts": 1,
            "request_digest": "d",
            "expires_at": clock.now() + HOUR,
            **fields,
        }
    )
    with database.write_transaction() as tx:
        return transitions.accept(tx, new).id


def claimed(mission_id: str, worker: str = "w-1") -> Claim:
    """The claim of a queued mission's next attempt."""
    with database.write_transaction() as tx:
        attempt = transitions.expected_attempt(mission_id)
        assert attempt is not None
        landed = transitions.claim(tx, mission_id, attempt, WorkerIdentity(worker, "host", clock.host_identity()), 30)
    assert landed is not None
    return landed[1]


def suspect(claim: Claim) -> leases.Suspect:
    return leases.Suspect(claim, clock.host_identity(), None, None, True, HOUR)


def until_due(mission_id: str, wall: WallClock) -> None:
    """Let the wall clock reach the time at which a queued mission may start."""
    wall.instant = max(wall.instant, row(mission_id).due_at)


def row(mission_id: str) -> Mission:
    with database.read_transaction():
        return queries.mission_row(mission_id)


def attempt_row(claim: Claim) -> Attempt:
    return Attempt.get(Attempt.mission == claim.mission_id, Attempt.number == claim.attempt)


def event_rows(mission_id: str) -> list[Event]:
    return list(Event.select().where(Event.mission == mission_id).order_by(Event.seq))


def types(mission_id: str) -> list[str]:
    return [event.type for event in event_rows(mission_id)]


def stored() -> str:
    """Everything in the ledger's tables, to show that nothing was written."""
    return json.dumps(
        [list(model.select().order_by(*model._meta.sorted_fields).tuples()) for model in MODELS], default=str
    )


def write(change: Callable[[Transaction], Any]) -> Any:
    with database.write_transaction() as tx:
        return change(tx)


def ended(mission_id: str, end: Callable[[Transaction, Claim], Any]) -> None:
    """One attempt from its claim to this end."""
    claim = claimed(mission_id)
    write(lambda tx: end(tx, claim))


# --- the state machine --------------------------------------------------------------------------


@dataclass
class Subject:
    """A mission in some state, and the claim that was last good for it."""

    mission_id: str
    claim: Claim
    wall: WallClock

    @property
    def question_id(self) -> str:
        return (row(self.mission_id).question or {"question_id": "q-none"})["question_id"]


Change = Callable[[Transaction, Subject], Any]


def claim_next(tx: Transaction, subject: Subject) -> Any:
    worker = WorkerIdentity("w-2", "host", clock.host_identity())
    return transitions.claim(tx, subject.mission_id, queries.mission_row(subject.mission_id).attempt + 1, worker, 30)


def fail(tx: Transaction, subject: Subject) -> Any:
    return transitions.fail(tx, subject.claim, BROKEN, Ending(), backoff_seconds=1)


def lose(tx: Transaction, subject: Subject) -> Any:
    return transitions.lose(tx, subject.claim, "its worker died", Ending(), backoff_seconds=1)


def release(tx: Transaction, subject: Subject) -> Any:
    return transitions.release(tx, subject.claim, Ending(), max_releases=3, backoff_seconds=1)


def request_cancel(tx: Transaction, subject: Subject) -> Any:
    mission, changed = transitions.request_cancel(tx, subject.mission_id, "not wanted")
    return mission if changed else None


CHANGES: dict[str, Change] = {
    "claim": claim_next,
    "ask": lambda tx, subject: transitions.ask(tx, subject.claim, "which colour?", ["red", "blue"]),
    "answer": lambda tx, subject: transitions.answer(tx, subject.mission_id, subject.question_id, "red"),
    "complete": lambda tx, subject: transitions.complete(tx, subject.claim, DONE),
    "fail": fail,
    "lose": lose,
    "release": release,
    "cancelled": lambda tx, subject: transitions.cancelled(tx, subject.claim, Ending()),
    "request_cancel": request_cancel,
    "expire": lambda tx, subject: transitions.expire(tx, subject.mission_id),
}
QUEUED, RUNNING, NEEDS_INPUT = Status.QUEUED, Status.RUNNING, Status.NEEDS_INPUT
COMPLETED, FAILED, CANCELLED, EXPIRED = TERMINAL

# Change → state → state after it; where a state is missing, the change is refused there.
# "fail" and "lose" have two lines: without and with attempts left.
LANDS: dict[tuple[str, int], dict[Status, Status]] = {
    ("claim", 1): {QUEUED: RUNNING},
    ("ask", 1): {RUNNING: NEEDS_INPUT},
    ("answer", 1): {NEEDS_INPUT: RUNNING},
    ("complete", 1): {RUNNING: COMPLETED, NEEDS_INPUT: COMPLETED},
    ("fail", 1): {RUNNING: FAILED, NEEDS_INPUT: FAILED},
    ("fail", 2): {RUNNING: QUEUED, NEEDS_INPUT: QUEUED},
    ("lose", 1): {RUNNING: FAILED, NEEDS_INPUT: FAILED},
    ("lose", 2): {RUNNING: QUEUED, NEEDS_INPUT: QUEUED},
    ("release", 1): {RUNNING: QUEUED, NEEDS_INPUT: QUEUED},
    ("cancelled", 1): {RUNNING: CANCELLED, NEEDS_INPUT: CANCELLED},
    ("request_cancel", 1): {QUEUED: CANCELLED, RUNNING: RUNNING, NEEDS_INPUT: NEEDS_INPUT},
    ("expire", 1): {QUEUED: EXPIRED},
}
EVENT_OF = {
    ("claim", RUNNING): EventType.STARTED,
    ("ask", NEEDS_INPUT): EventType.NEEDS_INPUT,
    ("answer", RUNNING): EventType.ANSWERED,
    ("complete", COMPLETED): EventType.COMPLETED,
    ("fail", FAILED): EventType.FAILED,
    ("fail", QUEUED): EventType.RETRYING,
    ("lose", FAILED): EventType.FAILED,
    ("lose", QUEUED): EventType.RETRYING,
    ("release", QUEUED): EventType.RELEASED,
    ("cancelled", CANCELLED): EventType.CANCELLED,
    ("request_cancel", CANCELLED): EventType.CANCELLED,
    ("request_cancel", RUNNING): EventType.CANCEL_REQUESTED,
    ("request_cancel", NEEDS_INPUT): EventType.CANCEL_REQUESTED,
    ("expire", EXPIRED): EventType.EXPIRED,
}
WAY_TO: dict[Status, tuple[str, ...]] = {
    QUEUED: (),
    RUNNING: ("claim",),
    NEEDS_INPUT: ("claim", "ask"),
    COMPLETED: ("claim", "complete"),
    FAILED: ("claim", "fail"),
    CANCELLED: ("request_cancel",),
    EXPIRED: ("expire",),
}


def brought_to(status: Status, wall: WallClock, max_attempts: int = 1) -> Subject:
    """A mission in this state, by the shortest way there."""
    mission_id = accepted(max_attempts=1 if status == FAILED else max_attempts)
    subject = Subject(mission_id, Claim(mission_id, VP, 1, "no lease yet"), wall)
    for name in WAY_TO[status]:
        if name == "expire":
            wall.instant += 2 * HOUR
        landed = write(lambda tx, name=name: CHANGES[name](tx, subject))
        if name == "claim":
            subject.claim = landed[1]
    assert row(mission_id).status == status
    return subject


def test_the_table_holds_every_edge_of_the_state_machine_and_no_other() -> None:
    found = {(old, new) for lands in LANDS.values() for old, new in lands.items() if old != new}
    # Completing from needs_input withdraws the question first: two edges in one transaction.
    found.remove((NEEDS_INPUT, COMPLETED))
    assert found == {(old, new) for old, news in EDGES.items() for new in news}


@pytest.mark.parametrize(
    ("name", "max_attempts", "old", "new"),
    [(name, number, old, new) for (name, number), lands in LANDS.items() for old, new in lands.items()],
)
def test_an_edge_lands_with_its_event(
    name: str, max_attempts: int, old: Status, new: Status, wall: WallClock, announced: list[str]
) -> None:
    subject = brought_to(old, wall, max_attempts)
    announced.clear()
    if name == "expire":
        wall.instant += 2 * HOUR
    assert write(lambda tx: CHANGES[name](tx, subject)) is not None
    mission = row(subject.mission_id)
    assert mission.status == new
    assert (mission.finished_at is not None) == (new in TERMINAL)
    assert (mission.due_at is not None) == (new == QUEUED)
    assert (mission.question is not None) == (new == NEEDS_INPUT)
    withdrawn = [EventType.ANSWERED] if (name, old) == ("complete", NEEDS_INPUT) else []
    assert announced == [*withdrawn, EVENT_OF[name, new]]
    assert types(subject.mission_id)[-len(announced) :] == announced
    assert [event.mission_seq for event in event_rows(subject.mission_id)] == list(range(1, mission.events + 1))


@pytest.mark.parametrize(
    ("name", "old"),
    [(name, old) for name in CHANGES for old in Status if old not in LANDS[name, 1]],
)
def test_every_other_change_is_refused_and_writes_nothing(
    name: str, old: Status, wall: WallClock, announced: list[str]
) -> None:
    subject = brought_to(old, wall)
    announced.clear()
    wall.instant += 2 * HOUR
    before = stored()
    assert write(lambda tx: CHANGES[name](tx, subject)) is None
    assert stored() == before
    assert announced == []


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_an_unknown_mission_is_refused(name: str, wall: WallClock) -> None:
    nobody = Subject("m-0000000000-nobody", Claim("m-0000000000-nobody", VP, 1, "token"), wall)
    before = stored()
    if name in ("claim", "answer"):
        assert transitions.expected_attempt(nobody.mission_id) is None
        worker = WorkerIdentity("w", "host", "id")
        assert write(lambda tx: transitions.claim(tx, nobody.mission_id, 1, worker, 30)) is None
        assert write(lambda tx: transitions.answer(tx, nobody.mission_id, "q-1", "red")) is None
    else:
        assert write(lambda tx: CHANGES[name](tx, nobody)) is None
    assert stored() == before


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.sampled_from(sorted(CHANGES)), max_size=25), max_attempts=st.integers(1, 4))
def test_after_any_sequence_of_changes_the_events_tell_the_status(
    ledger: Path, wall: WallClock, names: list[str], max_attempts: int
) -> None:
    mission_id = accepted(max_attempts=max_attempts)
    subject = Subject(mission_id, Claim(mission_id, VP, 1, "none"), wall)
    for name in names:
        landed = write(lambda tx, name=name: CHANGES[name](tx, subject))
        if name == "claim" and landed:
            subject.claim = landed[1]
    told = types(mission_id)
    folded = [oracle.STATUS_AFTER[kind] for kind in told if kind in oracle.STATUS_AFTER]
    mission = row(mission_id)
    assert folded[-1] == mission.status
    assert [event.mission_seq for event in event_rows(mission_id)] == list(range(1, mission.events + 1))
    assert sum(status in TERMINAL for status in folded) == (mission.status in TERMINAL)
    assert mission.attempts_charged + mission.releases <= mission.attempt


def test_the_oracle_agrees_with_a_ledger_that_holds_every_state(ledger: Path, tmp_path: Path, wall: WallClock) -> None:
    made = [brought_to(status, wall).mission_id for status in Status]
    oracle.check(ledger, tmp_path / "workspaces", made)


# --- accepting ----------------------------------------------------------------------------------


def test_a_mission_begins_queued_due_at_once_with_one_event(announced: list[str]) -> None:
    mission_id = accepted(priority=7, retry_of="m-older-one")
    mission = row(mission_id)
    assert (mission.status, mission.attempt, mission.attempts_charged, mission.releases) == (QUEUED, 0, 0, 0)
    assert mission.due_at == clock.EARLIEST  # not "now": a clock set back must not hold it up
    assert mission.created_at == mission.queued_at == START
    assert mission.started_at is None
    (event,) = event_rows(mission_id)
    assert (event.type, event.mission_seq, event.attempt) == (EventType.DISPATCHED, 1, None)
    assert event.data == {"mission_type": "task", "priority": 7, "retry_of": "m-older-one", "by": BY}
    assert announced == [EventType.DISPATCHED]


@pytest.mark.parametrize(("offset", "due"), [(HOUR, START + HOUR), (-HOUR, START)])
def test_a_mission_is_due_when_its_not_before_is_reached(offset: timedelta, due: datetime) -> None:
    assert row(accepted(not_before=START + offset, expires_at=None)).due_at == due


# --- claiming -----------------------------------------------------------------------------------


@pytest.mark.parametrize("attempt", [-1, 0, 2, 3])
def test_a_claim_with_another_number_than_the_expected_is_a_stale_wake_up(attempt: int) -> None:
    mission_id = accepted()
    before = stored()
    worker = WorkerIdentity("w", "host", "id")
    assert write(lambda tx: transitions.claim(tx, mission_id, attempt, worker, 30)) is None
    assert stored() == before


def test_of_two_claims_with_one_number_one_lands() -> None:
    mission_id = accepted()
    claim = claimed(mission_id)
    before = stored()
    assert write(lambda tx: transitions.claim(tx, mission_id, claim.attempt, WorkerIdentity("w", "h", "i"), 30)) is None
    assert stored() == before


def test_not_before_is_kept_whatever_woke_the_worker(wall: WallClock) -> None:
    mission_id = accepted(not_before=START + HOUR, expires_at=None)
    worker = WorkerIdentity("w", "host", "id")
    assert write(lambda tx: transitions.claim(tx, mission_id, 1, worker, 30)) is None
    wall.instant += HOUR
    assert write(lambda tx: transitions.claim(tx, mission_id, 1, worker, 30)) is not None


def test_a_mission_past_its_start_deadline_is_not_started(wall: WallClock) -> None:
    mission_id = accepted()
    wall.instant += HOUR
    assert write(lambda tx: transitions.claim(tx, mission_id, 1, WorkerIdentity("w", "h", "i"), 30)) is None


def test_a_mission_that_started_in_time_may_start_again_after_its_deadline(wall: WallClock) -> None:
    mission_id = accepted()
    subject = Subject(mission_id, claimed(mission_id), wall)
    write(lambda tx: release(tx, subject))
    wall.instant += 2 * HOUR
    assert write(lambda tx: transitions.expire(tx, mission_id)) is None
    assert claimed(mission_id).attempt == 2
    assert row(mission_id).started_at == START


def test_a_claim_records_the_worker_its_lease_and_a_token_of_its_own() -> None:
    mission_id = accepted()
    claim = claimed(mission_id, worker="w-9")
    attempt = attempt_row(claim)
    assert (attempt.number, attempt.worker_id, attempt.outcome) == (1, "w-9", Outcome.RUNNING)
    assert attempt.lease_expires_at == START + timedelta(seconds=30)
    assert abs(attempt.lease_expires_boottime_us - clock.boottime_us() - 30_000_000) < 10_000_000
    assert attempt.lease_token == claim.token
    assert claim.token != claimed(accepted()).token
    assert event_rows(mission_id)[-1].data == {"worker_id": "w-9", "host": "host"}


def test_attempt_numbers_only_rise_and_progress_of_the_last_attempt_is_forgotten(wall: WallClock) -> None:
    mission_id = accepted(max_attempts=3)
    for number in (1, 2, 3):
        claim = claimed(mission_id)
        assert claim.attempt == number
        assert row(mission_id).progress is None
        assert write(lambda tx, claim=claim: leases.progress(tx, claim, 0.5, "half"))
        write(lambda tx, claim=claim: release(tx, Subject(mission_id, claim, wall)))
    assert transitions.expected_attempt(mission_id) == 4


# --- fencing ------------------------------------------------------------------------------------

WORKERS_WORDS: dict[str, Callable[[Transaction, Claim], Any]] = {
    "complete": lambda tx, claim: transitions.complete(tx, claim, DONE),
    "fail": lambda tx, claim: transitions.fail(tx, claim, BROKEN, Ending(), backoff_seconds=1),
    "lose": lambda tx, claim: transitions.lose(tx, claim, "gone", Ending(), backoff_seconds=1),
    "release": lambda tx, claim: transitions.release(tx, claim, Ending(), max_releases=3, backoff_seconds=1),
    "cancelled": lambda tx, claim: transitions.cancelled(tx, claim, Ending()),
    "ask": lambda tx, claim: transitions.ask(tx, claim, "which?"),
    "renew": lambda tx, claim: leases.renew(tx, claim, 60, None),
    "spawned": lambda tx, claim: leases.spawned(tx, claim, {"pid": 1}),
    "progress": lambda tx, claim: leases.progress(tx, claim, 0.9, "nearly"),
    "take_over": lambda tx, claim: leases.take_over(tx, suspect(claim), 60, None, only_if_expired=False),
}
STALE: dict[str, Callable[[Claim, Claim], Claim]] = {
    "the claim of an attempt before": lambda first, now: first,
    "the attempt's number with another token": lambda first, now: replace(now, token="0" * 32),
    "the token with the number before": lambda first, now: replace(now, attempt=1),
    "the token with the number to come": lambda first, now: replace(now, attempt=3),
    "the old token with the number of now": lambda first, now: replace(first, attempt=2),
}


@pytest.mark.parametrize("how", STALE)
@pytest.mark.parametrize("word", WORKERS_WORDS)
def test_a_stale_claim_writes_nothing_and_publishes_nothing(word: str, how: str, announced: list[str]) -> None:
    mission_id = accepted(max_attempts=3)
    first = claimed(mission_id)
    write(lambda tx: transitions.release(tx, first, Ending(), max_releases=3, backoff_seconds=1))
    second = claimed(mission_id)
    before = stored()
    announced.clear()
    assert not write(lambda tx: WORKERS_WORDS[word](tx, STALE[how](first, second)))
    assert stored() == before
    assert announced == []


@pytest.mark.parametrize("word", WORKERS_WORDS)
def test_the_claim_in_force_writes(word: str) -> None:
    # The control of the test above: with the right number and token each of them lands.
    claim = claimed(accepted(max_attempts=3))
    assert write(lambda tx: WORKERS_WORDS[word](tx, claim))


@pytest.mark.parametrize("word", WORKERS_WORDS)
def test_a_worker_whose_lease_was_taken_over_writes_nothing(word: str, announced: list[str]) -> None:
    claim = claimed(accepted())
    assert write(lambda tx: leases.take_over(tx, suspect(claim), 30, None, only_if_expired=False)) is not None
    before = stored()
    announced.clear()
    assert not write(lambda tx: WORKERS_WORDS[word](tx, claim))
    assert stored() == before
    assert announced == []


# --- charging, retries, releases ----------------------------------------------------------------


def test_a_completed_attempt_is_charged_once() -> None:
    claim = claimed(accepted())
    write(lambda tx: transitions.complete(tx, claim, replace(DONE, result="a poem", cpu_seconds=0.5, max_rss_bytes=9)))
    mission, attempt = row(claim.mission_id), attempt_row(claim)
    assert (mission.attempts_charged, mission.result, mission.failure) == (1, "a poem", None)
    assert (attempt.outcome, attempt.exit_code, attempt.cpu_seconds, attempt.max_rss_bytes) == ("completed", 0, 0.5, 9)
    assert attempt.ended_at == START


def test_a_failed_attempt_is_charged_and_the_mission_says_why() -> None:
    claim = claimed(accepted())
    failure = replace(BROKEN, log_tail="the end of the log")
    write(lambda tx: transitions.fail(tx, claim, failure, Ending(exit_code=3, result="half"), backoff_seconds=1))
    mission = row(claim.mission_id)
    assert mission.attempts_charged == 1
    assert mission.failure == {
        "code": "exit_nonzero",
        "message": "it exited with status 3",
        "exit_code": 3,
        "log_tail": "the end of the log",
        "attempt": 1,
    }
    assert mission.result == "half"
    assert attempt_row(claim).failure == mission.failure
    told = event_rows(claim.mission_id)[-1].data["failure"]
    assert told == {key: value for key, value in mission.failure.items() if key != "log_tail"}


def test_the_back_off_doubles_up_to_its_cap(wall: WallClock) -> None:
    mission_id = accepted(max_attempts=limits.MAX_ATTEMPTS)
    waits = []
    for _ in range(limits.MAX_ATTEMPTS - 1):
        until_due(mission_id, wall)
        claim = claimed(mission_id)
        write(lambda tx, claim=claim: transitions.fail(tx, claim, BROKEN, Ending(), backoff_seconds=50))
        due_at = row(mission_id).due_at
        waits.append((due_at - wall.instant).total_seconds())
        assert event_rows(mission_id)[-1].data["retry_at"] == clock.as_text(due_at)
    assert waits == [50, 100, 200, 400, 800, 1600, 3200, 3600, 3600]
    assert transitions.BACKOFF_CAP_SECONDS == 3600
    until_due(mission_id, wall)
    claim = claimed(mission_id)
    write(lambda tx: transitions.fail(tx, claim, BROKEN, Ending(), backoff_seconds=50))
    mission = row(mission_id)
    assert (mission.status, mission.attempts_charged) == (FAILED, limits.MAX_ATTEMPTS)


def test_a_wake_up_before_the_back_off_is_over_is_not_heeded(wall: WallClock) -> None:
    mission_id = accepted(max_attempts=2)
    ended(mission_id, lambda tx, claim: transitions.fail(tx, claim, BROKEN, Ending(), backoff_seconds=50))
    worker = WorkerIdentity("w-2", "host", clock.host_identity())
    assert write(lambda tx: transitions.claim(tx, mission_id, 2, worker, 30)) is None
    until_due(mission_id, wall)
    assert write(lambda tx: transitions.claim(tx, mission_id, 2, worker, 30)) is not None


@pytest.mark.parametrize("code", FailureCode)
def test_only_what_could_succeed_next_time_is_tried_again(code: FailureCode) -> None:
    claim = claimed(accepted(max_attempts=3))
    write(lambda tx: transitions.fail(tx, claim, Failure(code, "no"), Ending(), backoff_seconds=0))
    mission = row(claim.mission_id)
    assert mission.status == (FAILED if code in FINAL_FAILURES else QUEUED)
    assert mission.attempts_charged == 1


def test_what_cannot_succeed_a_second_time() -> None:
    assert {str(code) for code in FINAL_FAILURES} == {
        "executor_unavailable",
        "target_path_denied",
        "budget_exhausted",
        "auth",
        "context_exceeded",
        "refused",
    }


def test_a_release_is_not_charged_and_may_be_claimed_at_once(wall: WallClock) -> None:
    mission_id = accepted()
    ended(mission_id, lambda tx, claim: release(tx, Subject(mission_id, claim, wall)))
    mission = row(mission_id)
    assert (mission.status, mission.attempts_charged, mission.releases, mission.attempt) == (QUEUED, 0, 1, 1)
    assert mission.due_at == clock.EARLIEST
    assert claimed(mission_id).attempt == 2


@pytest.mark.parametrize(("max_attempts", "status"), [(1, FAILED), (2, QUEUED)])
def test_past_max_releases_a_release_counts_as_a_lost_worker(
    max_attempts: int, status: Status, wall: WallClock
) -> None:
    mission_id = accepted(max_attempts=max_attempts)
    for _ in range(3):
        ended(mission_id, lambda tx, claim: release(tx, Subject(mission_id, claim, wall)))
    claim = claimed(mission_id)
    write(lambda tx: release(tx, Subject(mission_id, claim, wall)))
    mission = row(mission_id)
    assert (mission.status, mission.attempts_charged, mission.releases) == (status, 1, 3)
    assert mission.failure["code"] == FailureCode.WORKER_LOST
    assert attempt_row(claim).outcome == Outcome.LOST


def test_with_no_releases_allowed_the_first_counts(wall: WallClock) -> None:
    claim = claimed(accepted())
    write(lambda tx: transitions.release(tx, claim, Ending(), max_releases=0, backoff_seconds=1))
    assert row(claim.mission_id).status == FAILED


def test_a_lost_worker_is_charged_and_the_event_tells_what_the_keeper_knew() -> None:
    claim = claimed(accepted(max_attempts=2))
    write(
        lambda tx: transitions.lose(
            tx, claim, "gone", Ending(), backoff_seconds=4, log_tail="tail", overlap_possible=True
        )
    )
    mission, attempt = row(claim.mission_id), attempt_row(claim)
    assert (mission.status, mission.attempts_charged, attempt.outcome) == (QUEUED, 1, Outcome.LOST)
    assert mission.failure["code"] == FailureCode.WORKER_LOST
    assert mission.failure["log_tail"] == "tail"
    data = event_rows(claim.mission_id)[-1].data
    assert data["overlap_possible"] is True
    assert (data["outcome"], data["attempts_charged"]) == ("lost", 1)


def test_a_cancel_that_a_lost_worker_could_not_carry_out_tells_it_too() -> None:
    claim = claimed(accepted())
    write(lambda tx: transitions.request_cancel(tx, claim.mission_id, "enough"))
    write(lambda tx: transitions.lose(tx, claim, "gone", Ending(), backoff_seconds=4, overlap_possible=True))
    assert row(claim.mission_id).status == CANCELLED
    data = event_rows(claim.mission_id)[-1].data
    assert (data["outcome"], data["overlap_possible"], data["reason"]) == ("cancelled", True, "enough")


def test_a_success_after_a_failure_leaves_no_failure_on_the_mission(wall: WallClock) -> None:
    mission_id = accepted(max_attempts=2)
    ended(mission_id, lambda tx, claim: fail(tx, Subject(mission_id, claim, wall)))
    until_due(mission_id, wall)
    claim = claimed(mission_id)
    write(lambda tx: transitions.complete(tx, claim, DONE))
    mission = row(mission_id)
    assert (mission.status, mission.attempts_charged, mission.failure) == (COMPLETED, 2, None)


# --- cancelling ---------------------------------------------------------------------------------


def test_cancel_ends_a_queued_mission_at_once(announced: list[str]) -> None:
    mission_id = accepted()
    mission, changed = write(lambda tx: transitions.request_cancel(tx, mission_id, "enough"))
    assert changed
    assert mission.status == CANCELLED
    assert (mission.cancel_reason, mission.finished_at, mission.attempts_charged) == ("enough", START, 0)
    assert announced[-1] == EventType.CANCELLED
    assert event_rows(mission_id)[-1].data == {"reason": "enough", "by": BY}


@pytest.mark.parametrize("status", [RUNNING, NEEDS_INPUT])
def test_cancel_of_an_executing_mission_is_a_durable_request(status: Status, wall: WallClock) -> None:
    subject = brought_to(status, wall)
    assert queries.cancel_requested([subject.mission_id]) == []
    mission, changed = write(lambda tx: transitions.request_cancel(tx, subject.mission_id, ""))
    assert changed
    assert (mission.status, mission.cancel_requested_at, mission.cancel_reason) == (status, START, None)
    assert queries.cancel_requested([subject.mission_id]) == [subject.mission_id]


@pytest.mark.parametrize("status", Status)
def test_a_repeated_cancel_changes_nothing(status: Status, wall: WallClock, announced: list[str]) -> None:
    subject = brought_to(status, wall)
    write(lambda tx: transitions.request_cancel(tx, subject.mission_id, "first"))
    before = stored()
    announced.clear()
    mission, changed = write(lambda tx: transitions.request_cancel(tx, subject.mission_id, "second"))
    assert mission.id == subject.mission_id
    assert not changed
    assert stored() == before
    assert announced == []


def test_cancel_of_an_unknown_mission_finds_none() -> None:
    assert write(lambda tx: transitions.request_cancel(tx, "m-0000000000-nobody", "")) == (None, False)


@pytest.mark.parametrize("status", [RUNNING, NEEDS_INPUT])
@pytest.mark.parametrize("word", ["complete", "fail", "release", "lose", "cancelled"])
def test_a_requested_cancel_prevails_over_every_other_end(word: str, status: Status, wall: WallClock) -> None:
    subject = brought_to(status, wall, max_attempts=5)
    write(lambda tx: request_cancel(tx, subject))
    mission = write(lambda tx: WORKERS_WORDS[word](tx, subject.claim))
    assert mission.status == CANCELLED
    assert (mission.attempts_charged, mission.releases, mission.failure) == (0, 0, None)
    assert types(subject.mission_id)[-1] == EventType.CANCELLED
    assert event_rows(subject.mission_id)[-1].data["reason"] == "not wanted"
    assert attempt_row(subject.claim).outcome == Outcome.CANCELLED
    assert transitions.expected_attempt(subject.mission_id) is None


# --- expiring -----------------------------------------------------------------------------------


def test_a_mission_expires_at_its_start_deadline_and_not_before(wall: WallClock) -> None:
    mission_id = accepted()
    wall.instant = START + HOUR - timedelta(microseconds=1)
    assert write(lambda tx: transitions.expire(tx, mission_id)) is None
    wall.instant += timedelta(microseconds=1)
    mission = write(lambda tx: transitions.expire(tx, mission_id))
    assert (mission.status, mission.finished_at) == (EXPIRED, START + HOUR)
    assert event_rows(mission_id)[-1].data == {"expires_at": "2030-01-01T13:00:00Z"}


def test_a_mission_without_a_deadline_never_expires(wall: WallClock) -> None:
    mission_id = accepted(expires_at=None)
    wall.instant += 10_000 * HOUR
    assert write(lambda tx: transitions.expire(tx, mission_id)) is None


def test_the_keeper_is_told_of_those_that_can_expire_only(wall: WallClock) -> None:
    late = accepted()
    started = accepted()
    ended(started, lambda tx, claim: release(tx, Subject(started, claim, wall)))
    accepted(expires_at=None)
    brought_to(CANCELLED, wall)
    wall.instant += 2 * HOUR
    assert queries.past_start_deadline(wall.instant, 10) == [late]


# --- questions ----------------------------------------------------------------------------------


def test_a_question_is_asked_and_answered_within_one_attempt(wall: WallClock) -> None:
    subject = brought_to(RUNNING, wall)
    deadline = START + HOUR
    mission = write(lambda tx: transitions.ask(tx, subject.claim, "which colour?", ["red"], deadline))
    question = mission.question
    assert question["question_id"].startswith("q-")
    assert question == {
        "question_id": question["question_id"],
        "question": "which colour?",
        "options": ["red"],
        "asked_at": "2030-01-01T12:00:00Z",
        "deadline_at": "2030-01-01T13:00:00Z",
    }
    assert event_rows(subject.mission_id)[-1].data == question
    mission = write(lambda tx: transitions.answer(tx, subject.mission_id, question["question_id"], "red"))
    assert (mission.status, mission.question, mission.attempt) == (RUNNING, None, 1)
    told = {"question_id": question["question_id"], "answer": "red", "by": BY}
    assert event_rows(subject.mission_id)[-1].data == told
    assert write(lambda tx: leases.renew(tx, subject.claim, 30, None)), "the lease outlives the question"


def test_an_answer_to_another_question_or_a_second_answer_is_refused(wall: WallClock) -> None:
    subject = brought_to(NEEDS_INPUT, wall)
    question_id = subject.question_id
    assert write(lambda tx: transitions.answer(tx, subject.mission_id, "q-other", "red")) is None
    assert write(lambda tx: transitions.answer(tx, subject.mission_id, question_id, "red")) is not None
    assert write(lambda tx: transitions.answer(tx, subject.mission_id, question_id, "blue")) is None


def test_questions_repeat_in_one_attempt(wall: WallClock) -> None:
    subject = brought_to(RUNNING, wall)
    for _ in range(3):
        assert write(lambda tx: CHANGES["ask"](tx, subject)) is not None
        assert write(lambda tx: CHANGES["answer"](tx, subject)) is not None
    assert types(subject.mission_id).count(EventType.ANSWERED) == 3


def test_completing_without_an_answer_withdraws_the_question(wall: WallClock) -> None:
    subject = brought_to(NEEDS_INPUT, wall)
    question_id = subject.question_id
    assert write(lambda tx: transitions.complete(tx, subject.claim, DONE)).status == COMPLETED
    withdrawn = event_rows(subject.mission_id)[-2]
    assert (withdrawn.type, withdrawn.data) == (EventType.ANSWERED, {"question_id": question_id, "answer": None})


@pytest.mark.parametrize("word", ["lose", "release"])
def test_a_question_goes_with_the_attempt_that_asked_it(word: str, wall: WallClock) -> None:
    subject = brought_to(NEEDS_INPUT, wall, max_attempts=2)
    question_id = subject.question_id
    mission = write(lambda tx: WORKERS_WORDS[word](tx, subject.claim))
    assert (mission.status, mission.question) == (QUEUED, None)
    assert write(lambda tx: transitions.answer(tx, subject.mission_id, question_id, "red")) is None


# --- what an ending records ---------------------------------------------------------------------


def usage(**numbers: Any) -> dict[str, Any]:
    return {"input_tokens": None, "output_tokens": None, "cost_usd": None, "turns": None, **numbers}


def test_usage_is_summed_over_attempts_however_they_end(wall: WallClock) -> None:
    mission_id = accepted(max_attempts=3)
    first, second, third = Ending(usage=usage(input_tokens=10)), Ending(), Ending(usage=usage(input_tokens=5, turns=2))
    ended(mission_id, lambda tx, claim: transitions.fail(tx, claim, BROKEN, first, backoff_seconds=0))
    ended(mission_id, lambda tx, claim: transitions.release(tx, claim, second, max_releases=3, backoff_seconds=0))
    claim = claimed(mission_id)
    write(lambda tx: transitions.complete(tx, claim, third))
    assert row(mission_id).usage == usage(input_tokens=15, turns=2)  # null where no attempt told it
    assert attempt_row(claim).usage == usage(input_tokens=5, turns=2)


def test_usage_that_nobody_told_stays_unknown() -> None:
    claim = claimed(accepted())
    write(lambda tx: transitions.complete(tx, claim, DONE))
    assert row(claim.mission_id).usage is None


def test_artifacts_are_recorded_with_the_end_of_their_attempt() -> None:
    claim = claimed(accepted())
    files = [
        {"path": f"part-{number}.md", "media_type": "text/markdown", "size": 1, "sha256": "0" * 64, "role": "product"}
        for number in range(205)  # more than one INSERT holds
    ]
    write(lambda tx: transitions.complete(tx, claim, replace(DONE, artifacts=files)))
    assert Artifact.select().where(Artifact.mission == claim.mission_id, Artifact.attempt == 1).count() == 205
    assert event_rows(claim.mission_id)[-1].data["artifacts"] == 205


def test_skipped_files_are_named_in_the_event() -> None:
    claim = claimed(accepted())
    skipped = [{"path": "link", "reason": "a symbolic link"}]
    write(lambda tx: transitions.complete(tx, claim, replace(DONE, skipped=skipped, skipped_total=7)))
    data = event_rows(claim.mission_id)[-1].data
    assert (data["skipped"], data["skipped_total"]) == (skipped, 7)


def test_the_data_of_an_event_is_bounded_but_its_numbers_stay() -> None:
    claim = claimed(accepted())
    skipped = [{"path": "n" * 400, "reason": "too many"}] * 50
    write(lambda tx: transitions.complete(tx, claim, replace(DONE, skipped=skipped, skipped_total=50)))
    data = event_rows(claim.mission_id)[-1].data
    assert (data["outcome"], data["artifacts"], data["skipped_total"], data["truncated"]) == ("completed", 0, 50, True)
    assert data["skipped"] == skipped[:20]


@pytest.mark.parametrize(("more", "kept"), [(0, True), (1, False)])
def test_event_data_of_exactly_16_kib_is_kept_whole(more: int, kept: bool) -> None:
    room = 16 * 1024 - len('{"text":""}')  # as it is stored
    text = "ü" * (room // 2) + "x" * (room % 2 + more)
    write(lambda tx: record_vp_event(tx, VP, EventType.VP_PAUSED, {"text": text}))
    data = Event.select().order_by(Event.seq.desc()).first().data
    assert data == ({"text": text} if kept else {"text": text[:2000], "truncated": True})


def test_an_event_carries_the_attempt_it_belongs_to(wall: WallClock) -> None:
    mission_id = accepted(max_attempts=2)
    ended(mission_id, lambda tx, claim: fail(tx, Subject(mission_id, claim, wall)))
    until_due(mission_id, wall)
    ended(mission_id, lambda tx, claim: transitions.complete(tx, claim, DONE))
    assert [(event.type, event.attempt) for event in event_rows(mission_id)] == [
        (EventType.DISPATCHED, None),
        (EventType.STARTED, 1),
        (EventType.RETRYING, 1),
        (EventType.STARTED, 2),
        (EventType.COMPLETED, 2),
    ]
