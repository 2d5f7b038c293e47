"""Ledgers that older versions left, with missions that ran when their machine was lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import cysqlite
import pytest

from tests import oracle
from tests.harness import CODER, GENERAL, Home, command, ended, events, ok, shell, status, until
from vp_queue import clock, config, missions, tools
from vp_queue.keeper.recovery import Keeper
from vp_queue.ledger import database, schema
from vp_queue.operations import copies

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("ledger-*.db"))
POEM = "Roses are red\n"


def by_key(home: Home) -> dict[str, str]:
    """The fixture's missions; their keys say in which state each was left."""
    connection = cysqlite.connect(str(home.database))
    try:
        return dict(connection.execute("SELECT idempotency_key, id FROM vp_mission").fetchall())
    finally:
        connection.close()


def put_in_place(home: Home, fixture: Path) -> dict[str, str]:
    """The old ledger and what it speaks of; one of its workers is said to have been of this host."""
    shutil.copyfile(fixture, home.database)
    home.database.chmod(0o600)
    config_file = home.path / "vp_queue.toml"
    config_file.write_text("lost_host_grace_seconds = 0\n" + config_file.read_text())
    made = by_key(home)
    connection = cysqlite.connect(str(home.database))
    for table in ("vp_attempt", "vp_worker"):
        connection.execute(
            f"UPDATE {table} SET host_identity = ? WHERE worker_id <> 'w-asks'", (clock.host_identity(),)
        )
    connection.close()
    products = home.workspace(made["completed"]) / "work_products"
    products.mkdir(parents=True)
    (products / "poem.md").write_text(POEM)
    return made


def test_there_is_a_ledger_of_each_earlier_release() -> None:
    assert [path.stem.removeprefix("ledger-") for path in FIXTURES][:1] == [schema.known()[0]]


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
def test_an_old_ledger_is_migrated_its_missions_rescued_and_run(home: Home, fixture: Path) -> None:
    made = put_in_place(home, fixture)
    assert {key: status(mission_id) for key, mission_id in made.items() if key != "later"} == {
        key: key for key in made if key != "later"
    }
    assert schema.applied(database.current().db) == schema.known()
    assert database.current().db.execute_sql("PRAGMA journal_mode").fetchone()[0] == "wal"  # the copy had none
    # What was promised then holds now: a key stands for its mission.
    again = tools.vp_dispatch_mission(
        vp_id=GENERAL,
        objective="a command",
        mission_type="command",
        constraints={"command": ["true"]},
        idempotency_key="queued",
    )
    assert (ok(again)["created"], again["mission"]["mission_id"]) == (False, made["queued"])
    result = ok(tools.vp_read_result_artifacts(mission_id=made["completed"]))
    assert result["artifacts"][0]["content"] == POEM
    home.keeper()
    home.consumer(GENERAL)
    home.consumer(CODER)
    assert ended(made["queued"])["status"] == "completed"
    until(lambda: status(made["needs_input"]) == "completed", "who asked is rescued, and needs no answer any more")
    until(lambda: events(made["running"]).count("mission.started") == 2, "it is rescued and runs again")
    assert "mission.retrying" in events(made["running"])
    ok(tools.vp_cancel_mission(mission_id=made["running"]))
    assert ended(made["running"])["status"] == "cancelled"
    ended(shell("true")["mission_id"])
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", list(made.values()))


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
def test_without_a_keeper_what_was_lost_stays_lost(home: Home, fixture: Path) -> None:
    """The negative control: it is the keeper that rescues, and it needs to ask for dead workers."""
    made = put_in_place(home, fixture)
    settings = missions.ready()
    home.consumer(GENERAL)
    assert ended(made["queued"])["status"] == "completed"
    assert status(made["needs_input"]) == "needs_input"
    Keeper(settings).sweep()
    assert status(made["needs_input"]) == "queued"


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
def test_an_old_backup_is_migrated_when_it_is_restored(home: Home, fixture: Path) -> None:
    answer = copies.restore(config.load(), fixture, force=False)
    assert answer["schema"] == fixture.stem.removeprefix("ledger-")
    assert answer["applied"] == [name for name in schema.known() if name > answer["schema"]]
    assert answer["missions"] == len(by_key(home)) == 8
    mission_id = command("true")["mission_id"]
    oracle_knows = [*by_key(home).values()]
    assert mission_id in oracle_knows
    (home.workspace(by_key(home)["completed"]) / "work_products").mkdir(parents=True)
    (home.workspace(by_key(home)["completed"]) / "work_products" / "poem.md").write_text(POEM)
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", oracle_knows, live=False)
