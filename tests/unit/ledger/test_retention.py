"""Which missions go, and what is deleted with them: ages, counts, bytes, readers, keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from tests.ended import DAY, HOUR, acknowledged_up_to, at_age, left, mission
from tests.harness import CODER, GENERAL
from vp_queue import clock
from vp_queue.config_retention import Retention
from vp_queue.contracts import TERMINAL, EventType, Status, limits
from vp_queue.ledger import database, events, fleet, retention
from vp_queue.ledger.models import Artifact, Attempt, Event, IdempotencyKey, Mission, PrunedWorkspace, Worker
from vp_queue.ledger.retention import Reason

FOREVER = Retention(max_age_days=0, failed_max_age_days=0, max_missions=0, max_bytes=0)


@pytest.fixture(autouse=True)
def ledger(tmp_path: Path) -> database.Ledger:
    return database.open_ledger(tmp_path / "vp_state.db")


def kept_forever(**keys: float) -> Retention:
    """A policy without limits but these."""
    return FOREVER.model_copy(update=keys)


def going(
    policy: Retention,
    vp_id: str = GENERAL,
    older_than: timedelta | None = None,
    measured: dict[str, int] | None = None,
) -> dict[str, Reason]:
    with database.read_transaction() as now:
        found = retention.expendable(now, vp_id, policy, older_than=older_than, measured=measured)
        return {each.mission_id: each.reason for each in found}


@dataclass
class Rule:
    """A mission of this age and status, under this policy, among readers who know its end or not: does it go?"""

    goes: bool
    days: float
    status: Status = Status.COMPLETED
    policy: Retention = Retention(max_age_days=30, failed_max_age_days=90)  # noqa: RUF009  frozen
    acknowledged: bool | None = None  # None: there is no reader
    older_than: timedelta | None = None


MINUTE = 1 / 1440
RULES = {
    "younger than the limit": Rule(False, 29.9),
    "older than the limit": Rule(True, 30.1),
    "a cancelled one": Rule(True, 30.1, Status.CANCELLED),
    "an expired one": Rule(True, 30.1, Status.EXPIRED),
    "a failed one is kept longer": Rule(False, 30.1, Status.FAILED),
    "a failed one, at last": Rule(True, 90.1, Status.FAILED),
    "without a limit, at any age": Rule(False, 10_000, policy=FOREVER),
    "ended in the future, by a clock that was set back since": Rule(False, -400),
    "queued": Rule(False, 10_000, Status.QUEUED),
    "running": Rule(False, 10_000, Status.RUNNING),
    "waiting for an answer": Rule(False, 10_000, Status.NEEDS_INPUT),
    "within an hour of its end": Rule(False, 59 * MINUTE, policy=Retention(max_age_days=MINUTE)),
    "an hour after its end": Rule(True, 61 * MINUTE, policy=Retention(max_age_days=MINUTE)),
    "its end is known to every reader": Rule(True, 30.1, acknowledged=True),
    "a reader does not know its end": Rule(False, 59.9, acknowledged=False),
    "nor for twice the age": Rule(True, 60.1, acknowledged=False),
    "a failed one that a reader does not know of": Rule(False, 179, Status.FAILED, acknowledged=False),
    "nor for twice its age": Rule(True, 181, Status.FAILED, acknowledged=False),
    "older than was asked for": Rule(True, 8, older_than=7 * DAY),
    "a failed one older than was asked for": Rule(True, 8, Status.FAILED, older_than=7 * DAY),
    "younger than was asked for": Rule(False, 6, older_than=7 * DAY),
    "asked for, but a reader does not know its end": Rule(False, 29, older_than=7 * DAY, acknowledged=False),
    "asked for everything, but within the hour": Rule(False, 59 * MINUTE, older_than=timedelta(0)),
    "asked for an age beyond the policy's": Rule(True, 31, older_than=365 * DAY),
}


@pytest.mark.parametrize("name", RULES)
def test_a_mission_goes_or_stays(name: str) -> None:
    rule = RULES[name]
    mission_id = mission(rule.days * DAY, rule.status)
    if rule.acknowledged is not None:
        acknowledged_up_to("knows", mission_id)
        acknowledged_up_to("simone", mission_id if rule.acknowledged else None)
    assert (mission_id in going(rule.policy, older_than=rule.older_than)) is rule.goes
    with database.write_transaction() as tx:
        # The delete judges again by itself, all but the age.
        protected = rule.status not in TERMINAL or rule.days < 60 * MINUTE
        protected |= rule.acknowledged is False and not rule.goes
        deleted = retention.delete_missions(tx, [mission_id], rule.policy)
    assert bool(deleted) is not protected
    assert (mission_id in left()) is protected


def test_of_too_many_the_oldest_go() -> None:
    ids = [mission(age * DAY, Status.FAILED if age == 4 else Status.COMPLETED) for age in (5, 4, 3, 2, 1)]
    live = mission(9 * DAY, Status.QUEUED)
    assert going(kept_forever(max_missions=2)) == dict.fromkeys(ids[:3], Reason.COUNT)
    assert going(kept_forever(max_missions=5)) == {}
    assert live in left()


def test_another_vps_missions_count_for_that_vp_alone() -> None:
    mine, other = mission(2 * DAY), mission(3 * DAY, vp_id=CODER)
    assert going(kept_forever(max_missions=1)) == {}
    assert list(going(Retention(max_age_days=1))) == [mine]
    assert list(going(Retention(max_age_days=1), CODER)) == [other]
    with database.read_transaction():
        assert retention.ended_vps() == [CODER, GENERAL]


def test_of_too_many_bytes_the_oldest_go_until_the_rest_fits() -> None:
    sizes = [40, 0, 30, 20, 10]
    ids = [mission((9 - at) * DAY, size=size) for at, size in enumerate(sizes)]
    assert going(kept_forever(max_bytes=100)) == {}
    assert list(going(kept_forever(max_bytes=99))) == [ids[0]]
    # The second has nothing to give and stays.
    assert list(going(kept_forever(max_bytes=31))) == [ids[0], ids[2]]
    assert list(going(kept_forever(max_bytes=1))) == [ids[0], *ids[2:]]


def test_what_goes_for_its_age_counts_for_the_other_limits() -> None:
    old, young = mission(31 * DAY, size=50), mission(1 * DAY, size=50)
    assert going(Retention(max_missions=1, max_bytes=50)) == {old: Reason.AGE}
    assert young in left()


def test_what_was_not_measured_yet_is_told_from_outside() -> None:
    first, second = mission(2 * DAY), mission(1 * DAY, size=10)
    assert going(kept_forever(max_bytes=15)) == {}
    assert going(kept_forever(max_bytes=15), measured={first: 10}) == {first: Reason.BYTES}
    assert second in left()


def test_protected_missions_hold_up_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a page of them stand before the one that may go."""
    monkeypatch.setattr(retention, "PAGE", 3)
    ids = [mission(50 * DAY) for _ in range(5)]
    acknowledged_up_to("simone", None)
    known = mission(70 * DAY)
    assert list(going(Retention())) == [known]
    acknowledged_up_to("simone", ids[-1])
    assert len(going(Retention())) == len(ids) + 1


