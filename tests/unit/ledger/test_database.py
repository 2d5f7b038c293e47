"""Transactions: all or nothing, bounded waiting, one connection per thread, none inherited over a fork."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import cysqlite
import pytest

from tests.harness import Home, command, ok, refused
from vp_queue import clock, tools
from vp_queue.contracts import EventType, limits
from vp_queue.errors import LedgerBusy, LedgerUnavailable
from vp_queue.ledger import database, fleet, locks, schema, watch
from vp_queue.ledger.database import read_transaction, write_transaction
from vp_queue.ledger.events import record_vp_event
from vp_queue.ledger.models import Agent, Event, Inbox
from vp_queue.queue.storage import LedgerStorage

VP = "vp.general.primary"

HOLDER = """
import sys, cysqlite
connection = cysqlite.connect(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def ledger(tmp_path: Path) -> database.Ledger:
    return database.open_ledger(tmp_path / "vp_state.db")


@contextmanager
def lock_held_by_another_process(path: Path) -> Iterator[None]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
    finally:
        holder.communicate("")


def synchronous() -> int:
    """Whether this thread's commits wait for the disk: 2 = they do, 1 = only checkpoints."""
    return int(database.current().db.connection().pragma("synchronous"))


def note(text: str) -> None:
    """One small write with an event."""
    with write_transaction() as tx:
        record_vp_event(tx, VP, EventType.VP_PAUSED, {"text": text})


def roll_back() -> None:
    """The same, but the caller fails before the end."""

    def broken() -> None:
        with write_transaction() as tx:
            record_vp_event(tx, VP, EventType.VP_PAUSED, {"text": "never"})
            raise KeyError

    with pytest.raises(KeyError):
        broken()


def notes() -> list[str]:
    return [event.data["text"] for event in Event.select().order_by(Event.seq)]


# --- one transaction ----------------------------------------------------------------------------


def test_write_transactions_do_not_nest(ledger: database.Ledger) -> None:
    with write_transaction():
        with pytest.raises(RuntimeError, match="does not nest"), write_transaction():
            pass
    note("afterwards writing works")


def test_reads_inside_a_write_join_it(ledger: database.Ledger) -> None:
    with write_transaction() as tx:
        record_vp_event(tx, VP, EventType.VP_PAUSED, {"text": "seen inside"})
        with read_transaction():
            assert notes() == ["seen inside"]


def test_an_exception_leaves_nothing_and_announces_nothing(
    ledger: database.Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(database, "_observers", [heard.extend])
    roll_back()
    assert (notes(), heard) == ([], [])
    assert not ledger.db.in_transaction()
    note("kept")
    assert notes() == ["kept"]
    assert [event["data"] for event in heard] == [{"text": "kept"}]


def test_a_seq_of_a_rolled_back_event_hides_nothing(ledger: database.Ledger) -> None:
    note("one")
    roll_back()
    note("two")
    assert [event.seq for event in Event.select().order_by(Event.seq)] == [1, 2]


def test_observers_hear_of_events_after_the_commit_only(
    ledger: database.Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed: list[int] = []

    def look(events: list[dict[str, Any]]) -> None:
        other = cysqlite.connect(str(ledger.path))
        committed.append(other.execute("SELECT COUNT(*) FROM vp_event").fetchone()[0])
        other.close()

    monkeypatch.setattr(database, "_observers", [look])
    note("one")
    assert committed == [1]


def test_what_an_observer_raises_is_swallowed_and_the_next_one_is_called(
    ledger: database.Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def broken(events: list[dict[str, Any]]) -> None:
        raise RuntimeError("an observer's bug")

    monkeypatch.setattr(database, "_observers", [broken, lambda events: heard.append(events[0]["type"])])
    note("one")
    assert heard == [EventType.VP_PAUSED]
    assert notes() == ["one"]
    assert "an observer's bug" in caplog.text


def test_an_observer_may_write(ledger: database.Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        database, "_observers", [lambda events: note("echo") if events[0]["data"]["text"] != "echo" else None]
    )
    note("call")
    assert notes() == ["call", "echo"]


def test_a_transaction_reads_the_wall_clock_once(ledger: database.Ledger) -> None:
    with write_transaction() as tx:
        record_vp_event(tx, VP, EventType.VP_PAUSED, {"text": "a"})
        record_vp_event(tx, VP, EventType.VP_PAUSED, {"text": "b"})
    assert len({event.at for event in Event.select()}) == 1


def test_a_read_transaction_is_one_snapshot(ledger: database.Ledger) -> None:
    note("before")
    with read_transaction():
        assert notes() == ["before"]
        writer = threading.Thread(target=note, args=("meanwhile",))
        writer.start()
        writer.join()
        assert notes() == ["before"]
    assert notes() == ["before", "meanwhile"]


# --- the write lock in other hands --------------------------------------------------------------


def test_under_a_foreign_lock_writes_answer_busy_in_time_and_reads_go_on(home: Home) -> None:
    mission_id = command("true")["mission_id"]
    with lock_held_by_another_process(home.database):
        answers: list[dict[str, Any]] = []
        began = time.monotonic()

        def write() -> None:
            answers.append(tools.vp_cancel_mission(mission_id=mission_id))

        writer = threading.Thread(target=write)
        writer.start()
        # While the writer waits, every kind of read answers.
        assert ok(tools.vp_get_mission(mission_id=mission_id))["mission"]["status"] == "queued"
        assert len(ok(tools.vp_list_missions())["missions"]) == 1
        assert ok(tools.vp_wait_mission(mission_id=mission_id, timeout_seconds=0))["timed_out"]
        assert ok(tools.vp_read_events(reader="simone"))["events"]
        ok(tools.vp_list_vps())
        writer.join()
        assert time.monotonic() - began < 10
        error = refused(answers[0], "ledger_busy")
        assert error["retryable"]
        assert error["retry_after_seconds"] > 0
        assert ok(tools.vp_get_mission(mission_id=mission_id))["mission"]["cancel_requested"] is False
    assert ok(tools.vp_cancel_mission(mission_id=mission_id))["changed"]


def test_a_write_waits_for_a_lock_that_is_given_back(ledger: database.Ledger) -> None:
    waiting = threading.Event()
    done = threading.Event()

    def write() -> None:
        waiting.set()
        note("patient")
        done.set()

    writer = threading.Thread(target=write)
    with lock_held_by_another_process(ledger.path):
        writer.start()
        assert waiting.wait(30)
        assert not done.is_set()
    writer.join()
    assert notes() == ["patient"]


def test_a_write_gives_up_only_after_the_limit(ledger: database.Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WRITE_WAIT_SECONDS", 0.0)
    with lock_held_by_another_process(ledger.path):
        with pytest.raises(LedgerBusy), write_transaction():
            raise AssertionError("the body must not run without the lock")
    note("afterwards")
    assert notes() == ["afterwards"]


def test_many_threads_write_without_an_error(ledger: database.Ledger) -> None:
    start = threading.Barrier(16)
    errors: list[BaseException] = []

    def write(name: int) -> None:
        try:
            start.wait()
            for number in range(20):
                note(f"{name}-{number}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(notes()) == sorted(f"{name}-{number}" for name in range(16) for number in range(20))
    assert [event.seq for event in Event.select().order_by(Event.seq)] == list(range(1, 321))


def test_threads_that_open_the_ledger_at_once_open_one(tmp_path: Path) -> None:
    start = threading.Barrier(8)
    opened: list[database.Ledger] = []

    def first_use() -> None:
        start.wait()
        opened.append(database.open_ledger(tmp_path / "vp_state.db"))
        note("written at once")

    threads = [threading.Thread(target=first_use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 8
    assert len({id(ledger) for ledger in opened}) == 1
    assert len(notes()) == 8


# --- processes, homes, files --------------------------------------------------------------------

FORKING = """
import os, sys, threading
from vp_queue import clock, tools
from vp_queue.contracts import limits
from vp_queue.ledger import database
limits.WRITE_WAIT_SECONDS = 3.0
def dispatch():
    answer = tools.vp_dispatch_mission(vp_id="vp.general.primary", objective="x")
    assert answer["ok"], answer
    return answer["mission"]["mission_id"]
first = dispatch()
tools.vp_wait_mission(mission_id=first, timeout_seconds=0)      # its watch thread runs, too
release = threading.Event()
if sys.argv[1] == "busy":
    busy = threading.Event()
    def hold():                             # another thread is inside a transaction while this one forks
        with database.write_transaction():
            busy.set()
            release.wait()
    holder = threading.Thread(target=hold)
    holder.start()
    busy.wait()
    threading.Timer(0.3, release.set).start()   # the fork waits for it
pid = os.fork()
if pid == 0:
    code = 1
    try:
        assert tools.vp_get_mission(mission_id=first)["ok"]
        answer = tools.vp_wait_mission(mission_id=first, timeout_seconds=0)
        assert answer["ok"], answer
        print("child", dispatch(), flush=True)
        code = 0
    finally:
        os._exit(code)
release.set()
print("parent", dispatch(), flush=True)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert len(tools.vp_list_missions()["missions"]) == 3
print("parent", dispatch(), flush=True)
"""


@pytest.mark.parametrize("meanwhile", ["idle", "busy"])
def test_after_a_fork_both_the_child_and_the_parent_work(home: Home, meanwhile: str) -> None:
    argv = [sys.executable, "-c", FORKING, meanwhile]
    ran = subprocess.run(argv, env=home.environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert sorted(line.split()[0] for line in ran.stdout.splitlines()) == ["child", "parent", "parent"]
    ids = {line.split()[1] for line in ran.stdout.splitlines()}
    listed = {mission["mission_id"] for mission in ok(tools.vp_list_missions())["missions"]}
    assert ids < listed
    assert len(listed) == 4
    connection = cysqlite.connect(str(home.database))
    assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    connection.close()


CLOSES_LAST = {
    "vp-queue": "from vp_queue import tools; assert tools.vp_list_missions()['ok']",
    # Any other client deletes the log when it believes to be the last to close.
    "another": (
        "import cysqlite, sys; c = cysqlite.connect(sys.argv[1]); c.execute('select 1 from task').fetchall(); c.close()"
    ),
}


@pytest.mark.parametrize("closer", CLOSES_LAST)
def test_what_is_acknowledged_after_the_locks_were_dropped_is_kept(home: Home, closer: str) -> None:
    """Opening and closing the file by other means drops this process's locks on it (POSIX)."""
    made = [command("true")["mission_id"]]
    for _ in range(3):
        home.database.open("rb").close()
        subprocess.run(
            [sys.executable, "-c", CLOSES_LAST[closer], str(home.database)], env=home.environment, check=True
        )
        made.append(command("true")["mission_id"])
    seen = subprocess.run(
        [sys.executable, "-c", "import json; from vp_queue import tools; print(json.dumps(tools.vp_list_missions()))"],
        env=home.environment,
        capture_output=True,
        check=True,
    )
    assert {mission["mission_id"] for mission in json.loads(seen.stdout)["missions"]} == set(made)


INSIDE = """
import os
from vp_queue import clock, tools
from vp_queue.ledger import database
tools.vp_list_vps()
with database.write_transaction():
    pid = os.fork()
    if pid == 0:
        answer = tools.vp_dispatch_mission(vp_id="vp.general.primary", objective="x")
        os._exit(0 if not answer["ok"] and answer["error"]["code"] == "ledger_unavailable" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert tools.vp_dispatch_mission(vp_id="vp.general.primary", objective="x")["ok"]
"""


def test_a_child_forked_inside_a_transaction_refuses_rather_than_corrupts(home: Home) -> None:
    ran = subprocess.run([sys.executable, "-c", INSIDE], env=home.environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "forking inside a ledger transaction" in ran.stderr


ORPHANED = """
import os, sys
from vp_queue import clock, tools
def dispatch():
    answer = tools.vp_dispatch_mission(vp_id="vp.general.primary", objective="x")
    assert answer["ok"], answer
    return answer["mission"]["mission_id"]
dispatch()
reader, writer = os.pipe()
if os.fork() == 0:
    os.close(writer)
    os.read(reader, 1)                      # end of file: the parent has exited
    for line in sys.stdin:
        print(dispatch(), flush=True)
    os._exit(0)
"""


def test_what_a_forked_child_acknowledges_after_its_parent_exited_is_kept(home: Home) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", ORPHANED], env=home.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child.wait()  # the parent; the child holds the other ends of the pipes
    assert child.stdin is not None
    assert child.stdout is not None
    acknowledged = []
    for _ in range(3):
        child.stdin.write("go\n")
        child.stdin.flush()
        acknowledged.append(child.stdout.readline().strip())
        acknowledged.append(command("true")["mission_id"])
    child.communicate("")
    listed = {mission["mission_id"] for mission in ok(tools.vp_list_missions())["missions"]}
    assert set(acknowledged) <= listed


def test_two_homes_in_one_process_stay_apart(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    (other / "vp_queue.toml").write_text((home.path / "vp_queue.toml").read_text())
    here, there = [], []
    for _ in range(3):
        monkeypatch.setenv("VP_HOME", str(home.path))
        here.append(command("true")["mission_id"])
        monkeypatch.setenv("VP_HOME", str(other))
        there.append(command("true")["mission_id"])
        refused(tools.vp_get_mission(mission_id=here[-1]), "mission_not_found")
    listed = [mission["mission_id"] for mission in ok(tools.vp_list_missions())["missions"]]
    assert sorted(listed) == sorted(there)
    monkeypatch.setenv("VP_HOME", str(home.path))
    listed = [mission["mission_id"] for mission in ok(tools.vp_list_missions())["missions"]]
    assert sorted(listed) == sorted(here)


def test_a_ledger_that_was_replaced_is_opened_anew(ledger: database.Ledger) -> None:
    note("in the old file")
    os.rename(ledger.path, f"{ledger.path}.old")
    for suffix in ("-wal", "-shm"):
        Path(f"{ledger.path}{suffix}").unlink(missing_ok=True)
    assert not database.is_current(ledger.path)
    assert database.open_ledger(ledger.path, anew=True) is not ledger
    assert notes() == []


def replaced_under_a_writer(ledger: database.Ledger) -> list[str]:
    """A thread writes by model, statement and queue while another opens the file that took the ledger's place.

    Returns:
        what the writer was told, or ``acknowledged``.
    """
    inside, go, told = threading.Event(), threading.Event(), []

    def write() -> None:
        try:
            with write_transaction() as tx:
                inside.set()
                go.wait(60)
                Inbox.insert(reader="a model", acknowledged_seq=0, updated_at=tx.now).execute()
                record_vp_event(tx, VP, EventType.VP_PAUSED)
                LedgerStorage(VP).enqueue(b"a wake-up")
            told.append("acknowledged")
        except LedgerUnavailable as error:
            told.append(error.message)

    thread = threading.Thread(target=write)
    thread.start()
    assert inside.wait(60)
    for suffix in ("", "-wal", "-shm"):
        os.rename(f"{ledger.path}{suffix}", f"{ledger.path}{suffix}.old")
    database.open_ledger(ledger.path, anew=True)
    go.set()
    thread.join(60)
    return told


def rows(path: Path) -> list[int]:
    """How many rows there are of what that thread writes."""
    connection = cysqlite.connect(str(path))
    try:
        tables = ("vp_inbox", "vp_event", "task")
        return [connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables]
    finally:
        connection.close()


def test_a_transaction_stays_with_its_ledger_when_another_thread_opens_the_next(ledger: database.Ledger) -> None:
    (told,) = replaced_under_a_writer(ledger)
    assert "lost" in told
    assert rows(ledger.path) == [0, 0, 0]
    note("afterwards, in the new one")
    assert rows(ledger.path) == [0, 1, 0]


def test_a_transaction_that_follows_the_current_ledger_writes_what_it_says_is_lost(
    ledger: database.Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(database, "_staying_with", lambda ledger: nullcontext())
    replaced_under_a_writer(ledger)
    assert rows(ledger.path) != [0, 0, 0]


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (errno.ENOENT, "removed"),
        (errno.ENOTDIR, "removed"),
        (errno.EIO, None),
        (errno.ESTALE, None),
        (errno.EACCES, None),
    ],
)
def test_only_a_file_that_is_not_there_counts_as_removed(
    ledger: database.Ledger, monkeypatch: pytest.MonkeyPatch, code: int, what: str | None
) -> None:
    stat = os.stat

    def failing(path: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(str(ledger.path)):
            raise OSError(code, os.strerror(code))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", failing)
    told = ledger.what_became_of_it()
    assert told is None if what is None else what in str(told)
    assert database.is_current(ledger.path) == (what is None)


def test_a_ledger_that_was_removed_is_not_replaced_by_an_empty_one(ledger: database.Ledger) -> None:
    note("something")
    for path in ledger.path.parent.glob("vp_state.db*"):
        if path != schema.lock_path(ledger.path):
            path.unlink()
    with pytest.raises(LedgerUnavailable, match=r"vp restore FILE.*vp init --new-ledger"):
        database.open_ledger(ledger.path)
    assert not ledger.path.exists()
    # Whoever has it open writes into a file that has no name any more, and is told so.
    with pytest.raises(LedgerUnavailable, match="removed"):
        note("into the void")


def test_a_ledger_that_was_emptied_is_not_taken_for_a_new_one(ledger: database.Ledger) -> None:
    database.close_thread_connection()
    os.truncate(ledger.path, 0)
    Path(f"{ledger.path}-wal").unlink(missing_ok=True)
    with pytest.raises(LedgerUnavailable, match="gone"):
        schema.ensure(database.Ledger(ledger.path).db, ledger.path)


def test_a_process_without_a_ledger_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_current", None)
    with pytest.raises(LedgerUnavailable), write_transaction():
        pass


def test_every_connection_has_the_settings_that_the_promise_needs(ledger: database.Ledger) -> None:
    seen: dict[str, Any] = {}

    def look() -> None:
        for name in ("journal_mode", "synchronous", "foreign_keys"):
            seen[name] = ledger.db.execute_sql(f"PRAGMA {name}").fetchone()[0]

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_the_driver_has_the_fix_for_the_wal_reset_race() -> None:
    assert tuple(int(part) for part in database.versions()["cysqlite"].split(".")) >= (3, 51, 3)


# --- instants -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "instant",
    [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 59, 59, 999_999, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2026, 6, 1, 12, 0, 0, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    ],
)
def test_instants_are_stored_as_microseconds_and_come_back_aware(ledger: database.Ledger, instant: datetime) -> None:
    with write_transaction():
        Agent.insert(vp_id=VP, changed_at=instant).execute()
    stored = ledger.db.execute_sql("SELECT changed_at, typeof(changed_at) FROM vp_agent").fetchone()
    assert stored == ((instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1), "integer")
    read = Agent.get_by_id(VP).changed_at
    assert read == instant
    assert read.utcoffset() == timedelta(0)
    assert datetime.now(UTC) - read is not None  # what crashed the earlier system


def test_a_naive_time_is_refused_before_it_is_stored(ledger: database.Ledger) -> None:
    with pytest.raises(ValueError, match="naive"), write_transaction():
        Agent.insert(vp_id=VP, changed_at=datetime(2026, 1, 1)).execute()  # noqa: DTZ001  the fault to refuse
    assert Agent.select().count() == 0


def test_pausing_twice_writes_once(ledger: database.Ledger) -> None:
    for expected in (True, False):
        with write_transaction() as tx:
            assert fleet.pause(tx, VP, "lunch") is expected
    assert [event.type for event in Event.select()] == [EventType.VP_PAUSED]


def test_a_resume_ends_pause_and_drain_and_one_that_keeps_the_pause_the_drain_alone(ledger: database.Ledger) -> None:
    with write_transaction() as tx:
        fleet.pause(tx, VP, "lunch")
        assert fleet.set_draining(tx, VP, "deploy")
        assert not fleet.set_draining(tx, VP, "deploy")
    with write_transaction() as tx:
        assert fleet.resume(tx, VP, only_drain_for="deploy")
        assert not fleet.resume(tx, VP, only_drain_for="deploy")
    assert fleet.on_hold(VP)
    assert Agent.get_by_id(VP).pause_reason == "lunch"
    with write_transaction() as tx:
        assert fleet.resume(tx, VP)
    assert not fleet.on_hold(VP)
    kinds = [(event.type, event.data.get("still_paused")) for event in Event.select().order_by(Event.seq)]
    assert kinds == [("vp.paused", None), ("vp.draining", None), ("vp.resumed", True), ("vp.resumed", False)]


def test_the_holder_of_the_write_lock_can_be_named(ledger: database.Ledger) -> None:
    assert locks.write_lock_holder(ledger.path) is None
    with database.write_transaction():
        assert locks.write_lock_holder(ledger.path) == os.getpid()
    assert locks.write_lock_holder(ledger.path) is None


# --- commits that need not be synced ------------------------------------------------------------


def test_a_commit_waits_for_the_disk_unless_told_otherwise(ledger: database.Ledger) -> None:
    with write_transaction():
        assert synchronous() == 2
    with write_transaction(synced=False):
        assert synchronous() == 1
    assert synchronous() == 2


def test_after_an_unsynced_transaction_that_failed_commits_are_synced_again(ledger: database.Ledger) -> None:
    with pytest.raises(KeyError), write_transaction(synced=False):
        raise KeyError
    assert synchronous() == 2
    with lock_held_by_another_process(ledger.path), pytest.raises(LedgerBusy), write_transaction(synced=False):
        pass
    assert synchronous() == 2


def test_what_was_written_unsynced_is_there_for_everybody(ledger: database.Ledger) -> None:
    with write_transaction(synced=False) as tx:
        record_vp_event(tx, VP, EventType.VP_PAUSED, {"text": "here"})
    other = cysqlite.connect(str(ledger.path))
    assert other.execute("SELECT count(*) FROM vp_event").fetchone()[0] == 1
    other.close()


def test_a_ledger_that_is_reached_by_a_link_is_guarded_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "vp_state.db"
    link.symlink_to(tmp_path / "disk" / "real.db")
    (tmp_path / "disk" / "real.db").touch(mode=0o600)
    ledger = database.open_ledger(link)
    changes = watch.current()
    token = changes.token()
    with write_transaction():
        assert locks.write_lock_holder(link) == os.getpid()
        Agent.insert(vp_id=VP, changed_at=clock.now()).execute()
    assert changes.wait(token, 30)
    log = tmp_path / "disk" / "real.db-wal"
    log.rename(tmp_path / "elsewhere")
    log.touch()
    assert ledger.db.log_is_another()
