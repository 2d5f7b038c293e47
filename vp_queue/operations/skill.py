"""The orchestrator's skill, where agents look for it: copies in a home or a project, brought up to date.

A copy is this version's own text, byte for byte. Beside it stands its checksum (in the form ``sha256sum -c`` reads),
so that a later version knows whether somebody has changed the copy since; what somebody changed is not overwritten
unless that is asked for. Links on the way are followed only as far as they stay in the home or project.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from vp_queue import clock
from vp_queue.errors import ConfigurationError, ValidationError
from vp_queue.worker import confined

NAME: Final = "vp-orchestration"
FILE: Final = "SKILL.md"
CHECKSUM: Final = ".SKILL.md.sha256"
SOURCE: Final = Path(__file__).parents[1] / "skills" / NAME / FILE
# Where agents look: Claude Code in the first, most others in the second, some in both.
FOLDERS: Final = (f".claude/skills/{NAME}", f".agents/skills/{NAME}")
FILE_MODE: Final = 0o644  # a project's are for all who work on it
READ_BYTES: Final = 1024 * 1024


class State(StrEnum):
    """How a copy compares with this version's skill."""

    MISSING = "missing"
    CURRENT = "current"
    OUTDATED = "outdated"  # another version's, as that wrote it
    CHANGED = "changed"  # somebody's own


@dataclass(frozen=True)
class Copy:
    """One copy, or the place for it.

    Attributes:
        folder: where it is, without links; beneath the base.
        text: what stands there; None if there is nothing, or nothing that is a text.
        recorded: the checksum file is right.
    """

    path: Path
    folder: Path
    state: State
    text: str | None = None
    recorded: bool = False


def text() -> str:
    """This version's skill."""
    return SOURCE.read_text(encoding="utf-8")


def home() -> Path:
    """The user's home directory.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        return Path.home()
    except RuntimeError:
        raise ConfigurationError("This user has no home directory. Set HOME, or name a folder: --project DIR") from None


def copies(base: Path) -> list[Copy]:
    """The copies in a home or project; looks only.

    Raises:
        ValidationError: a link leads out of it.
        ConfigurationError: a folder cannot be read.
    """
    found = (_look(base, folder) for folder in FOLDERS)
    return list({copy.folder: copy for copy in found}.values())  # of two places that a link makes one, one


def install(base: Path, *, force: bool = False) -> dict[str, Any]:
    """Put the skill where agents look for it, or bring it up to date.

    Args:
        base: a home or a project's folder, which exists.
        force: also replace copies that somebody changed.

    Returns:
        ``{"ok", "files"}``, each file with ``path`` and ``done``: made, updated, replaced or kept.

    Raises:
        ValidationError: a copy was changed, or a link leads out; nothing was written.
        ConfigurationError: it cannot be written.
    """
    found = copies(base)
    changed = [copy for copy in found if copy.state == State.CHANGED]
    if changed and not force:
        told = [*map(_difference, changed), "Nothing was written. Keep it so, or repeat this with --force."]
        files = [str(copy.path) for copy in changed]
        raise ValidationError("\n".join(told), field="force", exists=True, files=files)
    return {"ok": True, "files": [{"path": str(copy.path), "done": _bring(base, copy)} for copy in found]}


def _difference(copy: Copy) -> str:
    if copy.text is None:
        return f"{copy.path} is no regular file of text."
    ours, theirs = text().splitlines(), copy.text.splitlines()
    lines = [at for at, pair in enumerate(zip_longest(ours, theirs), 1) if pair[0] != pair[1]]
    where = f"it differs from line {lines[0]} on" if lines else "its line ends differ"
    return f'{copy.path} is not as vp-queue wrote it: {where}. See: vp skill show | diff - "{copy.path}"'


# --- looking ------------------------------------------------------------------------------------


def _look(base: Path, name: str) -> Copy:
    path = base / name / FILE
    folder = _within(base, name)
    try:
        with confined.closing(_open(base, folder)) as opened:
            about = os.stat(FILE, dir_fd=opened, follow_symlinks=False)
            found = _read(opened, FILE) if stat.S_ISREG(about.st_mode) else None
            digest = hashlib.sha256((found or "").encode()).hexdigest()
            with contextlib.suppress(OSError):
                if _read(opened, CHECKSUM) == _checksum(digest) and found is not None:
                    return Copy(path, folder, State.CURRENT if found == text() else State.OUTDATED, found, True)
            return Copy(path, folder, State.CURRENT if found == text() else State.CHANGED, found)
    except FileNotFoundError:
        return Copy(path, folder, State.MISSING)
    except OSError as error:
        raise _failed(path, error) from None


def _within(base: Path, name: str) -> Path:
    """The folder's place without links, which must lie in the base's.

    Raises:
        ValidationError: a link leads out, or nowhere.
    """
    real = base.resolve()
    with contextlib.suppress(OSError, RuntimeError):  # links that lead in a circle: to nowhere
        folder = (base / name).resolve()
        if folder.is_relative_to(real):
            return folder
    raise ValidationError(
        f"A link on the way to {base / name} leads out of {real}. Nothing was written. Remove the link, or put the "
        "skill there yourself: vp skill show > SKILL.md",
        field="project",
    )


def _open(base: Path, folder: Path) -> int:
    """Open a folder that :func:`_within` found; a link put in its way since then is an error."""
    parts = folder.relative_to(base.resolve()).parts
    with confined.closing(confined.open_trusted(base)) as opened:
        return confined.open_folder(opened, "/".join(parts))


def _read(folder: int, name: str) -> str | None:
    """A file's text; None if it is none, or too long to be a skill."""
    descriptor, about = confined.open_regular(folder, name.encode())
    with confined.closing(descriptor):
        if about.st_size > READ_BYTES:
            return None
        content = b"".join(confined.chunks(descriptor, about.st_size))
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _checksum(digest: str) -> str:
    return f"{digest}  {FILE}\n"


# --- writing ------------------------------------------------------------------------------------


def _bring(base: Path, copy: Copy) -> str:
    """Make a copy this version's; says what was done."""
    content = text()
    checksum = _checksum(hashlib.sha256(content.encode()).hexdigest())
    try:
        with confined.closing(_made(base, copy.folder)) as folder:
            if copy.state != State.CURRENT:
                _replace(folder, FILE, content)
            # After the text: were it the other way round, a crash between would make the old text look changed.
            if copy.state != State.CURRENT or not copy.recorded:
                _replace(folder, CHECKSUM, checksum)
    except OSError as error:
        raise _failed(copy.path, error) from None
    done = {State.MISSING: "made", State.CURRENT: "kept", State.OUTDATED: "updated", State.CHANGED: "replaced"}
    return done[copy.state]


def _made(base: Path, folder: Path) -> int:
    """Open the folder, made where it is missing; no link in the way."""
    current = confined.open_trusted(base)
    for name in folder.relative_to(base.resolve()).parts:
        with confined.closing(current):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=current)
            current = confined.open_folder(current, name)
    return current


def _replace(folder: int, name: str, content: str) -> None:
    """Write a file in one step: a reader sees the old one or the new one."""
    made = f".{name}.{clock.new_token()[:12]}"
    try:
        confined.create_file(folder, made, content.encode(), durable=True, mode=FILE_MODE)
        os.replace(made, name, src_dir_fd=folder, dst_dir_fd=folder)
        confined.sync_folder(folder)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made, dir_fd=folder)
        raise


def _failed(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"cannot put the skill at {path}: {error.strerror}. Correct that, or name another folder: --project DIR",
        path=str(path),
    )
