"""A sweep: rows, folders, sizes, keys, in small transactions; and what the tools say afterwards."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import mutants, oracle
from tests.ended import DAY, HOUR, acknowledged_up_to, at_age, left, many, mission, on_until_now, workspace
from tests.harness import CODER, GENERAL, Home, ok, refused, shell, status
from vp_queue import clock, config, missions, tools
from vp_queue.contracts import Status
from vp_queue.keeper import retention as keeping
from vp_queue.keeper.retention import Scope, Sweep, Sweeper, Swept
from vp_queue.ledger import accounts, database, deliveries, queries, retention
from vp_queue.ledger.models import IdempotencyKey, Mission, PrunedWorkspace
from vp_queue.ledger.tally import day_of


@pytest.fixture
def ready(home: Home) -> Home:
    missions.ready()
    return home


def sweep(scope: Scope = Scope(), seconds: float | None = None) -> Swept:  # noqa: B008  frozen
    return Sweep(config.load(), scope, go_on=lambda: True, pause=lambda _: None, seconds=seconds).run()


def folders(home: Home, vp_id: str = GENERAL) -> list[str]:
    """What lies in a VP's folder."""
    folder = home.path / "AGENT_RUN_WORKSPACES" / f"{vp_id.replace('.', '_')}_external"
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_old_missions_go_with_their_folders_and_the_rest_stays(ready: Home) -> None:
    old, young = mission(31 * DAY), mission(29 * DAY)
    failed = mission(31 * DAY, Status.FAILED)
    live = mission(400 * DAY, Status.QUEUED)
    for mission_id in (old, young, failed):
        workspace(ready, mission_id)
    swept = sweep()
    assert [each.mission_id for each in swept.missions] == [old]
    assert (swept.folders, swept.stuck, swept.unfinished) == (1, {}, False)
    assert swept.freed_bytes > 10_000
    assert left() == {young, failed, live}
    assert folders(ready) == sorted([young, failed])
    assert list(PrunedWorkspace.select()) == []
    refused(tools.vp_get_mission(mission_id=old), "mission_not_found")
    assert sweep() == Swept()


def test_each_vp_has_its_own_rules_and_a_vp_that_was_removed_those_of_all(ready: Home) -> None:
    ready.configure(more=f'[retention]\nmax_age_days = 10\n[vp."{CODER}".retention]\nmax_age_days = 2\n')
    kept = {mission(9 * DAY), mission(1 * DAY, vp_id=CODER), mission(9 * DAY, vp_id="vp.gone.primary")}
    mission(11 * DAY)
    mission(3 * DAY, vp_id=CODER)
    mission(11 * DAY, vp_id="vp.gone.primary")
    sweep()
    assert left() == kept


def test_workspaces_are_measured_once_and_the_oldest_go_until_the_rest_fits(ready: Home) -> None:
    ids = [mission((9 - age) * DAY) for age in range(3)]
    for mission_id in ids:
        workspace(ready, mission_id)
    unused = mission(10 * DAY, Status.EXPIRED)
    sweep()
    sizes = {row.id: row.workspace_bytes for row in Mission.select()}
    assert sizes[unused] == 0
    assert all(sizes[mission_id] > 10_000 for mission_id in ids)
    (ready.workspace(ids[0]) / "later").write_bytes(b"x" * 100_000)
    ready.configure(more=f"[retention]\nmax_bytes = {2 * sizes[ids[0]]}\n")
    sweep()
    assert left() == {unused, *ids[1:]}


def test_a_scope_narrows_and_an_age_widens(ready: Home) -> None:
    mine, coders = mission(8 * DAY, Status.FAILED), mission(8 * DAY, vp_id=CODER)
    sweep(Scope(vp_id=CODER, older_than=7 * DAY))
    assert left() == {mine}
    assert coders not in left()


