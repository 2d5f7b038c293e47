"""The schema: made once whoever comes first, equal to the models, guarded by the database itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cysqlite
import pytest
from huey.storage import CySqliteStorage
from peewee import IntegrityError

from tests.harness import Home, refused
from vp_queue import tools
from vp_queue.contracts import EDGES, ONCE_PER_ATTEMPT, TERMINAL, TERMINAL_EVENTS, Status
from vp_queue.errors import LedgerUnavailable
from vp_queue.ledger import database, models, schema, triggers

ROOT = Path(__file__).resolve().parents[3]
HUEYS = ("task", "schedule", "kv", "counter")
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="drops root's rights; run: sudo make test")


@pytest.fixture
def ledger(tmp_path: Path) -> database.Ledger:
    return database.open_ledger(tmp_path / "vp_state.db")


def is_hueys(line: str) -> bool:
    """Whether a line of the description is about one of Huey's tables or their indexes."""
    name = line.split()[1].rstrip(":")
    return name.startswith(HUEYS)


# --- one schema ---------------------------------------------------------------------------------


def from_the_models(path: Path) -> database.LedgerDatabase:
    """A ledger made from today's models and triggers, without any migration."""
    path.touch()
    made = database.LedgerDatabase(str(path))
    with made.bind_ctx(models.MODELS):
        made.create_tables(models.MODELS, safe=False)
    for statement in triggers.SQLITE_TRIGGERS.values():
        made.execute_sql(statement)
    return made


def test_the_migrated_schema_is_that_of_the_models(ledger: database.Ledger, tmp_path: Path) -> None:
    fresh = from_the_models(tmp_path / "fresh.db")
    migrated = [line for line in schema.description(ledger.db) if not is_hueys(line)]
    assert migrated == schema.description(fresh)
    fresh.close()


def test_the_comparison_sees_a_trigger_that_was_dropped(ledger: database.Ledger, tmp_path: Path) -> None:
    fresh = from_the_models(tmp_path / "fresh.db")
    for name in triggers.SQLITE_TRIGGERS:
        before = schema.description(fresh)
        fresh.execute_sql(f"DROP TRIGGER {name}")
        assert schema.description(fresh) != before
    fresh.close()


def test_every_trigger_and_guarding_index_is_in_the_migrated_schema(ledger: database.Ledger) -> None:
    described = "\n".join(schema.description(ledger.db))
    for name in (*triggers.SQLITE_TRIGGERS, "vp_event_one_terminal", "vp_event_once_per_attempt", "vp_attempt_running"):
        assert f" {name}:" in described


def columns(path: Path) -> dict[str, Any]:
    """Huey's tables and indexes: their columns, types, defaults and keys."""
    connection = cysqlite.connect(str(path))
    found: dict[str, Any] = {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in HUEYS}
    for index in ("schedule_queue_timestamp", "task_queue_priority_id"):
        found[index] = connection.execute(f"PRAGMA index_xinfo({index})").fetchall()
    connection.close()
    return found


def test_hueys_tables_are_those_that_huey_would_make(ledger: database.Ledger, tmp_path: Path) -> None:
    CySqliteStorage("any", filename=str(tmp_path / "huey.db")).close()
    ours, hueys = columns(ledger.path), columns(tmp_path / "huey.db")
    assert ours == hueys
    assert all(ours.values())
    assert "autoincrement" in ledger.db.execute_sql("SELECT sql FROM sqlite_master WHERE name = 'task'").fetchone()[0]


def test_the_migration_is_recorded_and_nothing_is_left_to_apply(ledger: database.Ledger) -> None:
    assert schema.applied(ledger.db) == schema.known()
    assert schema.pending(ledger.db, ledger.path) == []
    assert schema.ensure(ledger.db, ledger.path) == []


def test_the_file_is_its_owners_only(ledger: database.Ledger) -> None:
    assert ledger.path.stat().st_mode & 0o777 == 0o600
    assert Path(f"{ledger.path}.migrate").stat().st_mode & 0o777 == 0o600


# --- the database's own guards ------------------------------------------------------------------

COLUMNS = (
    "id, vp_id, mission_type, objective, constraints, budget, metadata, priority, status, attempt, attempts_charged, "
    "releases, max_attempts, events, due_at, created_at, queued_at, finished_at"
)


def execute(ledger: database.Ledger, sql: str, *parameters: Any) -> None:
    with database.write_transaction():
        ledger.db.execute_sql(sql, parameters)


