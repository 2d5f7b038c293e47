"""Where a mission may work outside its workspace: ``constraints.target_path``.

The path is judged twice. At dispatch :func:`resolve_target` answers early, by path. At start
:func:`open_target` opens the folder and judges what it opened: by the path the kernel gives for the
descriptor and by the identity (device, inode) of every folder above it. The program then starts in
that descriptor, so exchanging the path after the check changes nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from vp_queue.contracts import limits
from vp_queue.errors import TargetPathDenied
from vp_queue.worker import confined
from vp_queue.worker.confined import closing

_OUTSIDE = (
    "it lies outside the profile's allowed_target_roots; choose a folder inside one, "
    "or add its root to allowed_target_roots of this VP in vp_queue.toml"
)
_FORBIDDEN = (
    "it is, contains or lies in vp-queue's own folders (VP_HOME or the workspaces root); "
    "choose a folder apart from them, or omit target_path to work in the workspace"
)
_CHANGED = "it changed since dispatch; dispatch the mission again if the new place is meant"


def resolve_target(target_path: str, allowed_roots: Sequence[Path], forbidden: Sequence[Path]) -> Path:
    """Decide whether a mission may work in a folder.

    Args:
        target_path: an absolute path; ``~`` is an ordinary character, links are resolved.
        allowed_roots: the profile's ``allowed_target_roots``; the target is one or lies in one.
        forbidden: VP_HOME and the workspaces root; the target is none, lies in none, contains none.

    Returns:
        The path with all links resolved, to be recorded and given to :func:`open_target`.

    Raises:
        TargetPathDenied: the message says which rule and what to do; details.field and details.rule.
    """
    _check_text(target_path)
    try:
        real = Path(os.path.realpath(target_path, strict=True))
    except OSError as error:
        # Only someone who may work there learns what exists.
        _check_paths(target_path, Path(os.path.realpath(target_path)), allowed_roots, forbidden)
        why = os.strerror(error.errno or 0)
        _deny(target_path, "missing", f"it cannot be resolved ({why}); create the folder first")
    _check_paths(target_path, real, allowed_roots, forbidden)
    if not real.is_dir():
        _deny(target_path, "not_a_folder", "it is not a folder")
    return real


def open_target(
    target_path: str, allowed_roots: Sequence[Path], forbidden: Sequence[Path], expected: str | None = None
) -> int:
    """Open the folder a mission works in, and judge what was opened.

    Args:
        target_path: as in :func:`resolve_target`.
        allowed_roots: as in :func:`resolve_target`.
        forbidden: as in :func:`resolve_target`.
        expected: the resolved path recorded at dispatch, if there is one.

    Returns:
        A descriptor (close-on-exec) of the folder; the caller closes it.

    Raises:
        TargetPathDenied: a rule is broken, or the path leads elsewhere than at dispatch.
    """
    _check_text(target_path)
    if expected is not None and os.path.realpath(target_path) != expected:
        _deny(target_path, "changed", _CHANGED)
    resolved = str(resolve_target(target_path, allowed_roots, forbidden))
    wanted = expected or resolved
    folder = _open_resolved(target_path, wanted)
    try:
        if _descriptor_path(folder) not in (None, wanted):
            _deny(target_path, "changed", _CHANGED)
        _check_identities(target_path, folder, allowed_roots, forbidden)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _check_text(target_path: str) -> None:
    if not target_path or len(target_path) > limits.PATH_CHARS:
        _deny(target_path, "text", f"it must have 1 to {limits.PATH_CHARS} characters")
    if "\0" in target_path or any("\ud800" <= char <= "\udfff" for char in target_path):
        _deny(target_path, "text", "it holds a NUL character or a lone surrogate")
    if not target_path.startswith("/"):
        _deny(target_path, "relative", 'it is not absolute; "~" and relative paths are not resolved')


def _check_paths(target_path: str, real: Path, allowed_roots: Sequence[Path], forbidden: Sequence[Path]) -> None:
    # Compared by component, so that /srv/ab does not lie in /srv/a.
    if not any(real.is_relative_to(os.path.realpath(root)) for root in allowed_roots):
        _deny(target_path, "outside", _OUTSIDE)
    for place in forbidden:
        resolved = Path(os.path.realpath(place))
        if real.is_relative_to(resolved) or resolved.is_relative_to(real):
            _deny(target_path, "forbidden", _FORBIDDEN)


def _open_resolved(target_path: str, resolved: str) -> int:
    """Open a path that holds no links any more; one that turns up now was planted."""
    try:
        with closing(confined.open_trusted(Path("/"), confined.SEARCH)) as top:
            return confined.open_folder(top, resolved[1:])
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT):
            _deny(target_path, "changed", _CHANGED)
        _deny(target_path, "unreadable", f"it cannot be opened: {os.strerror(error.errno or 0)}")


def _descriptor_path(folder: int) -> str | None:
    """The kernel's own path of an open folder (with " (deleted)" behind it once removed); None without /proc."""
    try:
        return os.readlink(f"/proc/self/fd/{folder}")
    except OSError:
        return None


def _check_identities(target_path: str, folder: int, allowed_roots: Sequence[Path], forbidden: Sequence[Path]) -> None:
    """The same rules by device and inode: a bind mount or another spelling is still the same folder."""
    try:
        above = confined.ancestry(folder)
    except OSError as error:
        _deny(target_path, "unreadable", f"the folders above it cannot be searched: {os.strerror(error.errno or 0)}")
    if not any(lineage[0] in above for lineage in map(_lineage, allowed_roots) if lineage):
        _deny(target_path, "outside", _OUTSIDE)
    for lineage in map(_lineage, forbidden):
        if lineage and (lineage[0] in above or above[0] in lineage):
            _deny(target_path, "forbidden", _FORBIDDEN)


def _lineage(place: Path) -> list[tuple[int, int]]:
    """The identities of a folder of the configuration and of those above it; empty if there is no such folder."""
    with suppress(OSError), closing(confined.open_trusted(place, confined.SEARCH)) as folder:
        return confined.ancestry(folder)
    return []


def _deny(target_path: str, rule: str, reason: str) -> NoReturn:
    shown = ascii(target_path[:200])
    raise TargetPathDenied(
        f"constraints.target_path {shown} is denied: {reason}.", field="constraints.target_path", rule=rule
    )
