"""Opens the ledger and owns every transaction on it.

One process has one *current* ledger; each thread gets its own SQLite connection (Peewee's thread-local state) and
a forked child starts with none. A transaction stays with the ledger it began on, whatever other threads open
meanwhile, and so do the models in its thread. The driver is cysqlite, whose SQLite has the WAL-reset fix that the
standard library's on Debian 12 lacks.

There are two ways in: :func:`read_transaction` (a snapshot, never blocks or is blocked) and
:func:`write_transaction` (``BEGIN IMMEDIATE``, bounded waiting, then ``ledger_busy``). A deferred
transaction that reads first and writes later gave 3,107 "database is locked" in 4,000 dispatches from
eight processes; IMMEDIATE gave none. Nobody else opens a transaction.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3  # for its version only: the file is never opened with it
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import cysqlite
from playhouse.cysqlite_ext import CySqliteDatabase

from vp_queue import clock
from vp_queue.contracts import limits
from vp_queue.errors import LedgerUnavailable, VpError
from vp_queue.ledger import forks, models, schema, tally
from vp_queue.ledger.trouble import DRIVER_ERRORS, corrupt, is_busy, translated_errors

logger = logging.getLogger("vp_queue.ledger")

# One attempt at BEGIN waits this long inside SQLite's (jittered) busy handler; attempts repeat until
# limits.WRITE_WAIT_SECONDS are over.
BEGIN_WAIT_SECONDS: Final = 2.0
Identity = tuple[int, int]  # of a file: its device and inode
GONE: Final[Identity] = (0, 0)  # there is none
FCNTL_PERSIST_WAL: Final = 10  # SQLITE_FCNTL_PERSIST_WAL
OPEN_READWRITE: Final[int] = getattr(cysqlite, "SQLITE_OPEN_READWRITE")  # noqa: B009  made at run time
NORMAL: Final = 1  # of PRAGMA synchronous: in a log (WAL), only checkpoints wait for the disk
PRAGMAS: Final = {
    "synchronous": 2,  # FULL: an acknowledged dispatch survives a power cut
    "foreign_keys": 1,
    "cache_size": -8000,  # KiB
    "temp_store": 2,
    "journal_size_limit": 64 * 1024 * 1024,
}


class LedgerDatabase(CySqliteDatabase):
    """Peewee's cysqlite database with a busy handler that sleeps with jitter.

    SQLite's own handler backs off to 100 ms steps and is unfair: under eight writers its slowest
    dispatch took 1.4 s. cysqlite's handler retries at short random intervals instead.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._log = threading.local()
        super().__init__(*args, **kwargs)
        # SQLite puts the log beside the file that a link leads to.
        self._log_path = f"{os.path.realpath(self.database)}-wal"

    def _connect(self) -> cysqlite.Connection:
        # Never creates the file: an empty one in the place of a removed ledger would pass for a new one.
        connection = forks.connect(self.database, flags=OPEN_READWRITE, timeout=self._timeout, **self.connect_params)
        try:
            self._add_conn_hooks(connection)
        except BaseException:
            connection.close()
            raise
        connection.pragma("user_version")  # reads the file, which opens the log
        self._log.identity = _identity(self._log_path)
        return connection

    def log_is_another(self) -> bool:
        """Whether this thread's connection writes to a log (``-wal``) that is no longer the ledger's.

        POSIX drops a process's locks on a file when it closes *any* descriptor of it, say of ``open(path)`` or
        of another SQLite library. The next client to close last then deletes the log, and a connection that
        goes on writes into the void. So it is looked at before each transaction and after each commit.
        """
        if self.is_closed():
            return False
        now = _identity(self._log_path)
        if self._log.identity in (None, GONE):
            self._log.identity = now
        return now is not None and bool(self._log.identity != now)

    def _add_conn_hooks(self, conn: Any) -> None:
        conn.set_busy_handler(BEGIN_WAIT_SECONDS)
        super()._add_conn_hooks(conn)
        # Our own last closer leaves the log in place: no process of ours can be cut off from it (see below).
        conn.file_control(FCNTL_PERSIST_WAL, 1)

    def rollback(self) -> None:
        """Roll back, unless SQLite has done so itself (a full disk, an I/O error): that error is the one to tell."""
        if self.connection().in_transaction:
            super().rollback()


@dataclass
class Transaction:
    """An open write transaction. ``now`` is its one reading of the wall clock."""

    now: datetime
    events: list[dict[str, Any]] = field(default_factory=list)
    counts: tally.Counts = field(default_factory=dict)

    def count(self, vp_id: str, measure: str, value: float = 1) -> None:
        """Add to a tally when this commits; ``tally`` has the measures."""
        self.counts[vp_id, measure] = self.counts.get((vp_id, measure), 0) + value


CommitObserver = Callable[[list[dict[str, Any]]], None]