def insert(ledger: database.Ledger, mission_id: str, status: str = "queued") -> None:
    due, finished = (0 if status == "queued" else None), (0 if status in TERMINAL else None)
    execute(
        ledger,
        f"INSERT INTO vp_mission ({COLUMNS}) VALUES (?, 'vp.x', 'task', 'o', '{{}}', '{{}}', '{{}}', 0, ?, 0, 0, 0, 3, "
        "1, ?, 0, 0, ?)",
        mission_id,
        status,
        due,
        finished,
    )


def move(ledger: database.Ledger, mission_id: str, status: str) -> None:
    execute(
        ledger,
        "UPDATE vp_mission SET status = ?, due_at = ?, finished_at = ? WHERE id = ?",
        status,
        0 if status == "queued" else None,
        0 if status in TERMINAL else None,
        mission_id,
    )


WAY_TO: dict[Status, list[Status]] = {
    Status.QUEUED: [],
    Status.RUNNING: [Status.RUNNING],
    Status.NEEDS_INPUT: [Status.RUNNING, Status.NEEDS_INPUT],
    Status.COMPLETED: [Status.RUNNING, Status.COMPLETED],
    Status.FAILED: [Status.RUNNING, Status.FAILED],
    Status.CANCELLED: [Status.CANCELLED],
    Status.EXPIRED: [Status.EXPIRED],
}


def brought_to(ledger: database.Ledger, status: Status) -> str:
    mission_id = f"m-0000000000-{status.replace('_', '-')}"
    insert(ledger, mission_id)
    for step in WAY_TO[status]:
        move(ledger, mission_id, step)
    return mission_id


@pytest.mark.parametrize(("old", "new"), [(old, new) for old in Status for new in Status if old != new])
def test_the_database_lets_pass_the_edges_and_nothing_else(ledger: database.Ledger, old: Status, new: Status) -> None:
    mission_id = brought_to(ledger, old)
    if new in EDGES.get(old, ()):
        move(ledger, mission_id, new)
    else:
        with pytest.raises(IntegrityError, match="no such status change"):
            move(ledger, mission_id, new)


@pytest.mark.parametrize("status", [status for status in Status if status != Status.QUEUED])
def test_a_mission_cannot_be_born_in_another_state(ledger: database.Ledger, status: Status) -> None:
    with pytest.raises(IntegrityError, match="begins queued"):
        insert(ledger, "m-0000000000-born", status)


def test_attempt_numbers_cannot_go_down(ledger: database.Ledger) -> None:
    insert(ledger, "m-0000000000-a")
    execute(ledger, "UPDATE vp_mission SET attempt = 2")
    with pytest.raises(IntegrityError, match="only rise"):
        execute(ledger, "UPDATE vp_mission SET attempt = 1")


REFUSED_BY_CHECKS = {
    "an unknown status": "UPDATE vp_mission SET status = 'paused'",
    "terminal without its time": "UPDATE vp_mission SET status = 'cancelled', due_at = NULL",
    "finished while queued": "UPDATE vp_mission SET finished_at = 1",
    "queued without a due time": "UPDATE vp_mission SET due_at = NULL",
    "charged more often than allowed": "UPDATE vp_mission SET attempts_charged = 4",
    "a negative attempt": "UPDATE vp_mission SET attempts_charged = -1",
}


@pytest.mark.parametrize("what", REFUSED_BY_CHECKS)
def test_rows_that_contradict_themselves_are_refused(ledger: database.Ledger, what: str) -> None:
    insert(ledger, "m-0000000000-a")
    with pytest.raises(IntegrityError):
        execute(ledger, REFUSED_BY_CHECKS[what])


def event(
    ledger: database.Ledger, mission_id: str | None, mission_seq: int | None, kind: str, attempt: int = 1
) -> None:
    execute(
        ledger,
        "INSERT INTO vp_event (mission_id, mission_seq, vp_id, attempt, type, at, data) "
        "VALUES (?, ?, 'vp.x', ?, ?, 0, '{}')",
        mission_id,
        mission_seq,
        attempt,
        kind,
    )


@pytest.mark.parametrize("column", ["type = 'mission.failed'", "data = '{\"x\":1}'", "at = 1", "mission_seq = 9"])
def test_events_never_change(ledger: database.Ledger, column: str) -> None:
    insert(ledger, "m-0000000000-a")
    event(ledger, "m-0000000000-a", 1, "mission.dispatched")
    with pytest.raises(IntegrityError, match="events never change"):
        execute(ledger, f"UPDATE vp_event SET {column}")


