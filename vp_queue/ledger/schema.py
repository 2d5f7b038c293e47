"""Creates and migrates the schema, once, whoever comes first.

Migrations are run by ``playhouse.migrations`` under a lock on ``<ledger>.migrate``: of eight processes
at first use, without it, seven failed with "table already exists". A ledger that holds a migration this
code does not know was written by a newer vp-queue and is refused: an old binary must not write to it.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from vp_queue import clock
from vp_queue.errors import LedgerBusy, LedgerUnavailable

DIRECTORY: Final = Path(__file__).parent / "migrations"
HISTORY_TABLE: Final = "vp_schema_migration"
LOCK_WAIT_SECONDS: Final = 30.0
# What every message about a ledger that is lost says.
HOW_TO_RESTORE: Final = "Put a backup in its place: `vp down`, `vp restore FILE`, `vp up --detach`"
STOOD: Final = b"A ledger was made here.\n"  # in the lock file, once there is one


def known() -> list[str]:
    """The names of the migrations this code carries, in order."""
    return sorted(path.stem for path in DIRECTORY.glob("[0-9]*.py"))


def applied(db: Any) -> list[str]:
    """The names of the migrations the ledger holds, in order; empty for a new file."""
    if not db.execute_sql("SELECT 1 FROM sqlite_master WHERE type='table' AND name=?", (HISTORY_TABLE,)).fetchone():
        return []
    return sorted(name for (name,) in db.execute_sql(f"SELECT name FROM {HISTORY_TABLE}"))  # noqa: S608  a constant


def pending(db: Any, path: Path) -> list[str]:
    """The migrations still to apply.

    Raises:
        LedgerUnavailable: the ledger holds one that this code does not know.
    """
    have, here = applied(db), known()
    unknown = [name for name in have if name not in here]
    if unknown:
        raise LedgerUnavailable(
            f"The ledger {path} was written by a newer vp-queue (it holds migration {unknown[-1]}). "
            f"Upgrade vp-queue. Or, with a FILE that this version made: {HOW_TO_RESTORE}.",
            path=str(path),
            migration=unknown[-1],
        )
    return [name for name in here if name not in have]


def ensure(db: Any, path: Path, *, anew: bool = False) -> list[str]:
    """Bring the ledger at ``path`` to this code's schema; returns the migrations applied now.

    Args:
        anew: make one even where one stood before and was removed.

    Raises:
        LedgerUnavailable: one was removed (see :func:`stood_before`), or is a newer one's, or cannot be made.
    """
    if _has_content(path) and not pending(db, path) and _in_wal_mode(db):
        if not stood_before(path):
            mark(path)  # who made it died before it could
        return []
    with lock(path):
        if not _has_content(path) and stood_before(path) and not anew:
            raise _removed(path)
        _create_private(path)
        # WAL is a property of the file, so it is set here, where no other process can be in the way.
        db.execute_sql("PRAGMA journal_mode=wal")
        names: list[str] = []
        if pending(db, path):
            from playhouse.migrations import Runner  # only when there is something to do: it costs 30 ms

            names = Runner(db, str(DIRECTORY), table_name=HISTORY_TABLE).up()
        mark(path)
        return names


def stood_before(path: Path) -> bool:
    """Whether a ledger was made at this path before: its lock file says so, which outlives it."""
    try:
        return lock_path(path).read_bytes().startswith(STOOD)
    except OSError:
        return False


def mark(path: Path) -> None:
    """Note in the lock file that there is a ledger at this path; where the disk refuses, its next opening does."""
    with suppress(OSError):
        descriptor = os.open(lock_path(path), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, STOOD, 0)
        finally:
            os.close(descriptor)


def lock_path(path: Path) -> Path:
    """The file that migrations, and a restore, are made under the lock of."""
    return path.with_name(f"{path.name}.migrate")


def _removed(path: Path) -> LedgerUnavailable:
    return LedgerUnavailable(
        f"The ledger {path} was here and is gone (or empty). {HOW_TO_RESTORE}. To begin with an empty one instead: "
        "`vp init --new-ledger`.",
        path=str(path),
        removed=True,
    )


def _in_wal_mode(db: Any) -> bool:
    """False of a backup that somebody copied to the ledger's place by hand: it opens alone, without a log."""
    return bool(db.execute_sql("PRAGMA journal_mode").fetchone()[0] == "wal")


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> LedgerUnavailable:
    return LedgerUnavailable(
        f"The ledger {path} cannot be created or migrated: {error.strerror}. Check its folder.", path=str(path)
    )


def _create_private(path: Path) -> None:
    """Make the file readable by its owner only, before SQLite would make it with the umask.

    Never opens a file that exists: closing it would drop the POSIX locks that another thread's
    connection holds on it.
    """
    try:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise _unusable(path, error) from error


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock that whoever makes, migrates or replaces the ledger holds.

    Raises:
        LedgerBusy: another process kept it for ``LOCK_WAIT_SECONDS``.
        LedgerUnavailable: its folder cannot be written to.
    """
    try:
        descriptor = os.open(lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        deadline = clock.monotonic() + LOCK_WAIT_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if clock.monotonic() > deadline:
                    raise LedgerBusy(
                        f"Another process has been migrating or restoring {path} for {LOCK_WAIT_SECONDS:.0f} s.",
                        retry_after_seconds=5.0,
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def description(db: Any) -> list[str]:
    """The schema in a canonical form, for comparing one ledger's with another's.

    Tables by their columns, keys and checks; indexes and triggers by their SQL, blanks and quotes
    evened out.
    """
    rows = db.execute_sql(
        "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' "
        "AND name NOT LIKE ? ORDER BY type, name",
        (f"{HISTORY_TABLE}%",),
    ).fetchall()
    return [f"{kind} {name}: " + re.sub(r"\s*([(),])\s*|[\s\"]+", r" \1 ", sql).lower() for kind, name, sql in rows]