class Ledger:
    """An open ledger file. Make one with :func:`open_ledger`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = self._unconnected()
        self.identity: Identity | None = None  # at opening: a file replaced since is another ledger

    def _unconnected(self) -> LedgerDatabase:
        return LedgerDatabase(
            str(self.path), rank_functions=False, pragmas=PRAGMAS, timeout=BEGIN_WAIT_SECONDS, lock_type="immediate"
        )

    def what_became_of_it(self) -> str | None:
        """None while the file is the one that was opened, or cannot be looked at now; else what happened to it."""
        now = _identity(self.path)
        if now is None or self.identity in (None, now):
            return None
        return f"the ledger {self.path} was {'removed' if now == GONE else 'replaced by another file'}"

    def renew(self) -> None:
        """Start without connections: a fork closed those there were."""
        self.db = self._unconnected()


class _ThreadsDatabase:
    """What the models are bound to: the database of the ledger that is :func:`current` in the asking thread."""

    def __getattr__(self, name: str) -> Any:
        return getattr(current().db, name)


models.database_proxy.initialize(_ThreadsDatabase())
_lock = threading.RLock()
_current: Ledger | None = None
_mine = threading.local()  # the ledger that this thread's open transaction began on
_observers: list[CommitObserver] = []


def open_ledger(path: Path, *, anew: bool = False) -> Ledger:
    """Make the ledger at ``path`` the current one, creating or migrating it on first use.

    Cheap when it is current already, so every tool call goes through here.

    Args:
        anew: also make a new ledger where one stood before and was removed; otherwise that is refused, for an
            empty ledger in its place would pass for the old one.

    Raises:
        LedgerUnavailable: removed, unreadable, corrupt, on a full disk, or written by a newer vp-queue.
        LedgerBusy: another process held the migration lock for too long.
    """
    global _current
    if is_current(path):
        return current()
    with _lock, forks.passage(), translated_errors(path):
        if is_current(path):
            return current()  # another thread opened it meanwhile
        if _current is not None:
            close_thread_connection()
        ledger = Ledger(path)
        schema.ensure(ledger.db, path, anew=anew)
        ledger.identity = _identity(path)
        _current = ledger
        return ledger


def is_current(path: Path) -> bool:
    """Whether the ledger at ``path`` is open here, and still the same file as far as can be told."""
    ledger = _current
    return ledger is not None and ledger.path == path and ledger.what_became_of_it() is None


def current() -> Ledger:
    """The ledger of this thread's open transaction; else the one that :func:`open_ledger` made current.

    What a transaction writes after another thread opened another ledger would else go there, at once and uncommitted
    by anybody, while the transaction itself commits nothing and says so.
    """
    ledger: Ledger | None = getattr(_mine, "ledger", None) or _current
    if ledger is None:
        raise LedgerUnavailable("The ledger is not open in this process; call open_ledger first.")
    return ledger


def check_intact() -> None:
    """Look through the current ledger for damage, as whoever executes or repairs does before it starts.

    A ledger beyond ``limits.CHECKED_BYTES`` is not looked through: it would keep a restarted worker from its work
    for long. ``vp backup`` does it whatever the size.

    Raises:
        LedgerUnavailable: it is corrupt.
    """
    ledger = current()
    if os.stat(ledger.path).st_size > limits.CHECKED_BYTES:
        return
    with read_transaction():
        found = ledger.db.execute_sql("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise corrupt(ledger.path, str(found))


def close_thread_connection() -> None:
    """Close this thread's connection, if it has one."""
    if _current is not None and not _current.db.is_closed():
        _current.db.close()


def _identity(path: Path | str) -> Identity | None:
    """Which file is there, or ``GONE``; None: it cannot be told now, for the disk or its server is in trouble."""
    try:
        stat = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return GONE
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


@contextlib.contextmanager
def _staying_with(ledger: Ledger) -> Iterator[None]:
    """This ledger is the current one for this thread, whatever others open."""
    _mine.ledger = ledger
    try:
        yield
    finally:
        _mine.ledger = None


@contextlib.contextmanager
def read_transaction() -> Iterator[datetime]:
    """A consistent snapshot for several reads; yields the instant to compute durations with.

    Joins an open transaction, so a writer may use the same queries.
    """
    ledger = current()
    with forks.passage(), translated_errors(ledger.path):
        if ledger.db.in_transaction():
            yield clock.now()
            return
        _reattach(ledger)
        with _staying_with(ledger), ledger.db.atomic("deferred"):
            yield clock.now()