@pytest.mark.parametrize("first", TERMINAL_EVENTS)
@pytest.mark.parametrize("second", TERMINAL_EVENTS)
def test_a_second_terminal_event_is_refused(ledger: database.Ledger, first: str, second: str) -> None:
    insert(ledger, "m-0000000000-a")
    event(ledger, "m-0000000000-a", 1, first, attempt=1)
    with pytest.raises(IntegrityError):
        event(ledger, "m-0000000000-a", 2, second, attempt=2)


@pytest.mark.parametrize("kind", ONCE_PER_ATTEMPT)
def test_these_events_happen_once_per_attempt(ledger: database.Ledger, kind: str) -> None:
    insert(ledger, "m-0000000000-a")
    event(ledger, "m-0000000000-a", 1, kind)
    with pytest.raises(IntegrityError):
        event(ledger, "m-0000000000-a", 2, kind)


@pytest.mark.parametrize("kind", ["mission.progress", "mission.needs_input", "mission.answered"])
def test_these_events_repeat(ledger: database.Ledger, kind: str) -> None:
    insert(ledger, "m-0000000000-a")
    for number in (1, 2):
        event(ledger, "m-0000000000-a", number, kind)


def test_one_start_per_attempt_and_one_position_per_event(ledger: database.Ledger) -> None:
    insert(ledger, "m-0000000000-a")
    event(ledger, "m-0000000000-a", 1, "mission.started", attempt=1)
    event(ledger, "m-0000000000-a", 2, "mission.started", attempt=2)
    with pytest.raises(IntegrityError):
        event(ledger, "m-0000000000-a", 2, "mission.progress", attempt=2)


@pytest.mark.parametrize(("mission_id", "mission_seq"), [("m-0000000000-a", None), (None, 1)])
def test_a_mission_event_has_a_position_and_a_vp_event_none(
    ledger: database.Ledger, mission_id: str | None, mission_seq: int | None
) -> None:
    insert(ledger, "m-0000000000-a")
    with pytest.raises(IntegrityError):
        event(ledger, mission_id, mission_seq, "vp.paused")


def test_a_mission_has_one_running_attempt_at_most(ledger: database.Ledger) -> None:
    insert(ledger, "m-0000000000-a")
    sql = (
        "INSERT INTO vp_attempt (mission_id, number, worker_id, host, host_identity, lease_token, lease_expires_at, "
        "lease_expires_boottime_us, heartbeat_at, started_at, outcome) "
        "VALUES ('m-0000000000-a', ?, 'w', 'h', 'i', 't', 0, 0, 0, 0, 'running')"
    )
    execute(ledger, sql, 1)
    with pytest.raises(IntegrityError):
        execute(ledger, sql, 2)


def test_an_event_of_a_mission_that_is_not_there_is_refused(ledger: database.Ledger) -> None:
    with pytest.raises(IntegrityError):
        event(ledger, "m-0000000000-none", 1, "mission.dispatched")


def test_a_pruned_seq_is_never_given_again(ledger: database.Ledger) -> None:
    event(ledger, None, None, "vp.paused")
    execute(ledger, "DELETE FROM vp_event")
    event(ledger, None, None, "vp.resumed")
    assert ledger.db.execute_sql("SELECT seq FROM vp_event").fetchone()[0] == 2


# --- first use by many --------------------------------------------------------------------------

FIRST_USE = """
import contextlib, os, sys
from pathlib import Path
import playhouse.migrations                 # imported beforehand, so that the race is about the ledger only
from vp_queue.ledger import database, schema
if sys.argv[2] == "unlocked":
    schema.lock = lambda path: contextlib.nullcontext()
    looks = []
    pending = schema.pending
    def together(db, path):                 # each looks at the empty file, and only then do all go on
        found = pending(db, path)
        looks.append(found)
        if len(looks) == 1:
            print("looked", flush=True)
            sys.stdin.readline()
        return found
    schema.pending = together
else:
    print("ready", flush=True)
    sys.stdin.readline()
database.open_ledger(Path(sys.argv[1]))
print(database.current().db.execute_sql("SELECT COUNT(*) FROM vp_mission").fetchone()[0])
"""


