"""Mutants of the ledger's storage: what answers, waits and copies would do without their guards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.mutants import mutant


@mutant
def waits_for_ever() -> None:
    """A write that waits for the lock as long as it takes."""
    from vp_queue.contracts import limits

    limits.WRITE_WAIT_SECONDS = float("inf")


@mutant
def believes_the_disk() -> None:
    """A transaction that takes it for granted that what it wrote was stored."""
    from vp_queue.ledger import database, trouble

    @contextlib.contextmanager
    def deaf(path: Path) -> Iterator[None]:
        with contextlib.suppress(*trouble.DRIVER_ERRORS):
            yield

    database.translated_errors = deaf


@mutant
def tells_the_drivers_words() -> None:
    """Errors of the driver that reach the caller as they are."""
    from vp_queue.ledger import database

    @contextlib.contextmanager
    def untranslated(path: Path) -> Iterator[None]:
        yield

    database.translated_errors = untranslated


@mutant
def syncs_no_commit() -> None:
    """SQLite's usual setting in WAL mode: commits are synced some time later."""
    from vp_queue.ledger import database

    database.PRAGMAS["synchronous"] = 1


@mutant
def copies_without_a_snapshot() -> None:
    """A backup as SQLite's documentation shows it: begun anew by each commit of another process."""
    from vp_queue.ledger import backup, database

    @contextlib.contextmanager
    def loose(path: Path, lock: str) -> Iterator[database.LedgerDatabase]:
        with backup.opened(path) as db:
            yield db

    database.as_it_is = loose


@mutant
def writes_the_backup_in_place() -> None:
    """A backup that is written under its own name from the first byte."""
    from vp_queue.ledger import backup

    def straight(path: Path, file: Path, *, replace: bool) -> Any:
        backup._copy(path, file)
        with backup.opened(file) as db:
            return backup.contents_of(db)

    backup.write = straight


@mutant
def leaves_the_log() -> None:
    """A restore that moves the old ledger's file, and not its log."""
    from vp_queue.ledger import restore

    restore.FILES = ("",)


@mutant
def asks_nobody() -> None:
    """A restore that does not look who has the ledger open."""
    from vp_queue.ledger import restore

    restore.check_unused = lambda path: None


@mutant
def leaves_the_workspaces() -> None:
    """A restore that does not care for what attempts after the backup left."""
    from vp_queue.operations import copies

    copies._move_later_attempts = lambda settings, file, old: []


@mutant
def checkpoints_often() -> None:
    """No guard removed: the log is written back into the ledger's file every few transactions."""
    from vp_queue.ledger import database

    database.PRAGMAS["wal_autocheckpoint"] = 40
