"""Waking up: whoever waits for the ledger hears of every commit, by whichever process."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import cysqlite
import pytest

from tests.harness import until
from vp_queue.contracts import EventType
from vp_queue.ledger import database, watch
from vp_queue.ledger.events import record_vp_event
from vp_queue.ledger.models import Event

VP = "vp.general.primary"
GENEROUS_SECONDS = 30  # a deadline that only a fault can reach

COMMITTER = """
import sys, cysqlite
connection = cysqlite.connect(sys.argv[1])
for line in sys.stdin:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO vp_inbox VALUES (?, 0, 0)", (line,))
    connection.execute(line.split()[0])
    print("done", flush=True)
"""


class OtherProcess:
    """Another process that writes to the ledger on demand, and commits or rolls back."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", COMMITTER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._number = 0

    def tell(self, word: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._number += 1
        self._process.stdin.write(f"{word} {self._number}\n".replace(f" {self._number}", f" /* {self._number} */"))
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def commit(self) -> None:
        self.tell("COMMIT")

    def roll_back(self) -> None:
        self.tell("ROLLBACK")

    def close(self) -> None:
        self._process.communicate("")


@pytest.fixture
def ledger(tmp_path: Path) -> database.Ledger:
    return database.open_ledger(tmp_path / "vp_state.db")


@pytest.fixture
def other(ledger: database.Ledger) -> OtherProcess:
    process = OtherProcess(ledger.path)
    yield process
    process.close()


@pytest.fixture(params=["inotify", "polling"])
def changes(
    request: pytest.FixtureRequest, ledger: database.Ledger, monkeypatch: pytest.MonkeyPatch
) -> watch.ChangeWatch:
    """The watch of the ledger, once with inotify and once as on a platform that has none."""
    opened = threading.Event()
    if request.param == "polling":

        def none(folder: Path) -> None:
            opened.set()

        monkeypatch.setattr(watch, "_open_inotify", none)
    made = watch.current()
    made.token()
    assert opened.is_set() == (request.param == "polling")
    return made


def waits(changes: watch.ChangeWatch) -> tuple[threading.Thread, Callable[[], bool]]:
    """A thread that waits for the next change; and whether it was woken by one."""
    token = changes.token()
    woken: list[bool] = []
    thread = threading.Thread(target=lambda: woken.append(changes.wait(token, GENEROUS_SECONDS)))
    thread.start()
    return thread, lambda: woken == [True]


def note() -> None:
    with database.write_transaction() as tx:
        record_vp_event(tx, VP, EventType.VP_PAUSED)


def test_a_commit_of_another_process_wakes_a_waiter(changes: watch.ChangeWatch, other: OtherProcess) -> None:
    for _ in range(5):
        thread, woken = waits(changes)
        other.commit()
        thread.join()
        assert woken()


def test_a_commit_of_this_process_wakes_a_waiter(changes: watch.ChangeWatch) -> None:
    thread, woken = waits(changes)
    note()
    thread.join()
    assert woken()


def test_all_waiters_are_woken(changes: watch.ChangeWatch, other: OtherProcess) -> None:
    waiters = [waits(changes) for _ in range(2)]
    other.commit()
    for thread, _ in waiters:
        thread.join()
    assert [woken() for _, woken in waiters] == [True, True]


def test_a_commit_between_token_and_wait_is_not_missed(changes: watch.ChangeWatch, other: OtherProcess) -> None:
    token = changes.token()
    other.commit()
    assert changes.wait(token, GENEROUS_SECONDS)
    assert changes.wait(token, 0), "the token stays spent"


def test_what_was_committed_is_visible_to_the_woken(changes: watch.ChangeWatch) -> None:
    seen: list[int] = []
    token = changes.token()

    def look() -> None:
        changes.wait(token, GENEROUS_SECONDS)
        seen.append(Event.select().count())

    thread = threading.Thread(target=look)
    thread.start()
    note()
    thread.join()
    assert seen == [1]


def test_a_rollback_is_no_change_and_the_next_commit_is(changes: watch.ChangeWatch, other: OtherProcess) -> None:
    token = changes.token()
    other.roll_back()
    thread, woken = waits(changes)
    assert changes.token() == token
    other.commit()
    thread.join()
    assert woken()


def test_rollbacks_do_not_keep_the_watch_busy(
    ledger: database.Ledger, other: OtherProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After a write that never commits, the thread gives up looking and blocks again.
    looked = threading.Event()
    blocked_again = threading.Event()
    await_write = watch._await_write

    def observed(inotify: int | None, names: set[bytes]) -> bool:
        if looked.is_set():
            blocked_again.set()
        looked.set()
        return await_write(inotify, names)

    monkeypatch.setattr(watch, "_await_write", observed)
    token = watch.current().token()
    assert looked.wait(GENEROUS_SECONDS)
    other.roll_back()
    assert blocked_again.wait(GENEROUS_SECONDS)
    assert watch.current().token() == token


def test_wake_wakes_without_a_commit(changes: watch.ChangeWatch) -> None:
    thread, woken = waits(changes)
    changes.wake()
    thread.join()
    assert woken()


def test_without_a_change_the_wait_ends_unwoken(changes: watch.ChangeWatch) -> None:
    assert changes.wait(changes.token(), 0) is False


def test_two_threads_share_one_watch_and_its_one_thread(ledger: database.Ledger) -> None:
    start, watches = threading.Barrier(2), []

    def look() -> None:
        start.wait()
        watches.append(watch.current())
        watches[-1].token()

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert watches[0] is watches[1]
    assert watches[0] is watch.current()


def test_trouble_while_watching_is_outlived(
    ledger: database.Ledger, other: OtherProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "SLOW_POLL_SECONDS", 0.01)
    version, failed = watch._VersionReader.version, threading.Event()

    def once_broken(reader: watch._VersionReader) -> tuple[int, int]:
        if not failed.is_set():
            failed.set()
            raise cysqlite.OperationalError("disk I/O error")
        return version(reader)

    monkeypatch.setattr(watch._VersionReader, "version", once_broken)
    changes = watch.current()
    token = changes.token()
    assert changes.wait(token, GENEROUS_SECONDS), "waiters look at the ledger themselves while watching is in trouble"
    thread, woken = waits(changes)
    other.commit()
    thread.join()
    assert woken()
    assert "watching the ledger failed" in caplog.text


def test_watching_never_makes_a_ledger_where_there_is_none(
    ledger: database.Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "SLOW_POLL_SECONDS", 0.01)
    database.close_thread_connection()
    ledger.path.unlink()
    changes = watch.current()
    assert changes.wait(changes.token(), GENEROUS_SECONDS)
    assert "watching the ledger failed" in caplog.text
    assert not ledger.path.exists()


def test_the_watch_of_a_ledger_that_was_left_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SLOW_POLL_SECONDS", 0.01)
    database.open_ledger(tmp_path / "one.db")
    left = watch.current()
    left.token()
    thread = left._thread
    assert thread is not None
    gone = weakref.ref(database.current())
    database.open_ledger(tmp_path / "two.db")
    gc.collect()
    assert gone() is None
    until(lambda: not thread.is_alive(), "the watch's thread ended", GENEROUS_SECONDS)
