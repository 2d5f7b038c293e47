"""The folder of one attempt: ``<root>/<vp folder>/<mission id>/attempt-<n>/``.

Each attempt gets a new one, so that nothing an earlier program left (or still writes) can be taken
for this attempt's work. Everything is created relative to open folders, links refused: the folders
below the root are in reach of the programs that run there.

Where the program runs as another user (``run_as``), the folders above the attempt's let it pass, the attempt's
own is shared with that one user until the program has ended, and what it is to work on belongs to it. What is
the worker's (MISSION.md, mission.json, run.log, the receipt) it can neither change nor replace.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vp_queue.clock import new_token
from vp_queue.contracts.paths import check_relative_path, check_workspace_files
from vp_queue.errors import InternalError
from vp_queue.worker import confined
from vp_queue.worker.account import Account
from vp_queue.worker.confined import closing

BRIEFING: Final = "MISSION.md"
MISSION: Final = "mission.json"
LOG: Final = "run.log"
RECEIPT: Final = "mission_receipt.json"
WORK_PRODUCTS: Final = "work_products"

PASSABLE_MODE: Final = 0o711  # of the folders above an attempt's that another user's program passes through
READABLE_MODE: Final = 0o644  # of what it may read; nobody else gets as far

# Compared without case: on some file systems "mission.MD" is MISSION.md.
_VP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MISSION_ID = re.compile(r"m-[0-9a-z-]{10,60}")
# <vp folder>/<mission id>/attempt-<n>: the components below the root, where a link is refused.
_BELOW_ROOT: Final = 3


class WorkspaceError(InternalError):
    """The workspace of an attempt cannot be used; the message names the path and the reason."""


@dataclass(frozen=True)
class Workspace:
    """Where one attempt finds its briefing and leaves its work.

    Attributes:
        path: the attempt's folder; the program starts here (or in the target path).
        work_products: what is put here becomes artifacts.
        mission_file: the briefing, MISSION.md.
        log: run.log; not created by :func:`prepare`.
        receipt: mission_receipt.json; written by :func:`write_receipt`.
    """

    path: Path
    work_products: Path
    mission_file: Path
    log: Path
    receipt: Path


def vp_folder(vp_id: str) -> str:
    """The folder of a VP below the workspaces root: ``vp.general.primary`` → ``vp_general_primary_external``.

    Raises:
        ValueError: the id could name anything but one folder.
    """
    if not _VP_ID.fullmatch(vp_id):
        raise ValueError(f"not a VP id: {vp_id!r}")
    return vp_id.replace(".", "_") + "_external"


def relative_mission_path(vp_id: str, mission_id: str) -> str:
    """The folder of a mission, with those of its attempts in it, relative to the workspaces root.

    Raises:
        ValueError: an id that could name another place.
    """
    if not _MISSION_ID.fullmatch(mission_id):
        raise ValueError(f"not a mission id: {mission_id!r}")
    return f"{vp_folder(vp_id)}/{mission_id}"


def relative_attempt_path(vp_id: str, mission_id: str, attempt: int) -> str:
    """The attempt's folder relative to the workspaces root.

    Raises:
        ValueError: an id that could name another place, or an attempt below 1.
    """
    if attempt < 1:
        raise ValueError(f"attempts are numbered from 1, not {attempt}")
    return f"{relative_mission_path(vp_id, mission_id)}/attempt-{attempt}"


def attempt_path(root: Path, vp_id: str, mission_id: str, attempt: int) -> Path:
    """The attempt's folder.

    Args:
        root: the workspaces root.
        vp_id: the VP.
        mission_id: the mission.
        attempt: its number, from 1.

    Raises:
        ValueError: an id that could name another place, or an attempt below 1.
    """
    return root / relative_attempt_path(vp_id, mission_id, attempt)


def prepare(
    root: Path,
    vp_id: str,
    mission_id: str,
    attempt: int,
    *,
    briefing: str,
    mission: Mapping[str, object],
    files: Mapping[str, str],
    account: Account | None = None,
) -> Workspace:
    """Create the folder of a new attempt, with its briefing and files.

    Args:
        root: the workspaces root; created (0700) if missing.
        vp_id: the VP.
        mission_id: the mission.
        attempt: its number; a folder that exists is never used again nor removed.
        briefing: the text of MISSION.md.
        mission: what mission.json holds; JSON-able.
        files: ``constraints.files``: relative path → content.
        account: the user the program runs as, if not as the worker.

    Raises:
        WorkspaceError: the attempt's folder exists, a link stands in the way, a path of ``files`` is
            not acceptable, or the disk refuses. What was created stays for people to look at.
        ValueError: an id that could name another place, or an attempt below 1.
    """
    path = attempt_path(root, vp_id, mission_id, attempt)
    _check_files(files)
    try:
        root.mkdir(mode=confined.FOLDER_MODE, parents=True, exist_ok=True)
        owner = (account.uid, account.gid) if account else None
        with closing(_new_attempt_folder(root, vp_id, mission_id, attempt, passable=account is not None)) as folder:
            with closing(confined.make_folder(folder, WORK_PRODUCTS, new=True)) as products:
                _give(products, owner)
            mode = READABLE_MODE if account else confined.FILE_MODE
            confined.create_file(folder, BRIEFING, briefing.encode(), mode=mode)
            confined.create_file(folder, MISSION, _as_json(mission), mode=mode)
            for name, text in files.items():
                _place(folder, name, text.encode(), owner)
            if account is not None:  # at last: nobody could put a link where we are about to write
                confined.share(folder, account.uid)
    except UnicodeEncodeError as error:
        raise WorkspaceError(f"{path}: a text for the workspace is not valid Unicode") from error
    except OSError as error:
        raise WorkspaceError(f"{path} cannot be prepared: {_explain(error)}", path=str(path)) from error
    return Workspace(path, path / WORK_PRODUCTS, path / BRIEFING, path / LOG, path / RECEIPT)


def take_back(path: Path) -> None:
    """Close an attempt's folder to the user it was shared with, once the program has ended.

    Args:
        path: the attempt's folder.

    Raises:
        OSError: it is gone, was exchanged for a link, or the disk refuses.
    """
    with closing(confined.open_link_free(path, _BELOW_ROOT)) as folder:
        confined.take_back(folder)


def write_receipt(workspace: Workspace, receipt: Mapping[str, object]) -> None:
    """Put mission_receipt.json in place, whole or not at all, and make it survive a power cut.

    Whoever sees ``completed`` must be able to read the result: so the folders up to the workspaces
    root are fsynced too. A link the program left under the receipt's name is replaced, not followed;
    a folder there is moved aside.

    Args:
        workspace: of the attempt.
        receipt: JSON-able.

    Raises:
        WorkspaceError: the attempt's folder is gone or was exchanged for a link, or the disk refuses.
    """
    content = _as_json(receipt)
    temporary = f".{RECEIPT}.{new_token()}"
    try:
        with closing(confined.open_link_free(workspace.path, _BELOW_ROOT)) as folder:
            _make_writable(folder)
            try:
                confined.create_file(folder, temporary, content, durable=True)
                _rename_over(folder, temporary, RECEIPT)
            except OSError:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            confined.sync_folder(folder)
        for above in range(_BELOW_ROOT):
            with closing(confined.open_link_free(workspace.path.parents[above], _BELOW_ROOT - 1 - above)) as folder:
                confined.sync_folder(folder)
    except OSError as error:
        raise WorkspaceError(f"{workspace.receipt} cannot be written: {_explain(error)}") from error


def _check_files(names: Iterable[str]) -> None:
    """The rules of dispatch again: what the ledger holds may be older than they are."""
    try:
        for name in names:
            check_relative_path(name)
        check_workspace_files(names)
    except ValueError as error:
        raise WorkspaceError(f"constraints.files: {error}", field="constraints.files") from error


def _new_attempt_folder(root: Path, vp_id: str, mission_id: str, attempt: int, *, passable: bool) -> int:
    *shared, own = relative_attempt_path(vp_id, mission_id, attempt).split("/")
    folder = confined.open_trusted(root)
    for name in shared:
        with closing(folder):
            folder = confined.make_folder(folder, name, new=False)
        if passable:
            os.fchmod(folder, PASSABLE_MODE)
    with closing(folder):
        return confined.make_folder(folder, own, new=True)


def _give(descriptor: int, owner: tuple[int, int] | None) -> None:
    if owner is not None:
        os.fchown(descriptor, *owner)


def _place(folder: int, path: str, content: bytes, owner: tuple[int, int] | None) -> None:
    *parents, name = path.split("/")
    current = os.dup(folder)
    for parent in parents:
        with closing(current):
            current = confined.make_folder(current, parent, new=False)
        _give(current, owner)
    with closing(current):
        confined.create_file(current, name, content, owner=owner)


def _as_json(value: Mapping[str, object]) -> bytes:
    # A lone surrogate (a program's report can hold one) is written as the JSON escape it came from.
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def _make_writable(folder: int) -> None:
    """Undo a program's ``chmod -w .``; with ``run_as`` the folder may not be ours to change, and need not be."""
    with suppress(PermissionError):
        os.fchmod(folder, os.fstat(folder).st_mode & 0o7777 | confined.FOLDER_MODE)


def _rename_over(folder: int, source: str, destination: str) -> None:
    try:
        os.rename(source, destination, src_dir_fd=folder, dst_dir_fd=folder)
    except IsADirectoryError:
        os.rename(destination, f".{destination}.displaced-{new_token()}", src_dir_fd=folder, dst_dir_fd=folder)
        os.rename(source, destination, src_dir_fd=folder, dst_dir_fd=folder)


def _explain(error: OSError) -> str:
    if error.errno == errno.ENOTSUP:
        return "its file system has no access control lists, which run_as needs; choose another workspaces_root"
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "a link or file stands where a folder belongs; look who put it there"
    if error.errno == errno.EEXIST:
        return "it, or a file in it, exists already; an attempt's folder is never used twice"
    return os.strerror(error.errno) if error.errno else str(error)
