"""Puts a backup in the ledger's place, whatever state that is in: missing, corrupt, or in good order.

    stage     a copy in a private folder beside the ledger: checked, migrated, its log folded in, synced
    install   under the migration lock and, where it can be had, the old ledger's write lock: move the old files
              aside, all of them, then rename the copy into place

The order matters. SQLite would apply a log that was left behind to the new file; so the old log is gone from
its place before the new file comes there. A crash in between leaves no ledger, which is told loudly, and never
one with a stranger's log.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vp_queue import clock
from vp_queue.errors import LedgerBusy, LedgerUnavailable, ValidationError
from vp_queue.ledger import backup, database, locks, schema, trouble
from vp_queue.ledger.backup import Contents
from vp_queue.ledger.queries import RESTORED_GAP

logger = logging.getLogger("vp_queue.ledger")

FILES: Final = ("", "-wal", "-shm", "-journal")


def stage(file: Path, copy: Path) -> Contents:
    """Copy a backup to ``copy``, a new file in a private folder, as the ledger it shall be; ``file`` stays as it is.

    Args:
        file: made by ``vp backup``, or a ledger's file with its log beside it.

    Returns:
        what the backup holds, with the migrations it came with.

    Raises:
        ValidationError: it is no intact backup.
        LedgerUnavailable: a newer vp-queue made it.
        OSError: it cannot be copied.
    """
    backup.make_private(copy)
    for suffix in FILES:
        if suffix != "-shm" and os.path.exists(f"{file}{suffix}"):
            shutil.copyfile(f"{file}{suffix}", f"{copy}{suffix}")
    try:
        contents = _checked(file, copy)
    except LedgerUnavailable as error:
        if "migration" in error.details:
            raise
        raise _no_backup(file, "it is damaged, or no SQLite database") from error
    with backup.opened(copy) as db:
        schema.ensure(db, copy)
        _leave_a_gap(db)
        db.execute_sql("PRAGMA journal_mode=wal").fetchall()
        db.execute_sql("PRAGMA wal_checkpoint(truncate)").fetchall()
    if os.path.getsize(f"{copy}-wal"):
        raise LedgerUnavailable(f"The copy of {file} could not be completed; try again. Nothing was changed.")
    backup.sync(copy)
    return contents


def _leave_a_gap(db: database.LedgerDatabase) -> None:
    """Number later events far above those that are forgotten: a reader that kept such a seq must miss nothing."""
    (newest,) = db.execute_sql("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'vp_event'").fetchone()
    db.execute_sql("DELETE FROM sqlite_sequence WHERE name = 'vp_event'")
    db.execute_sql("INSERT INTO sqlite_sequence (name, seq) VALUES ('vp_event', ?)", (newest + RESTORED_GAP,))


def _checked(file: Path, copy: Path) -> Contents:
    with backup.opened(copy) as db:
        found = backup.damage(db)
        if found is not None:
            raise _no_backup(file, found)
        schema.pending(db, file)
        contents = backup.contents_of(db)
    if not contents.migrations:
        raise _no_backup(file, "it has none of vp-queue's tables")
    return contents


def _no_backup(file: Path, why: str) -> ValidationError:
    return ValidationError(f"{file} is no backup of a ledger: {why}. Nothing was changed.", field="file")


def install(copy: Path, path: Path, *, in_use_too: bool) -> Path | None:
    """Put a staged copy in the ledger's place.

    Args:
        copy: on the ledger's file system.
        in_use_too: even while processes have the ledger open. Their writes are kept out meanwhile; afterwards they
            notice, but what they run, the new ledger does not know of.

    Returns:
        where the old ledger is now, or None: there was none.

    Raises:
        LedgerBusy: it is in use; ``details.pids`` says by whom. Nothing was changed.
        OSError: a file cannot be moved. Nothing was changed.
        LedgerUnavailable: more was done or less than that; it says what, and what is left to do.
    """
    named = path
    with schema.lock(named):
        path = Path(os.path.realpath(named))  # SQLite puts the log beside the file that a link leads to
        old = aside(path)
        if not in_use_too:
            check_unused(path)
        _fold_log_in(path)
        with _writers_kept_out(path, in_use_too):
            moved = _move(path, old)
            try:
                os.replace(copy, path)
            except OSError:
                _move_back(path, old, moved)
                raise
            schema.mark(named)
            _confirm(path, old if moved else None)
    if moved and not in_use_too and not _size(f"{old}-wal"):
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(OSError):  # empty, and in nobody's way
                os.unlink(f"{old}{suffix}")
    return old if moved else None


def unfinished(path: Path) -> list[tuple[str, str, int]]:
    """VP, id and last attempt of each mission that has not ended."""
    with database.as_it_is(path, "deferred") as db:
        return list(db.execute_sql("SELECT vp_id, id, attempt FROM vp_mission WHERE finished_at IS NULL").fetchall())


def check_unused(path: Path) -> None:
    """See that no other process has the file open.

    Raises:
        LedgerBusy: some have.
    """
    users = locks.users(path)
    if users:
        listed = ", ".join(f"{pid} ({command})" for pid, command in sorted(users.items()))
        raise LedgerBusy(
            f"{path} is in use by process {listed}. Stop that first; nothing was changed.",
            retry_after_seconds=trouble.RETRY_AFTER_SECONDS,
            pids=sorted(users),
            path=str(path),
        )


def _fold_log_in(path: Path) -> None:
    """Write the old log into the old ledger, so that its one file has everything; a broken one keeps its log."""
    if not _size(path):  # of an empty file SQLite would delete the log
        return
    with contextlib.suppress(LedgerBusy, LedgerUnavailable), backup.opened(path) as db:
        db.execute_sql("PRAGMA wal_checkpoint(truncate)").fetchall()


@contextlib.contextmanager
def _writers_kept_out(path: Path, in_use_too: bool) -> Iterator[None]:
    """Hold the old ledger's write lock: who was about to write to it finds afterwards that it was replaced."""
    held = contextlib.ExitStack()
    if _size(path):
        try:
            held.enter_context(database.as_it_is(path, "immediate"))
        except LedgerUnavailable as error:
            logger.info("the old ledger takes no writes anyway: %s", error)
        except LedgerBusy:
            if not in_use_too:
                raise
    try:
        yield
    finally:
        with contextlib.suppress(LedgerBusy, LedgerUnavailable):  # nothing was written, and its file is elsewhere now
            held.close()


