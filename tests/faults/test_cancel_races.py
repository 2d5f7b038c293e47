"""A cancel that meets a claim or an end: one of them lands, whole, whatever the order.

Two threads with a connection each stand at a barrier. In every third round neither has begun; in the others one is
already inside its transaction, so the other waits for the write lock and then finds the state changed.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests import mutants, oracle
from tests.harness import GENERAL, Home, shell
from vp_queue import clock, missions, tools
from vp_queue.contracts import FailureCode
from vp_queue.keeper.recovery import Keeper
from vp_queue.ledger import database, fleet, transitions
from vp_queue.ledger.records import Claim, Ending, Failure, WorkerIdentity
from vp_queue.queue import huey, storage

SHORT, LONG = 100, 1_000
ROUNDS = [SHORT, pytest.param(LONG, marks=pytest.mark.slow)]
NO = Failure(FailureCode.EXIT_NONZERO, "no", 3)

Write = Callable[[Any], Any]


@pytest.fixture
def worker(home: Home) -> WorkerIdentity:
    missions.ready()
    with database.write_transaction() as tx:
        return fleet.register(tx, GENERAL, None)


def racing(one: Write, other: Write, order: int) -> tuple[Any, Any]:
    """What each wrote, in transactions of two threads.

    Args:
        order: 0: both begin at once; 1, 2: the first, or the second, has begun when the other does.
    """
    barrier = threading.Barrier(2)
    answers: list[Any] = [None, None]

    def write(number: int, change: Write) -> None:
        inside = order == number + 1
        if not inside:
            barrier.wait(30)
        with database.write_transaction() as tx:
            if inside:
                barrier.wait(30)
            answers[number] = change(tx)
        database.close_thread_connection()

    threads = [threading.Thread(target=write, args=pair) for pair in enumerate((one, other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers[0], answers[1]


def cancelling(mission_id: str) -> Write:
    """What ``missions.cancel`` does in its transaction."""

    def cancel(tx: Any) -> bool:
        row = transitions.Mission.get_by_id(mission_id)
        changed = transitions.request_cancel(tx, mission_id, "a race")[1]
        if changed and row.queue_row is not None:
            huey.revoke(row)
        return changed

    return cancel


def claiming(mission_id: str, worker: WorkerIdentity) -> Write:
    return lambda tx: transitions.claim(tx, mission_id, 1, worker, 30)


def claimed(mission_id: str, worker: WorkerIdentity) -> Claim:
    with database.write_transaction() as tx:
        database.current().db.execute_sql("DELETE FROM task")
        landed = transitions.claim(tx, mission_id, 1, worker, 30)
    assert landed is not None
    return landed[1]


def told(mission_id: str) -> tuple[str, ...]:
    """Status, and the events after the dispatch."""
    answer = tools.vp_get_mission(mission_id=mission_id, events_limit=500)
    kinds = (event["type"].removeprefix("mission.") for event in answer["events"][1:])
    return answer["mission"]["status"], *kinds


@pytest.mark.parametrize("rounds", ROUNDS)
def test_a_cancel_racing_a_claim(home: Home, worker: WorkerIdentity, rounds: int) -> None:
    seen: Counter[tuple[str, ...]] = Counter()
    for number in range(rounds):
        mission_id = shell("true")["mission_id"]
        changed, landed = racing(cancelling(mission_id), claiming(mission_id, worker), number % 3)
        assert changed, "a cancel of a mission that has not ended always counts"
        outcome = told(mission_id)
        assert (landed is not None) == (outcome[0] == "running")
        if landed is not None:
            with database.write_transaction() as tx:
                assert transitions.complete(tx, landed[1], Ending(exit_code=0)) is not None
        seen[outcome] += 1
    assert seen.keys() == {("cancelled", "cancelled"), ("running", "started", "cancel_requested")}, seen
    _rests(home)


ENDS: dict[str, Callable[[Any, Claim], Any]] = {
    "complete": lambda tx, claim: transitions.complete(tx, claim, Ending(exit_code=0)),
    "fail": lambda tx, claim: transitions.fail(tx, claim, NO, Ending(exit_code=3), backoff_seconds=0),
    "release": lambda tx, claim: transitions.release(tx, claim, Ending(), max_releases=3, backoff_seconds=0),
    "lose": lambda tx, claim: transitions.lose(tx, claim, "gone", Ending(), backoff_seconds=0),
}
# The outcomes: the cancel came first, or the end did (a queued mission is then cancelled at once).
OUTCOMES = {
    "complete": {("cancelled", "started", "cancel_requested", "cancelled"), ("completed", "started", "completed")},
    "fail": {
        ("cancelled", "started", "cancel_requested", "cancelled"),
        ("cancelled", "started", "retrying", "cancelled"),
    },
    "release": {
        ("cancelled", "started", "cancel_requested", "cancelled"),
        ("cancelled", "started", "released", "cancelled"),
    },
    "lose": {
        ("cancelled", "started", "cancel_requested", "cancelled"),
        ("cancelled", "started", "retrying", "cancelled"),
    },
}


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("end", ENDS)
def test_a_cancel_racing_an_end(home: Home, worker: WorkerIdentity, end: str, rounds: int) -> None:
    seen: Counter[tuple[str, ...]] = Counter()
    for number in range(rounds if end == "complete" else rounds // 4):
        mission_id = shell("true", max_attempts=2)["mission_id"]
        claim = claimed(mission_id, worker)
        changed, landed = racing(cancelling(mission_id), lambda tx, claim=claim: ENDS[end](tx, claim), number % 3)
        outcome = told(mission_id)
        assert landed is not None, "the claim held: its end lands, if only as cancelled"
        assert changed == (outcome[0] == "cancelled")
        seen[outcome] += 1
    assert seen.keys() == OUTCOMES[end], seen
    _rests(home)


def _rests(home: Home) -> None:
    """What is left: revocations that meet their rows, or are swept."""
    with database.write_transaction():
        database.current().db.execute_sql("DELETE FROM task")
    keeper = Keeper(missions.ready())
    while storage.has_stale_revocations():
        keeper._next_tidying = clock.monotonic()
        keeper.sweep()
    with database.read_transaction():
        assert database.current().db.execute_sql("SELECT key FROM kv").fetchall() == []
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")


def test_control_a_claim_that_does_not_look_at_the_status_revives_what_was_cancelled(
    home: Home, worker: WorkerIdentity
) -> None:
    with mutants.removed("claim-whatever-the-status"):
        mission_id = shell("true")["mission_id"]
        changed, landed = racing(cancelling(mission_id), claiming(mission_id, worker), 1)
        assert (changed, landed is not None) == (True, True)
        with pytest.raises(AssertionError, match=r"after its end"):
            oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")