def test_queue_rows_and_revocations_of_a_pruned_mission_go_with_it(ready: Home) -> None:
    ids = [shell("true")["mission_id"] for _ in range(2)]
    for mission_id in ids:
        ok(tools.vp_cancel_mission(mission_id=mission_id))
    with database.write_transaction() as tx:
        Mission.update(finished_at=tx.now - 31 * DAY).where(Mission.id == ids[0]).execute()
    sweep()
    execute = database.current().db.execute_sql
    with database.read_transaction():
        assert execute("SELECT COUNT(*) FROM task").fetchone()[0] == 1
        ((key,),) = execute("SELECT key FROM kv").fetchall()
    assert ids[1] in key


def test_what_a_reader_has_not_acknowledged_stays_until_it_has(ready: Home) -> None:
    first, second = mission(31 * DAY), mission(31 * DAY)
    acknowledged_up_to("simone", first)
    sweep()
    assert left() == {second}
    acknowledged_up_to("simone", second)
    sweep()
    assert left() == set()


def test_what_nobody_has_been_told_of_because_the_keeper_was_down_stays(ready: Home) -> None:
    with database.write_transaction() as tx:
        deliveries.introduce(tx, "webhook-x", "https://hooks.example")
    ended = mission(31 * DAY)
    sweep()
    assert left() == {ended}
    with database.read_transaction():
        assert retention.last_reader() == "webhook-x"
    with database.write_transaction() as tx:
        deliveries.enqueue(tx, "webhook-x", (), queries.newest_seq())
    sweep()
    assert left() == set()