def test_how_many_a_reader_holds_is_told_and_who_it_is() -> None:
    mission(31 * DAY)
    mission(31 * DAY, Status.FAILED)
    mission(61 * DAY)
    with database.read_transaction() as now:
        assert retention.held(now, GENERAL, Retention()) == 0
        assert retention.last_reader() is None
    acknowledged_up_to("dead", None)
    with database.read_transaction() as now:
        assert retention.held(now, GENERAL, Retention()) == 1
        assert retention.held(now, GENERAL, Retention(), older_than=DAY) == 2
        assert retention.last_reader() == "dead"


def test_everything_of_a_mission_goes_and_nothing_of_another() -> None:
    gone, stays = mission(40 * DAY, key="a", size=7), mission(1 * DAY, key="b")
    with database.write_transaction() as tx:
        pruned = retention.delete_missions(tx, [gone], Retention())
        assert retention.delete_missions(tx, [gone], Retention()) == []  # another pruner was faster
    assert [each.mission_id for each in pruned] == [gone]
    for model in (Attempt, Event, Artifact):
        assert {row.mission_id for row in model.select()} == {stays}
    (folder,) = PrunedWorkspace.select()
    assert (folder.mission_id, folder.vp_id, folder.bytes, folder.tries) == (gone, GENERAL, 7, 0)
    keys = {row.mission_id: row.pruned_at is not None for row in IdempotencyKey.select()}
    assert keys == {gone: True, stays: False}


def test_a_mission_that_never_ran_leaves_no_folder_to_remove() -> None:
    expired = mission(40 * DAY, Status.EXPIRED)
    with database.write_transaction() as tx:
        retention.delete_missions(tx, [expired], Retention())
    assert list(PrunedWorkspace.select()) == []


def test_a_key_outlives_its_mission_by_thirty_days() -> None:
    ids = {key: mission(40 * DAY, key=key) for key in ("old", "young")}
    mission(400 * DAY, key="its mission is there")
    for key, days in (("old", 30.1), ("young", 29.9)):
        with at_age(days * DAY), database.write_transaction() as tx:
            assert retention.delete_missions(tx, [ids[key]], Retention(max_age_days=1))
    with database.read_transaction() as now:
        keys = retention.old_keys(now, 10)
    assert keys == [(GENERAL, "old")]
    with database.write_transaction():
        assert retention.delete_keys(keys) == 1
    assert {row.key for row in IdempotencyKey.select()} == {"young", "its mission is there"}


