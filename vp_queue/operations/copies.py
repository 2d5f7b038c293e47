"""``vp backup`` and ``vp restore``: the whole ledger to a file, and back."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from vp_queue import config
from vp_queue.config import Settings
from vp_queue.errors import LedgerUnavailable, ValidationError
from vp_queue.ledger import backup as backups
from vp_queue.ledger import restore as restores
from vp_queue.ledger import schema
from vp_queue.operations import supervision
from vp_queue.worker.workspace import attempt_path

# What belongs to a ledger; a copy in the place of one of these would be applied to it or be overwritten.
LEDGER_FILES: Final = ("", "-wal", "-shm", "-journal", ".migrate")


def backup(settings: Settings, file: Path, force: bool) -> dict[str, Any]:
    """Write a copy of the ledger, which may be in use, to a file of its own.

    Args:
        force: replace a file that exists.

    Raises:
        ValidationError: the file exists, or cannot be written there.
        LedgerBusy, LedgerUnavailable: the ledger cannot be read.
    """
    ledger, file = settings.database_path, Path(os.path.abspath(file))
    if not ledger.exists() or not ledger.stat().st_size:
        raise LedgerUnavailable(
            f"There is no ledger at {ledger}. If there was one: {schema.HOW_TO_RESTORE}.", path=str(ledger)
        )
    _refuse_the_ledgers_own(ledger, file)
    if os.path.lexists(file):
        if not stat.S_ISREG(os.lstat(file).st_mode):
            raise _cannot(file, "it exists and is no regular file")
        if not force:
            raise _exists(file)
    with _explained(file, "cannot be written"):
        contents = backups.write(ledger, file, replace=force)
        size = file.stat().st_size
    return {"ok": True, "file": str(file), "ledger": str(ledger), "size_bytes": size, **_told(contents)}


def restore(settings: Settings, file: Path, force: bool) -> dict[str, Any]:
    """Put a backup in the ledger's place; the old ledger is kept beside it.

    Args:
        force: although processes have the ledger open.

    Raises:
        ValidationError: the file is no intact backup.
        LedgerBusy: supervisord runs, or a process has the ledger open.
        LedgerUnavailable: a newer vp-queue made the file, or the ledger cannot be replaced.
        ConfigurationError: VP_HOME cannot be used.
    """
    config.ensure_home(settings)
    ledger, file = settings.database_path, Path(os.path.abspath(file))
    _refuse_the_ledgers_own(ledger, file)
    if not file.is_file():
        raise _cannot(file, "there is no such file")
    real = Path(os.path.realpath(ledger))
    with supervision.held_down(settings):
        restores.check_unused(file)
        with _explained(ledger, "cannot be replaced"), backups.private_folder(real) as folder:
            copy = folder / ledger.name
            contents = restores.stage(file, copy)
            old = restores.install(copy, ledger, in_use_too=force)
        moved = _move_later_attempts(settings, file, old)
    applied = [name for name in schema.known() if name not in contents.migrations]
    kept = str(old) if old else None
    about = {"file": str(file), "ledger": str(ledger), "kept": kept, "applied": applied, "moved": sorted(moved)}
    return {"ok": True, **about, **_told(contents)}


def _move_later_attempts(settings: Settings, file: Path, old: Path | None) -> list[str]:
    """Rename the folders of attempts that the restored ledger knows nothing of: those to come need their names.

    Raises:
        LedgerUnavailable: one cannot be renamed; it says that the ledger has been replaced, and what is left to do.
    """
    moved: list[str] = []
    for vp_id, mission_id, attempt in restores.unfinished(settings.database_path):
        mission = attempt_path(settings.workspaces_root, vp_id, mission_id, attempt + 1).parent
        for folder in mission.glob("attempt-*") if not mission.is_symlink() else ():
            number = folder.name.removeprefix("attempt-")
            if number.isdecimal() and int(number) > attempt:
                aside = restores.aside(folder)
                try:
                    os.rename(folder, aside)
                except OSError as error:
                    raise _half_done(settings.database_path, file, old, folder, error) from error
                moved.append(str(aside))
    return moved


def _half_done(ledger: Path, file: Path, old: Path | None, folder: Path, error: OSError) -> LedgerUnavailable:
    kept = f" The old ledger is kept as {old}." if old else ""
    return LedgerUnavailable(
        f"{ledger} was replaced by {file}, but {folder} cannot be moved ({error.strerror}), and the mission that runs "
        f"again needs its name.{kept} Make it possible to rename that folder, then restore once more before `vp up`.",
        path=str(ledger),
        kept=str(old) if old else None,
        folder=str(folder),
    )


def _told(contents: backups.Contents) -> dict[str, Any]:
    newest = contents.migrations[-1] if contents.migrations else None
    return {"missions": contents.missions, "newest_event": contents.newest_event, "schema": newest}


def _refuse_the_ledgers_own(ledger: Path, file: Path) -> None:
    for suffix in LEDGER_FILES:
        own = Path(f"{ledger}{suffix}")
        if os.path.realpath(file) == os.path.realpath(own) or (file.exists() and own.exists() and file.samefile(own)):
            raise _cannot(file, "it is the ledger's own; give another name")


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    """The file system's refusals as our errors."""
    try:
        yield
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise _cannot(path, f"{what} ({error.strerror}); nothing was changed") from error


def _cannot(file: Path, why: str) -> ValidationError:
    return ValidationError(f"{file}: {why}.", field="file")


def _exists(file: Path) -> ValidationError:
    return ValidationError(f"{file} exists already; nothing was written.", field="file", exists=True)