def test_without_asking_the_readers_it_would_have_gone(ready: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    mission(31 * DAY)
    acknowledged_up_to("simone", None)
    monkeypatch.setattr(retention, "_bounds", retention._bounds)
    mutants.apply("prunes-the-unacknowledged")
    sweep()
    assert left() == set()


def test_without_the_hour_of_grace_it_would_have_gone(ready: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control; the rule itself is among those of the ledger's tests."""
    ready.configure(more="[retention]\nmax_age_days = 0.001\n")
    mission(0.5 * HOUR)
    sweep()
    assert len(left()) == 1
    monkeypatch.setattr(retention, "SETTLED", retention.SETTLED)
    mutants.apply("prunes-the-unsettled")
    sweep()
    assert left() == set()


# --- keys ---------------------------------------------------------------------------------------


def dispatch(key: str, objective: str = "x") -> dict[str, object]:
    return tools.vp_dispatch_mission(vp_id=GENERAL, objective=objective, idempotency_key=key)


def test_the_key_of_a_pruned_mission_is_a_conflict_for_thirty_days(ready: Home) -> None:
    with at_age(31 * DAY):
        mission_id = str(ok(dispatch("poem"))["mission"]["mission_id"])
        ok(tools.vp_cancel_mission(mission_id=mission_id))
    assert not ok(dispatch("poem"))["created"]
    with at_age(29.9 * DAY):
        sweep(Scope(older_than=HOUR))
    for objective in ("x", "another"):
        error = refused(dispatch("poem", objective), "idempotency_conflict", "idempotency_key")
        assert mission_id in error["message"]
        assert "was pruned on" in error["message"]
        assert "use a new key" in error["message"]
        assert error["details"]["pruned"]
    sweep()
    refused(dispatch("poem"), "idempotency_conflict")
    with at_age(-0.2 * DAY):
        sweep()
        assert ok(dispatch("poem"))["created"]


def test_a_key_that_went_with_its_mission_would_run_the_work_again(
    ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    mission(31 * DAY, key="poem")
    monkeypatch.setattr(retention, "_KEY_PRUNED", retention._KEY_PRUNED)
    mutants.apply("forgets-pruned-keys")
    sweep()
    assert ok(dispatch("poem"))["created"]


def test_a_key_whose_mission_vanished_otherwise_is_a_conflict_too(ready: Home) -> None:
    mission_id = mission(1 * DAY, key="poem")
    with database.write_transaction():
        Mission.delete().where(Mission.id == mission_id).execute()
    assert "was pruned." in refused(dispatch("poem"), "idempotency_conflict")["message"]


def test_a_retry_with_the_key_of_a_pruned_retry_is_a_conflict(ready: Home) -> None:
    old = mission(1 * DAY, Status.FAILED)
    mission(31 * DAY, key="again")
    sweep()
    refused(tools.vp_retry_mission(mission_id=old, idempotency_key="again"), "idempotency_conflict")


# --- small steps --------------------------------------------------------------------------------


@contextmanager
def deletes_of_transactions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many missions each transaction deleted."""
    found: list[int] = []
    delete = keeping.retention.delete_missions

    def counted(*args: object) -> list[object]:
        pruned: list[object] = delete(*args)  # type: ignore[arg-type,assignment]
        found.append(len(pruned))
        return pruned

    with monkeypatch.context() as patch:
        patch.setattr(keeping.retention, "delete_missions", counted)
        yield found


def test_hundreds_of_missions_go_in_small_transactions(ready: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    many(300, 31 * DAY)
    with deletes_of_transactions(monkeypatch) as sizes:
        sweep()
    assert sum(sizes) == 300
    assert max(sizes) <= keeping.MISSIONS_AT_ONCE
    assert left() == set()
    oracle.check(ready.database, ready.path / "AGENT_RUN_WORKSPACES")


def test_without_that_bound_one_transaction_would_take_them_all(ready: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    many(300, 31 * DAY)
    for name in ("PAUSE_SECONDS", "TRANSACTION_SECONDS", "MISSIONS_AT_ONCE", "PAGE"):
        monkeypatch.setattr(keeping, name, getattr(keeping, name))
    mutants.apply("never-pauses")
    with deletes_of_transactions(monkeypatch) as sizes:
        sweep()
    assert max(sizes) == 300


def test_a_transaction_ends_when_its_time_is_up_however_few_it_took(
    ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(20, 31 * DAY)
    monkeypatch.setattr(keeping, "TRANSACTION_SECONDS", 0.0)
    with deletes_of_transactions(monkeypatch) as sizes:
        sweep()
    assert sizes == [1] * 20


def test_a_sweep_whose_time_is_up_leaves_the_rest_to_the_next(ready: Home) -> None:
    many(5, 31 * DAY)
    assert sweep(seconds=0) == Swept(unfinished=True)
    assert len(left()) == 5
    assert not sweep(seconds=600).unfinished
    assert left() == set()


def test_two_that_sweep_at_once_do_no_harm(ready: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each folder one removes, and each mission it deletes, the other has gone for first."""
    ids = [mission(31 * DAY) for _ in range(3)]
    for mission_id in ids:
        workspace(ready, mission_id)
    busy: list[int] = []
    remove = keeping.remove_mission_folder

    def after_another(*args: object) -> bool:
        if not busy:
            busy.append(1)
            sweep()
        return remove(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(keeping, "remove_mission_folder", after_another)
    swept = sweep()
    assert len(swept.missions) == 3
    assert (swept.stuck, left(), folders(ready)) == ({}, set(), [])


# --- folders that will not go ---------------------------------------------------------------------


def test_a_folder_that_cannot_be_removed_is_noted_tried_later_and_holds_up_no_other(
    ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, other = mission(32 * DAY), mission(31 * DAY)
    for mission_id in (stuck, other):
        workspace(ready, mission_id)
    remove, tries = keeping.remove_mission_folder, []

    def failing(root: Path, vp_id: str, mission_id: str, go_on: object) -> bool:
        if mission_id == stuck:
            tries.append(1)
            raise PermissionError(13, "Permission denied", "a file")
        return remove(root, vp_id, mission_id)

    monkeypatch.setattr(keeping, "remove_mission_folder", failing)
    assert sweep().stuck == {stuck: "Permission denied: a file"}
    assert sweep().stuck == {}
    assert (len(tries), folders(ready)) == (1, [stuck])
    monkeypatch.setattr(keeping, "remove_mission_folder", remove)
    sweep()
    assert folders(ready) == [stuck]
    with at_age(-0.1 * HOUR):
        assert sweep().folders == 1
    assert folders(ready) == []


def test_an_operators_prune_tries_at_once_what_the_keeper_would_try_later(
    ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [mission(31 * DAY) for _ in range(3)]
    remove, tries = keeping.remove_mission_folder, []

    def failing(root: Path, vp_id: str, mission_id: str, go_on: object) -> bool:
        tries.append(mission_id)
        raise PermissionError(13, "Permission denied", "a file")

    monkeypatch.setattr(keeping, "remove_mission_folder", failing)
    sweep()
    assert sweep(Scope(retry_all=True)).stuck.keys() == set(ids)
    assert len(tries) == 6  # each once a sweep
    monkeypatch.setattr(keeping, "remove_mission_folder", remove)
    assert sweep(Scope(retry_all=True)).folders == 3


def test_a_workspaces_root_that_is_not_there_loses_no_note(ready: Home) -> None:
    mission_id = mission(31 * DAY)
    workspace(ready, mission_id)
    root = ready.path / "AGENT_RUN_WORKSPACES"
    root.rename(ready.path / "unmounted")
    assert mission_id in sweep().stuck
    (ready.path / "unmounted").rename(root)
    with at_age(-0.1 * HOUR):
        assert sweep().folders == 1


# --- the keeper's thread ------------------------------------------------------------------------


def test_the_sweeper_sweeps_at_once_follows_the_file_and_ends_when_told(
    ready: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.harness import until

    monkeypatch.setattr(keeping, "EACH_SECONDS", 0.01)
    old, younger = mission(31 * DAY), mission(5 * DAY)
    caplog.set_level("INFO", "vp_queue.keeper")
    on_until_now()
    with Sweeper(config.load()).running():
        until(lambda: left() == {younger}, "the old one has gone")
        (ready.path / "vp_queue.toml").write_text("[retention]\nmax_age_days = 'x'\n")
        until(lambda: "goes on with the settings that were" in caplog.text, "the mistake is told")
        ready.configure(more="[retention]\nmax_age_days = 4\n")
        until(lambda: left() == set(), "the new rule holds")
    assert old not in left()
    assert "pruned 1 missions" in caplog.text


def test_a_sweep_that_fails_is_not_the_last(
    ready: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.harness import until

    monkeypatch.setattr(keeping, "EACH_SECONDS", 0.01)
    run, failures = Sweep.run, [RuntimeError("a bug"), keeping.LedgerBusy()]

    def failing(self: Sweep) -> Swept:
        if failures:
            raise failures.pop()
        return run(self)

    monkeypatch.setattr(Sweep, "run", failing)
    mission(31 * DAY)
    on_until_now()
    with Sweeper(config.load()).running():
        until(lambda: left() == set(), "the third sweep prunes")
    assert "pruning failed" in caplog.text
    assert "pruning put off" in caplog.text


def test_a_sweep_adds_up_the_tallies_of_days_long_ago(ready: Home) -> None:
    for age in (200, 150, 3):
        mission(age * DAY)
    sweep()
    with database.read_transaction() as now:
        found = {day: accounts.tallied(day)[GENERAL]["event:mission.completed"] for day in (0, day_of(now) - 3)}
        assert accounts.totals()[GENERAL]["event:mission.completed"] == 3
    assert found == {0: 2, day_of(clock.now()) - 3: 1}


def test_a_sweep_with_nothing_to_do_writes_nothing_and_is_cheap(ready: Home) -> None:
    many(100, 1 * DAY)
    sweep()
    before = ready.database.with_name("vp_state.db-wal").stat().st_mtime_ns
    began = time.process_time()
    assert sweep() == Swept()
    assert time.process_time() - began < 1
    assert ready.database.with_name("vp_state.db-wal").stat().st_mtime_ns == before
    assert IdempotencyKey.select().count() == 0
    assert status(next(iter(left()))) == "completed"
