"""What goes wrong with the ledger's file, in the words of the contract: never a driver's traceback at a caller."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cysqlite
from peewee import DatabaseError, InterfaceError

from vp_queue.errors import LedgerBusy, LedgerUnavailable, VpError
from vp_queue.ledger import schema

CANNOT_OPEN: Final = 14  # SQLITE_CANTOPEN
DAMAGED: Final = {11: "database disk image is malformed", 26: "file is not a SQLite database"}
DAMAGED_SCHEMA: Final = ("no such table", "unsupported file format")  # which SQLite gives no code of their own
RETRY_AFTER_SECONDS: Final = 1.0
DRIVER_ERRORS: Final = (DatabaseError, InterfaceError, cysqlite.Error)
CHECK_WRITABLE: Final = (
    "check that its folder exists, the permissions of both, and that the file system is not mounted read-only"
)


@contextlib.contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Turn the driver's errors into the contract's: never a traceback at a caller."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise translate(error, path) from error
    except (UnicodeDecodeError, json.JSONDecodeError, OverflowError) as error:
        # SQLite's pages have no checksums: a flipped bit in a text or a time shows only when that is read. One row
        # that cannot be read is no reason to stop a worker, or the repair of all others.
        told = corrupt(path, f"it holds what cannot be read: {type(error).__name__}")
        told.details = {"path": str(path), "unreadable": True}
        raise told from error


def _code(error: BaseException) -> int | None:
    """SQLite's primary result code, which cysqlite states in its message as ``(code=N, …``."""
    text = str(error)
    if "error opening database" in text:  # the one failure that cysqlite tells without its code
        return CANNOT_OPEN
    _, found, rest = text.rpartition("(code=")
    digits = rest.split(",")[0].rstrip(")")
    return int(digits) & 0xFF if found and digits.isdigit() else None


def is_busy(error: BaseException) -> bool:
    return _code(error) in (5, 6) or "database is locked" in str(error)


def translate(error: BaseException, path: Path) -> VpError:
    """The contract's error for one of the driver's."""
    if is_busy(error):
        return LedgerBusy(
            f"Another process holds the write lock of {path}; nothing was written. Try again in a moment; "
            "if it persists, `vp doctor` names the process.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
    remedies = {
        8: f"it is read-only here; {CHECK_WRITABLE}; else its header is damaged. {schema.HOW_TO_RESTORE}",
        10: "the disk answered with an I/O error; check the disk",
        13: "the disk is full; free some space",
        CANNOT_OPEN: f"it cannot be opened; {CHECK_WRITABLE}",
    }
    if _code(error) in DAMAGED:
        return corrupt(path, DAMAGED[_code(error) or 0])
    remedy = remedies.get(_code(error) or 0)
    damage = next((words for words in DAMAGED_SCHEMA if words in str(error)), None)
    if remedy is None and damage is not None:
        return corrupt(path, damage)
    if remedy is None:
        raise error  # a bug of ours, not the world's: the caller's face makes it an internal_error
    return LedgerUnavailable(f"The ledger {path} cannot be used: {remedy}. Nothing was written.", path=str(path))


def corrupt(path: Path, finding: str) -> LedgerUnavailable:
    """The error of a damaged ledger."""
    return LedgerUnavailable(
        f"The ledger {path} is corrupt ({' '.join(finding.split())[:200]}). {schema.HOW_TO_RESTORE}.",
        path=str(path),
        corrupt=True,
    )