def first_use_by_eight(path: Path, how: str) -> list[tuple[int, str]]:
    """Eight processes stand at the barrier before any goes on; the exit status and errors of each."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_USE, str(path), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(8)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [(process.communicate()[1], process.returncode)[::-1] for process in processes]


def test_eight_processes_at_first_use_all_succeed(tmp_path: Path) -> None:
    path = tmp_path / "vp_state.db"
    ended = first_use_by_eight(path, "locked")
    assert [code for code, _ in ended] == [0] * 8, ended
    ledger = database.open_ledger(path)
    assert schema.applied(ledger.db) == schema.known()


def test_without_the_lock_they_fail_over_each_other(tmp_path: Path) -> None:
    # The negative control: what the lock is for.
    ended = first_use_by_eight(tmp_path / "vp_state.db", "unlocked")
    assert any("already exists" in errors for _, errors in ended), ended


def test_a_migration_that_was_killed_half_way_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "vp_state.db"
    script = (
        "import sys, os\nfrom pathlib import Path\nfrom vp_queue.ledger import database, models\n"
        "execute = database.LedgerDatabase.execute_sql\n"
        "def dying(self, sql, params=None):\n"
        "    if 'CREATE TRIGGER' in sql: os.kill(os.getpid(), 9)\n"
        "    return execute(self, sql, params)\n"
        "database.LedgerDatabase.execute_sql = dying\n"
        "database.open_ledger(Path(sys.argv[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT).returncode == -9
    ledger = database.open_ledger(path)
    assert set(triggers.SQLITE_TRIGGERS) <= {
        name for (name,) in ledger.db.execute_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    }


def marked_after_its_maker_died(path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a ledger says that it stood, once it is opened again after its maker died before saying so."""

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", dies)
        with pytest.raises(KeyboardInterrupt):
            database.open_ledger(path)
    assert not schema.stood_before(path)
    database.open_ledger(path)
    return schema.stood_before(path)


def test_a_ledger_whose_maker_died_before_it_was_marked_is_marked_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vp_state.db"
    assert marked_after_its_maker_died(path, monkeypatch)
    database.close_thread_connection()
    for file in tmp_path.glob("vp_state.db*"):
        if file != schema.lock_path(path):
            file.unlink()
    with pytest.raises(LedgerUnavailable, match="is gone"):
        database.open_ledger(path)


def test_where_nobody_marks_it_later_it_stays_unmarked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    mark, marked = schema.mark, [True]
    monkeypatch.setattr(schema, "mark", lambda path: mark(path) if marked.pop() else None)
    marked.insert(0, False)
    assert not marked_after_its_maker_died(tmp_path / "vp_state.db", monkeypatch)


def test_a_ledger_that_cannot_be_marked_is_opened_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "pwrite", refuses)
    for _ in range(2):
        ledger = database.open_ledger(tmp_path / "vp_state.db")
        assert schema.applied(ledger.db) == schema.known()
        database.close_thread_connection()
        database._current = None
    assert not schema.stood_before(ledger.path)


def test_a_ledger_of_the_first_schema_is_brought_up_to_date_with_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(schema.DIRECTORY, tmp_path / "first", ignore=lambda _, names: [n for n in names if n > "0002"])
    path = tmp_path / "vp_state.db"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "DIRECTORY", tmp_path / "first")
        first = database.open_ledger(path)
        assert schema.applied(first.db) == ["0001_initial"]
        insert(first, "m-0000000000-queued")
        insert(first, "m-0000000000-ended")
        execute(
            first, "UPDATE vp_mission SET status = 'cancelled', due_at = NULL, finished_at = 1 WHERE id LIKE '%-ended'"
        )
        event(first, "m-0000000000-ended", 1, "mission.dispatched")
        database.close_thread_connection()
        database._current = None
    ledger = database.open_ledger(path)
    assert schema.applied(ledger.db) == schema.known()
    fresh = from_the_models(tmp_path / "fresh.db")
    assert [line for line in schema.description(ledger.db) if not is_hueys(line)] == schema.description(fresh)
    fresh.close()
    rows = ledger.db.execute_sql("SELECT id, status, workspace_bytes FROM vp_mission ORDER BY id").fetchall()
    assert rows == [("m-0000000000-ended", "cancelled", None), ("m-0000000000-queued", "queued", None)]
    assert ledger.db.execute_sql("SELECT COUNT(*) FROM vp_event").fetchone()[0] == 1


# --- ledgers that cannot be used ----------------------------------------------------------------


def test_a_newer_ledger_is_refused_and_left_alone(home: Home) -> None:
    ledger = database.open_ledger(home.database)
    with database.write_transaction():
        ledger.db.execute_sql(f"UPDATE {schema.HISTORY_TABLE} SET name = '9999_later' WHERE name = '0001_initial'")
    database.close_thread_connection()
    database._current = None
    before = home.database.read_bytes()
    error = refused(tools.vp_list_missions(), "ledger_unavailable")
    assert "newer vp-queue" in error["message"]
    assert error["details"]["migration"] == "9999_later"
    assert not error["retryable"]
    refused(tools.vp_dispatch_mission(vp_id="vp.general.primary", objective="x"), "ledger_unavailable")
    assert home.database.read_bytes() == before


