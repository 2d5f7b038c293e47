"""The keeper's sweeps: each repair, and that nothing of one mission holds up another."""

from __future__ import annotations

import subprocess
from dataclasses import asdict

import pytest

from tests.harness import GENERAL, Home, events, ok, shell, status, until
from vp_queue import clock, missions, tools
from vp_queue.keeper.recovery import Keeper
from vp_queue.keeper.rescue import Loss, Rescuer
from vp_queue.ledger import database, leases, queries, transitions
from vp_queue.ledger.models import Worker
from vp_queue.ledger.records import Claim, WorkerIdentity
from vp_queue.worker.tree import TreeIdentity


@pytest.fixture
def keeper(home: Home) -> Keeper:
    return Keeper(missions.ready())


def dead_worker() -> WorkerIdentity:
    """A worker whose process has ended."""
    process = subprocess.Popen(["true"])
    start = clock.process_start_ticks(process.pid) or 1
    process.wait()
    identity = WorkerIdentity(f"w-{clock.new_token()[:8]}", "here", clock.host_identity())
    with database.write_transaction() as tx:
        Worker.insert(
            worker_id=identity.worker_id,
            vp_id=GENERAL,
            host="here",
            host_identity=identity.host_identity,
            pid=process.pid,
            start_ticks=start,
            version="0",
            started_at=tx.now,
            heartbeat_at=tx.now,
            heartbeat_boottime_us=clock.boottime_us(),
            state="running",
        ).execute()
    return identity


def claimed(mission_id: str, worker: WorkerIdentity) -> Claim:
    with database.write_transaction() as tx:
        landed = transitions.claim(tx, mission_id, 1, worker, 30)
    assert landed is not None
    return landed[1]


def test_a_dead_workers_mission_is_requeued_or_failed_as_its_attempts_allow(keeper: Keeper) -> None:
    worker = dead_worker()
    once, twice = shell("true")["mission_id"], shell("true", max_attempts=2)["mission_id"]
    for mission_id in (once, twice):
        claimed(mission_id, worker)
    keeper.sweep()
    assert (status(once), status(twice)) == ("failed", "queued")
    failure = ok(tools.vp_get_mission(mission_id=once))["mission"]["failure"]
    assert (failure["code"], failure["message"]) == ("worker_lost", Loss.PROCESS_DIED)
    assert events(twice)[-1] == "mission.retrying"


def test_one_record_that_cannot_be_read_holds_up_no_other(keeper: Keeper) -> None:
    worker = dead_worker()
    poisoned, innocent = shell("true")["mission_id"], shell("true")["mission_id"]
    bad, good = claimed(poisoned, worker), claimed(innocent, worker)
    identity = TreeIdentity(clock.host_identity(), 2**22 - 1, 1, 2**22 - 1, 1, 2**22 - 1, None, f"{innocent}.1")
    with database.write_transaction() as tx:
        leases.spawned(tx, bad, {"of": "another world"})
        leases.spawned(tx, good, {**asdict(identity), "added_by_a_newer_version": True})
    keeper.sweep()
    assert status(innocent) == "failed"
    assert status(poisoned) == "running"


def test_a_worker_that_thawed_since_the_sweep_looked_keeps_its_mission(keeper: Keeper, home: Home) -> None:
    mission_id = shell("true")["mission_id"]
    worker = WorkerIdentity("w-1", "here", clock.host_identity())
    with database.write_transaction() as tx:
        landed = transitions.claim(tx, mission_id, 1, worker, -1)  # its lease is over already
    assert landed is not None
    with database.read_transaction() as now:
        (suspect,) = leases.running(now, 0)
    assert suspect.expired
    with database.write_transaction() as tx:
        assert leases.renew(tx, landed[1], 30, None)
    assert Rescuer(missions.ready(), None).rescue(suspect, Loss.LEASE_RAN_OUT) is None
    assert status(mission_id) == "running"


def test_the_sweep_for_revocations_does_not_look_through_the_queue(keeper: Keeper) -> None:
    """It was quadratic: 12 s a sweep, 8 s of them under the write lock, with 300 cancels in a queue of 30,000."""
    for _ in range(3):
        mission_id = shell("true")["mission_id"]
        ok(tools.vp_cancel_mission(mission_id=mission_id))
    from vp_queue.queue.storage import STALE_REVOCATIONS

    with database.read_transaction():
        plan = database.current().db.execute_sql(f"EXPLAIN QUERY PLAN {STALE_REVOCATIONS}").fetchall()
        kept = database.current().db.execute_sql("SELECT COUNT(*) FROM kv").fetchone()[0]
    assert not any("SCAN t" in row[-1] or "SCAN m" in row[-1] for row in plan), plan
    assert kept == 3, "their rows are still queued: who takes them needs the revocation"
    with database.write_transaction():
        database.current().db.execute_sql("DELETE FROM task")
    keeper.sweep()
    with database.read_transaction():
        assert database.current().db.execute_sql("SELECT COUNT(*) FROM kv").fetchone()[0] == 0


def test_the_sweeps_are_covered_by_indexes(keeper: Keeper) -> None:
    from vp_queue.queue.storage import WITHOUT_ROW

    with database.read_transaction():
        plan = database.current().db.execute_sql(f"EXPLAIN QUERY PLAN {WITHOUT_ROW}", (0, 10)).fetchall()
    assert any("COVERING INDEX vp_mission_due" in row[-1] for row in plan), plan
    with database.read_transaction():
        sql = f"EXPLAIN QUERY PLAN {queries.PAST_START_DEADLINE}"
        plan = database.current().db.execute_sql(sql, (0, 10)).fetchall()
    assert any("vp_mission_start_deadline" in row[-1] for row in plan), plan


def test_a_signal_in_the_midst_of_its_wait_does_not_stop_it_for_good(keeper: Keeper) -> None:
    """The handler runs in the thread that it interrupts, maybe where that holds the lock of what it waits for."""
    with keeper._stop._cond:
        keeper.stop()
    until(keeper._stop.is_set, "it is told to stop")


@pytest.mark.parametrize("damage", ["usage of a running attempt", "constraints of a queued mission"])
def test_a_row_that_cannot_be_read_keeps_no_other_from_repair(keeper: Keeper, damage: str) -> None:
    """SQLite's pages have no checksums: one flipped byte must not end all repair for ever."""
    worker = dead_worker()
    damaged, innocent, queued = (shell("true")["mission_id"] for _ in range(3))
    for mission_id in (damaged, innocent):
        claimed(mission_id, worker)
    with database.write_transaction():
        sql = database.current().db.execute_sql
        if damage.startswith("usage"):
            sql("UPDATE vp_attempt SET usage = '{' WHERE mission_id = ?", (damaged,))
        else:
            sql("UPDATE vp_mission SET constraints = '{' WHERE id = ?", (queued,))
            sql("DELETE FROM task")
            sql("UPDATE vp_mission SET queue_row = NULL WHERE id = ?", (queued,))
    keeper.sweep()
    assert status(innocent) == "failed"
    assert database.current().db.execute_sql("SELECT state FROM vp_worker").fetchone() == ("lost",)