@contextlib.contextmanager
def write_transaction(*, synced: bool = True) -> Iterator[Transaction]:
    """The only way to write: ``BEGIN IMMEDIATE``, all or nothing, then the events are announced.

    Args:
        synced: False does not wait for the disk: a power cut may undo the commit, whole, with those that followed
            it until the next synced one; nothing else undoes it. For what means nothing after a restart of the
            machine.

    Raises:
        LedgerBusy: the write lock could not be had within ``limits.WRITE_WAIT_SECONDS``.
        LedgerUnavailable: disk full, read-only, corrupt.
        RuntimeError: a write transaction is already open in this thread.
    """
    ledger = current()
    if ledger.db.in_transaction():
        raise RuntimeError("write_transaction does not nest: pass the open Transaction on")
    with forks.passage(), translated_errors(ledger.path):
        _reattach(ledger)
        with _staying_with(ledger), _begun(ledger) if synced else _begun_unsynced(ledger):
            transaction = Transaction(now=clock.now())
            yield transaction
            if transaction.counts:
                tally.write(ledger.db.connection(), transaction.counts, transaction.now)
        if ledger.db.log_is_another():
            raise LedgerUnavailable(
                f"The log of {ledger.path} was removed while this was written; it may be lost. Something opens the "
                "ledger by other means than vp-queue and SQLite's own; find it, then try again.",
                path=str(ledger.path),
            )
        gone = ledger.what_became_of_it()
        if gone is not None:
            raise LedgerUnavailable(f"While this was written, {gone}; it is lost. Try again.", path=str(ledger.path))
    announce(transaction.events)


def is_writable() -> bool:
    """Whether the write lock can be had soon; it is let go at once, and nothing is written."""
    ledger = current()
    try:
        with forks.passage(), translated_errors(ledger.path):
            _reattach(ledger)
            with _staying_with(ledger), _begun(ledger, BEGIN_WAIT_SECONDS):
                raise _NothingToWrite
    except _NothingToWrite:
        return True
    except VpError:
        return False


class _NothingToWrite(Exception):
    """Rolls a transaction back."""


@contextlib.contextmanager
def as_it_is(path: Path, lock: Literal["deferred", "immediate"]) -> Iterator[LedgerDatabase]:
    """A transaction on the ledger at ``path`` as it is: neither migrated nor made current. For its copies only.

    Args:
        path: an existing file; SQLite would make a missing one.
        lock: ``deferred`` for a snapshot, ``immediate`` to keep all writers out.

    Raises:
        LedgerBusy, LedgerUnavailable: it cannot be read, or locked.
    """
    db = Ledger(path).db
    with forks.passage(), translated_errors(path), contextlib.closing(db), db.atomic(lock):
        yield db


def _reattach(ledger: Ledger) -> None:
    """Connect anew if the log was replaced; a replaced ledger is for :func:`open_ledger` to judge."""
    if ledger.db.log_is_another():
        gone = ledger.what_became_of_it()
        if gone is not None:
            raise LedgerUnavailable(f"Nothing was read or written: {gone}. Try again.", path=str(ledger.path))
        logger.warning("the log of %s was replaced; connecting anew", ledger.path)
        ledger.db.close()


@contextlib.contextmanager
def _begun_unsynced(ledger: Ledger) -> Iterator[None]:
    connection = ledger.db.connection()
    connection.pragma("synchronous", NORMAL)  # for this connection, until it is set back
    try:
        with _begun(ledger):
            yield
    finally:
        connection.pragma("synchronous", PRAGMAS["synchronous"])


@contextlib.contextmanager
def _begun(ledger: Ledger, wait_seconds: float | None = None) -> Iterator[None]:
    deadline = clock.monotonic() + (limits.WRITE_WAIT_SECONDS if wait_seconds is None else wait_seconds)
    atomic = ledger.db.transaction("immediate")
    while True:
        try:
            atomic.__enter__()
            break
        except DRIVER_ERRORS as error:
            if not is_busy(error) or clock.monotonic() + BEGIN_WAIT_SECONDS > deadline:
                raise
    try:
        yield
    except BaseException:
        atomic.__exit__(*sys.exc_info())
        raise
    atomic.__exit__(None, None, None)


def observe_commits(observer: CommitObserver) -> None:
    """Register a function that gets the events of each committed write of this process.

    It runs after the commit in the writing thread; what it raises is logged, never passed on: a
    failing observer costs latency, never truth.
    """
    if observer not in _observers:
        _observers.append(observer)


def announce(events: list[dict[str, Any]]) -> None:
    """Hand committed events to the observers."""
    if not events:
        return
    for observer in _observers:
        try:
            observer(events)
        except Exception:
            logger.exception("an observer of committed events failed")


def versions() -> dict[str, str]:
    """The SQLite libraries in this process, for ``vp doctor``."""
    return {"cysqlite": cysqlite.sqlite_version, "stdlib": sqlite3.sqlite_version}


def _renew() -> None:
    if _current is not None:
        _current.renew()


def _forget() -> None:
    """In a forked child: nothing is open, and another thread may have held the lock."""
    global _current, _lock, _mine
    _current, _lock, _mine = None, threading.RLock(), threading.local()


forks.after_fork(in_parent=_renew, in_child=_forget)
