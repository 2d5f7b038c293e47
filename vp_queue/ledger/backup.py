"""Copies a ledger, while it is in use, to one file that opens alone; and says what such a file holds.

The copy is made by SQLite's online backup, page by page, inside one read transaction. Without that
transaction every commit of another process begins the copy anew: with a writer each 2 ms, 1,868 times in 5 s
and no end in sight, where the same copy takes 0.14 s from a snapshot. The price is that the log cannot begin
anew meanwhile, and grows by what is written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vp_queue import clock
from vp_queue.ledger import database, forks, schema

STEP_BYTES: Final = 1 << 20  # between which Ctrl-C is heard
STEP_PAGES: Final = STEP_BYTES // 4096
FINDINGS_SHOWN: Final = 3


@dataclass(frozen=True)
class Contents:
    """What a ledger's file holds.

    Attributes:
        missions: how many.
        newest_event: seq, type, mission_id and at of the last event, or None: nothing has happened yet.
        migrations: their names, oldest first.
    """

    missions: int
    newest_event: dict[str, Any] | None
    migrations: list[str]


def write(path: Path, file: Path, *, replace: bool) -> Contents:
    """Copy the ledger at ``path`` to ``file`` (0600): checked, synced, and there only when it is complete.

    Args:
        path: the ledger.
        file: absolute; its folder exists.
        replace: a file of that name, rather than raise FileExistsError.

    Raises:
        LedgerBusy, LedgerUnavailable: the ledger cannot be read, or is corrupt.
        OSError: the file cannot be written.
    """
    with private_folder(file) as folder:
        copy = folder / file.name
        make_private(copy)
        _copy(path, copy)
        with opened(copy) as db:
            found = damage(db)
            if found is not None:
                raise database.corrupt(path, found)
            contents = contents_of(db)
        sync(copy)
        _put(copy, file, replace)
        sync(file.parent)
    return contents


def _copy(path: Path, copy: Path) -> None:
    with database.as_it_is(path, "deferred") as ledger:
        ledger.execute_sql("SELECT 1 FROM sqlite_master").fetchall()  # the snapshot is taken by the first read
        target = forks.connect(str(copy))
        try:
            ledger.connection().backup(target, pages=STEP_PAGES, progress=_let_signals_in)
            # In the ledger's own mode the file would want a log and shared memory beside it.
            target.execute("PRAGMA journal_mode=delete").fetchall()
        except database.DRIVER_ERRORS as error:
            # The driver asks the ledger's connection what went wrong, also with the copy: "not an error".
            if "(code=0" in str(error):
                raise _cannot_write(copy) from error
            raise
        finally:
            target.close()


def _cannot_write(copy: Path) -> OSError:
    room = os.statvfs(copy)
    code = errno.ENOSPC if room.f_bavail * room.f_frsize < STEP_BYTES else errno.EIO
    return OSError(code, os.strerror(code), str(copy))


def _let_signals_in(remaining: int, total: int, done: bool) -> None:
    """Python's handlers of signals run between its own steps only: this is one."""


def _put(copy: Path, file: Path, replace: bool) -> None:
    if not replace:
        with contextlib.suppress(PermissionError, NotImplementedError):
            os.link(copy, file)  # unlike a rename, it replaces nothing
            return
        if os.path.lexists(file):  # a file system without hard links
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(file))
    os.replace(copy, file)


# --- what a file holds --------------------------------------------------------------------------


@contextlib.contextmanager
def opened(path: Path) -> Iterator[database.LedgerDatabase]:
    """A connection to a copy, which nobody else knows of.

    Raises:
        LedgerUnavailable: it is no ledger.
    """
    db = database.Ledger(path).db
    with forks.passage(), database.translated_errors(path), contextlib.closing(db):
        yield db


def damage(db: database.LedgerDatabase) -> str | None:
    """What SQLite's own check finds wrong with a file, or None."""
    findings = [str(text) for (text,) in db.execute_sql(f"PRAGMA integrity_check({FINDINGS_SHOWN})").fetchall()]
    if findings != ["ok"]:
        return "; ".join(findings)
    broken = db.execute_sql("PRAGMA foreign_key_check").fetchall()
    return f"{len(broken)} rows belong to nothing" if broken else None


def contents_of(db: database.LedgerDatabase) -> Contents:
    """Count what it holds."""
    migrations = schema.applied(db)
    if not migrations:
        return Contents(0, None, [])
    (missions,) = db.execute_sql("SELECT COUNT(*) FROM vp_mission").fetchone()
    newest = db.execute_sql("SELECT seq, type, mission_id, at FROM vp_event ORDER BY seq DESC LIMIT 1").fetchone()
    if newest is None:
        return Contents(missions, None, migrations)
    seq, kind, mission_id, at = newest
    event = {"seq": seq, "type": kind, "mission_id": mission_id, "at": clock.as_text(clock.from_micros(at))}
    return Contents(missions, event, migrations)


# --- files --------------------------------------------------------------------------------------


@contextlib.contextmanager
def private_folder(beside: Path) -> Iterator[Path]:
    """A folder (0700) on the same file system, gone afterwards with all SQLite puts beside a file."""
    folder = Path(tempfile.mkdtemp(prefix=f".{beside.name}.", dir=beside.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_private(path: Path) -> None:
    """Make an empty file that only its owner can read (0600)."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk. Not for a database that is open here."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