def corrupt(path: Path) -> None:
    path.write_bytes(b"this is no database, and long enough to be read as one. " * 100)


def truncated(path: Path) -> None:
    database.open_ledger(path)
    database.close_thread_connection()
    database._current = None
    os.truncate(path, 5000)


def overwritten(path: Path) -> None:
    database.open_ledger(path)
    database.close_thread_connection()
    database._current = None
    with path.open("r+b") as file:
        file.seek(100)  # after the header: the schema's own page
        file.write(b"\xff" * 3996)


@pytest.mark.parametrize("spoil", [corrupt, truncated, overwritten, Path.mkdir])
def test_a_file_that_is_no_ledger_is_an_answer_not_a_traceback(home: Home, spoil: Callable[[Path], None]) -> None:
    spoil(home.database)
    for answer in (
        tools.vp_list_missions(),
        tools.vp_dispatch_mission(vp_id="vp.general.primary", objective="x"),
        tools.vp_read_events(reader="simone", acknowledge=0),
    ):
        error = refused(answer, "ledger_unavailable")
        assert str(home.database) in error["message"]


def test_a_ledger_in_a_folder_that_is_a_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerUnavailable):
        database.open_ledger(tmp_path / "file" / "vp_state.db")


def test_a_ledger_in_no_folder_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable):
        database.open_ledger(tmp_path / "none" / "vp_state.db")


AS_NOBODY = """
import json, os, sys
from pathlib import Path
from vp_queue import tools                  # read while still root: the checkout may be root's only
from vp_queue.ledger import database
from vp_queue.errors import LedgerUnavailable
import playhouse.migrations
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    database.open_ledger(Path(os.environ["LEDGER"]))
    opened = "opened"
except LedgerUnavailable as error:
    opened = error.message
print(json.dumps([opened, tools.vp_list_missions(),
                  tools.vp_dispatch_mission(vp_id="vp.general.primary", objective="x")]))
"""


def as_nobody(home: Path, ledger: Path) -> list[Any]:
    environment = {**os.environ, "VP_HOME": str(home), "VP_DATABASE_URL": f"sqlite:///{ledger}", "LEDGER": str(ledger)}
    ran = subprocess.run(
        [sys.executable, "-c", AS_NOBODY], env=environment, capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ran.returncode == 0, ran.stderr
    answers: list[Any] = json.loads(ran.stdout)
    return answers


@pytest.fixture
def shared_tmp(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder that another user may enter; pytest's own are closed to others."""
    folder = Path("/tmp") / f"vp-queue-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


def nobodys(folder: Path, config: str) -> Path:
    """A VP_HOME that belongs to nobody."""
    home = folder / "home"
    home.mkdir(mode=0o700)
    (home / "vp_queue.toml").write_text(config)
    for path in (home, home / "vp_queue.toml"):
        os.chown(path, NOBODY, NOBODY)
    return home


@needs_root
@pytest.mark.root
@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_ledger_in_a_folder_one_may_not_write_to_is_unavailable(home: Home, shared_tmp: Path, mode: int) -> None:
    own = nobodys(shared_tmp, (home.path / "vp_queue.toml").read_text())
    (shared_tmp / "roots").mkdir()
    (shared_tmp / "roots").chmod(mode)
    opened, listed, dispatched = as_nobody(own, shared_tmp / "roots" / "vp_state.db")
    assert "cannot be created" in opened
    refused(listed, "ledger_unavailable")
    refused(dispatched, "ledger_unavailable")
    assert list((shared_tmp / "roots").iterdir()) == []


@needs_root
@pytest.mark.root
def test_a_ledger_file_one_may_not_write_to_is_unavailable(home: Home, shared_tmp: Path) -> None:
    own = nobodys(shared_tmp, (home.path / "vp_queue.toml").read_text())
    ledger = own / "vp_state.db"
    database.open_ledger(ledger)
    database.close_thread_connection()
    ledger.chmod(0o444)
    _, _, dispatched = as_nobody(own, ledger)
    error = refused(dispatched, "ledger_unavailable")
    assert str(ledger) in error["message"]


@needs_root
@pytest.mark.root
def test_a_home_one_may_not_write_to_is_an_answer_too(home: Home, shared_tmp: Path) -> None:
    own = nobodys(shared_tmp, (home.path / "vp_queue.toml").read_text())
    own.chmod(0o500)
    opened, listed, dispatched = as_nobody(own, own / "vp_state.db")
    assert "cannot be created" in opened
    # The folder is checked before the ledger: the message names it and the command that helps.
    for answer in (listed, dispatched):
        assert str(own) in refused(answer, "configuration_error")["message"]