def aside(path: Path) -> Path:
    """The name that what stood here before a restore of this instant is kept under."""
    return path.with_name(f"{path.name}.before-restore-{clock.now().strftime('%Y%m%dT%H%M%S.%fZ')}")


def _move(path: Path, old: Path) -> list[str]:
    """Move a ledger's files aside together, those there are: perhaps the log alone. Returns their suffixes."""
    moved: list[str] = []
    for suffix in FILES:
        try:
            os.rename(f"{path}{suffix}", f"{old}{suffix}")
        except FileNotFoundError:
            continue
        except OSError:
            _move_back(path, old, moved)
            raise
        moved.append(suffix)
    return moved


def _move_back(path: Path, old: Path, moved: list[str]) -> None:
    """Put a ledger's files where they were, the log first: without it the ledger would lose its last writes."""
    try:
        for suffix in reversed(moved):
            os.rename(f"{old}{suffix}", f"{path}{suffix}")
    except OSError as error:
        raise LedgerUnavailable(
            f"{path} was not replaced, and its own files could not all be moved back ({error.strerror}). Give each "
            f"{old}* the name {path}* again, the -wal first, or restore once more.",
            path=str(path),
            kept=str(old),
        ) from error


def _confirm(path: Path, old: Path | None) -> None:
    try:
        backup.sync(path.parent)
    except OSError as error:
        kept = f" The old ledger is kept as {old}." if old else ""
        raise LedgerUnavailable(
            f"{path} was replaced, but the disk does not confirm it ({error.strerror}): a power cut may undo it.{kept} "
            "Check the disk, then restore once more.",
            path=str(path),
            kept=str(old) if old else None,
        ) from error


def _size(name: Path | str) -> int:
    try:
        return os.path.getsize(name)
    except FileNotFoundError:
        return 0
