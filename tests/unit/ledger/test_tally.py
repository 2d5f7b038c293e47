"""The tally: what each change counts, that it is exact, and that it stays when what was counted goes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests import oracle
from vp_queue import clock
from vp_queue.contracts import EventType, FailureCode, Outcome, limits
from vp_queue.ledger import accounts, database, fleet, retention, tally, transitions
from vp_queue.ledger.models import Mission, Tally
from vp_queue.ledger.records import Claim, Ending, Failure, NewMission, WorkerIdentity

VP, OTHER = "vp.general.primary", "vp.coder.primary"
START = datetime(2030, 1, 1, 12, tzinfo=UTC)
DAY = tally.day_of(START)
BROKEN = Failure(FailureCode.EXIT_NONZERO, "it exited with status 3", 3)
USAGE = {"input_tokens": 100, "output_tokens": 7, "cost_usd": 0.25, "turns": 2}


class WallClock(clock.SystemClock):
    """A wall clock that stands still until a test moves it."""

    instant = START

    def now(self) -> datetime:
        return self.instant

    def passes(self, seconds: float) -> None:
        self.instant += timedelta(seconds=seconds)


@pytest.fixture
def wall() -> Iterator[WallClock]:
    stopped = WallClock()
    with clock.use(stopped):
        yield stopped


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path, wall: WallClock) -> Iterator[Path]:
    path = database.open_ledger(tmp_path / "vp_state.db").path
    yield path
    oracle.check(path, tmp_path, live=False)


def accepted(vp_id: str = VP, max_attempts: int = 1, not_before: datetime | None = None) -> str:
    mission_id = clock.new_mission_id()
    with database.write_transaction() as tx:
        new = NewMission(mission_id, vp_id, "task", "x", {}, {}, {}, 0, max_attempts, None, not_before=not_before)
        transitions.accept(tx, new)
    return mission_id


def claimed(mission_id: str, attempt: int = 1) -> Claim:
    with database.write_transaction() as tx:
        found = transitions.claim(tx, mission_id, attempt, WorkerIdentity("w", "here", "here"), 30)
    assert found is not None
    return found[1]


def counted(vp_id: str = VP, day: int = DAY) -> dict[str, float]:
    with database.read_transaction():
        return accounts.tallied(day).get(vp_id, {})


def test_a_mission_that_completes_is_counted_at_each_step(wall: WallClock) -> None:
    mission_id = accepted()
    assert counted() == {"event:mission.dispatched": 1}
    wall.passes(3)
    claim = claimed(mission_id)
    assert counted() == {
        "event:mission.dispatched": 1,
        "event:mission.started": 1,
        "wait.sum": 3,
        "wait.upto:5": 1,
    }
    wall.passes(200)
    with database.write_transaction() as tx:
        transitions.complete(tx, claim, Ending(usage=USAGE))
    assert counted() == {
        "event:mission.dispatched": 1,
        "event:mission.started": 1,
        "event:mission.completed": 1,
        "attempt:completed": 1,
        "wait.sum": 3,
        "wait.upto:5": 1,
        "run.sum": 200,
        "run.upto:300": 1,
        "input_tokens": 100,
        "output_tokens": 7,
        "cost_usd": 0.25,
    }
    assert counted(OTHER) == {}


def test_attempts_are_counted_one_by_one_and_missions_once(wall: WallClock) -> None:
    mission_id = accepted(max_attempts=2)
    for attempt in (1, 2):
        claim = claimed(mission_id, attempt)
        with database.write_transaction() as tx:
            transitions.fail(tx, claim, BROKEN, Ending(usage=USAGE), backoff_seconds=10)
        wall.passes(10)
    found = counted()
    assert found["attempt:failed"] == found["failure:exit_nonzero"] == 2
    assert found["event:mission.retrying"] == found["event:mission.failed"] == 1
    assert found["cost_usd"] == 0.5


def test_the_wait_of_a_retry_begins_when_it_is_due_not_when_it_was_queued(wall: WallClock) -> None:
    mission_id = accepted(max_attempts=2)
    claim = claimed(mission_id)
    with database.write_transaction() as tx:
        transitions.fail(tx, claim, BROKEN, Ending(), backoff_seconds=600)
    wall.passes(602)
    claimed(mission_id, 2)
    assert counted()["wait.sum"] == 2
    assert counted()["wait.upto:0.1"] == counted()["wait.upto:5"] == 1


def test_a_mission_that_was_given_back_waits_from_then_on(wall: WallClock) -> None:
    claim = claimed(accepted())
    wall.passes(50)
    with database.write_transaction() as tx:
        transitions.release(tx, claim, Ending(), max_releases=3, backoff_seconds=1)
    wall.passes(4)
    claimed(claim.mission_id, 2)
    assert counted()["wait.sum"] == 4
    assert counted()["attempt:released"] == 1


def test_the_wait_of_a_mission_for_later_begins_at_its_time(wall: WallClock) -> None:
    mission_id = accepted(not_before=START + timedelta(hours=1))
    wall.passes(3607)
    claimed(mission_id)
    assert counted()["wait.sum"] == 7


@pytest.mark.parametrize(("max_attempts", "then"), [(1, tally.RESCUE_ENDED), (2, tally.RESCUE_REQUEUED)])
def test_a_rescue_is_counted_with_what_became_of_the_mission(max_attempts: int, then: str) -> None:
    claim = claimed(accepted(max_attempts=max_attempts))
    with database.write_transaction() as tx:
        transitions.lose(tx, claim, "gone", Ending(), backoff_seconds=1)
    found = counted()
    assert found[then] == found["attempt:lost"] == found["failure:worker_lost"] == 1
    assert len([measure for measure in found if measure.startswith("rescue:")]) == 1


def test_what_belongs_to_no_mission_is_counted_for_its_vp(wall: WallClock) -> None:
    with database.write_transaction() as tx:
        fleet.pause(tx, OTHER)
        fleet.register(tx, None, None)
    assert counted(OTHER) == {"event:vp.paused": 1}
    assert counted(fleet.KEEPER) == {"event:vp.worker_started": 1}


def test_what_was_rolled_back_was_not_counted() -> None:
    def breaks() -> None:
        with database.write_transaction() as tx:
            fleet.pause(tx, VP)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        breaks()
    assert counted() == {}


def test_a_write_that_did_not_land_counts_nothing() -> None:
    claim = claimed(accepted())
    late = Claim(claim.mission_id, VP, 1, "another token")
    before = counted()
    with database.write_transaction() as tx:
        assert transitions.complete(tx, late, Ending(usage=USAGE)) is None
    assert counted() == before


@pytest.mark.parametrize(
    ("seconds", "measure"),
    [
        (-5, "run.upto:0.1"),
        (0.1, "run.upto:0.1"),
        (0.11, "run.upto:0.5"),
        (86_400, "run.upto:86400"),
        (86_401, "run.upto:inf"),
    ],
)
def test_a_duration_falls_into_the_first_bucket_that_holds_it(wall: WallClock, seconds: float, measure: str) -> None:
    claim = claimed(accepted())
    wall.passes(seconds)
    with database.write_transaction() as tx:
        transitions.complete(tx, claim, Ending())
    found = counted(day=tally.day_of(wall.now()))
    assert found[measure] == 1
    assert found["run.sum"] == max(0, seconds)


def test_the_words_are_few() -> None:
    """A bound on rows: each of these at most once for a VP and day."""
    words = [*tally.EVENT.values(), *tally.ATTEMPT.values(), *FailureCode, *tally.USED]
    assert len(words) + 2 + sum(len(upto) + 1 for upto in tally.UPTO.values()) < 85


# --- days ---------------------------------------------------------------------------------------


def test_each_utc_day_stands_for_itself_until_it_is_old_and_the_sum_stays(wall: WallClock) -> None:
    for _ in range(limits.TALLY_DAYS + 10):
        accepted()
        wall.passes(86_400)
    with database.read_transaction() as now:
        assert accounts.tallied(DAY + 3) == {VP: {"event:mission.dispatched": 1}}
        before = accounts.totals()
        assert retention.old_tallies(now)
    for _ in range(2):
        with database.write_transaction() as tx:
            retention.fold_tallies(tx.now)
    with database.read_transaction() as now:
        assert not retention.old_tallies(now)
        assert accounts.totals() == before == {VP: {"event:mission.dispatched": limits.TALLY_DAYS + 10}}
        assert accounts.tallied(DAY + 3) == {}
        assert accounts.tallied(0) == {VP: {"event:mission.dispatched": 10}}
    assert Tally.select().count() == limits.TALLY_DAYS + 1


def test_it_stays_when_what_was_counted_is_removed(wall: WallClock) -> None:
    claim = claimed(accepted())
    with database.write_transaction() as tx:
        transitions.complete(tx, claim, Ending(usage=USAGE))
    before = counted()
    with database.write_transaction():
        assert Mission.delete().where(Mission.id == claim.mission_id).execute() == 1
    assert counted() == before


# --- what was there before the tally ------------------------------------------------------------


def test_the_migration_counts_what_is_there(wall: WallClock) -> None:
    everything_happens(wall)
    with database.read_transaction():
        lived = {(row.vp_id, row.day, row.measure): row.value for row in Tally.select()}
    migration = importlib.import_module("vp_queue.ledger.migrations.0005_face")
    with database.write_transaction():
        Tally.delete().execute()
        for statement in migration.TALLIES:
            database.current().db.execute_sql(statement)
    with database.read_transaction():
        filled = {(row.vp_id, row.day, row.measure): row.value for row in Tally.select()}
    waits = {key for key in lived if key[2].startswith("wait.")}
    assert {key: value for key, value in filled.items() if key not in waits} == pytest.approx(
        {key: value for key, value in lived.items() if key not in waits}
    )
    first_attempts = Mission.select().where(Mission.attempt > 0).count()
    assert sum(value for (_, _, measure), value in filled.items() if measure.startswith("wait.upto:")) == first_attempts


def everything_happens(wall: WallClock) -> None:
    """Missions of two VPs on two days, with every outcome."""
    for vp_id in (VP, OTHER):
        for outcome in (outcome for outcome in Outcome if outcome != Outcome.RUNNING):
            wall.passes(7_000)
            mission_id = accepted(vp_id, max_attempts=2)
            wall.passes(30)
            claim = claimed(mission_id)
            wall.passes(1_000)
            with database.write_transaction() as tx:
                if outcome == Outcome.COMPLETED:
                    transitions.complete(tx, claim, Ending(usage=USAGE))
                elif outcome == Outcome.FAILED:
                    transitions.fail(tx, claim, BROKEN, Ending(usage={**USAGE, "cost_usd": None}), backoff_seconds=1)
                elif outcome == Outcome.CANCELLED:
                    transitions.request_cancel(tx, mission_id, "")
                    transitions.cancelled(tx, claim, Ending(usage=USAGE))
                elif outcome == Outcome.RELEASED:
                    transitions.release(tx, claim, Ending(), max_releases=1, backoff_seconds=1)
                else:
                    transitions.lose(tx, claim, "gone", Ending(), backoff_seconds=1)
    accepted()
    assert {row.measure.partition(":")[0] for row in Tally.select()} == {
        "event", "attempt", "failure", "rescue", "wait.sum", "wait.upto", "run.sum", "run.upto", *tally.USED
    }  # fmt: skip
    assert EventType.RELEASED in {row.measure.partition(":")[2] for row in Tally.select()}


def test_a_damaged_text_does_not_keep_the_ledger_from_its_schema(wall: WallClock) -> None:
    everything_happens(wall)
    migration = importlib.import_module("vp_queue.ledger.migrations.0005_face")
    with database.write_transaction():
        execute = database.current().db.execute_sql
        execute("UPDATE vp_attempt SET usage = '{', failure = 'x' WHERE outcome IN ('failed', 'completed')")
        Tally.delete().execute()
        for statement in migration.TALLIES:
            execute(statement)
    assert Tally.select().where(Tally.measure == "cost_usd").exists()