def test_a_folder_that_stays_is_tried_again_ever_more_rarely() -> None:
    mission_id = mission(40 * DAY)
    with database.write_transaction() as tx:
        retention.delete_missions(tx, [mission_id], Retention())
    waits = []
    for _ in range(14):
        with database.read_transaction() as now:
            assert len(retention.folders_due(now + timedelta(days=2), 10)) == 1
        with database.write_transaction() as tx:
            retention.folder_stays(tx, mission_id, "x" * 1_000)
        waits.append((PrunedWorkspace.get().retry_at - tx.now).total_seconds())
    assert waits[:4] == [60, 120, 240, 480]
    assert waits[-1] == retention.LONGEST_RETRY_SECONDS
    assert len(PrunedWorkspace.get().problem) == retention.PROBLEM_CHARS
    with database.read_transaction() as now:
        assert retention.folders_due(now, 10) == []
        assert retention.folders_left(10)[0] == 1
    with database.write_transaction():
        retention.folder_gone(mission_id)
    assert retention.folders_left(10) == (0, [])


def vp_event(age: timedelta) -> None:
    with at_age(age), database.write_transaction() as tx:
        events.record_vp_event(tx, GENERAL, EventType.VP_PAUSED)


def old_events(policy: Retention) -> list[int]:
    with database.read_transaction() as now:
        return retention.old_vp_events(now, policy, 100)


def test_events_of_no_mission_go_by_age_and_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    mission(500 * DAY)
    for days in (40, 31, 29, 1):
        vp_event(days * DAY)
    seqs = [row.seq for row in Event.select().where(Event.mission.is_null()).order_by(Event.seq)]
    assert old_events(Retention()) == seqs[:2]
    assert old_events(FOREVER) == []
    monkeypatch.setattr(limits, "VP_EVENTS_KEPT", 1)
    assert old_events(FOREVER) == seqs[:3]
    before = Event.select().where(Event.mission.is_null(False)).count()
    with database.write_transaction():
        assert retention.delete_vp_events(seqs[:3]) == 3
    assert Event.select().count() == before + 1


def test_workers_that_ended_are_forgotten_when_one_registers() -> None:
    for days in (2, 2, 0):
        with at_age(days * DAY), database.write_transaction() as tx:
            fleet.end(tx, fleet.register(tx, GENERAL, None).worker_id, fleet.WorkerState.STOPPED)
    assert Worker.select().count() == 1


def test_what_was_measured_is_not_measured_again_and_the_live_are_not_measured() -> None:
    mission(1 * DAY, Status.QUEUED)
    mission(1 * DAY, size=3)
    young, old = mission(HOUR), mission(2 * DAY)
    with database.read_transaction():
        assert [row[0] for row in retention.unmeasured(10)] == [old, young]
        assert retention.totals(GENERAL) == retention.Totals(3, 3)
    with database.write_transaction():
        retention.record_size(young, 4)
        retention.record_size(old, 0)
    with database.read_transaction():
        assert retention.unmeasured(10) == []
        assert retention.totals(GENERAL) == retention.Totals(3, 7)


PLANNED = {
    "_OLDEST": {"vp_id": "", "after_at": 0, "after_id": "", "page": 1},
    "_HELD": {"vp_id": "", "due": 0, "failed_due": 0},
    "_DELETE": {"id": ""},
    "_TOTALS": ("",),
    "_UNMEASURED": (1,),
    "_VP_EVENTS": (),
}


@pytest.mark.parametrize("name", PLANNED)
def test_no_statement_looks_through_a_table(ledger: database.Ledger, name: str) -> None:
    values = PLANNED[name]
    if isinstance(values, dict):
        values = {**retention._bounds(clock.now(), Retention()), **values}
    plan = ledger.db.execute_sql(f"EXPLAIN QUERY PLAN {getattr(retention, name)}", values).fetchall()
    steps = [row[-1] for row in plan]
    assert steps
    assert all("INDEX" in step for step in steps if step.startswith(("SCAN", "SEARCH"))), steps


@pytest.mark.parametrize("table", ["vp_attempt", "vp_event", "vp_artifact"])
def test_what_a_mission_takes_with_it_is_found_by_an_index(ledger: database.Ledger, table: str) -> None:
    """Without one the delete of each mission would look through all events: quadratic."""
    assert ledger.db.execute_sql("PRAGMA foreign_keys").fetchone()[0] == 1
    plan = ledger.db.execute_sql(f"EXPLAIN QUERY PLAN SELECT 1 FROM {table} WHERE mission_id = 'x'").fetchall()
    assert all(row[-1].startswith("SEARCH") for row in plan), plan


def test_an_ended_mission_that_was_measured_is_otherwise_unchanged() -> None:
    mission_id = mission(HOUR)
    before = Mission.get_by_id(mission_id).__data__
    with database.write_transaction():
        retention.record_size(mission_id, 5)
    assert Mission.get_by_id(mission_id).__data__ == {**before, "workspace_bytes": 5}
