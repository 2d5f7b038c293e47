"""Removes the folder of a mission, whatever its programs made of it, and nothing else.

Everything is done relative to open folders and no link is followed, so a folder exchanged for a link while it
is removed leads nowhere: the link is what goes. The tree is taken apart from above: what lies in a folder
moves up to the top before the folder goes. So two descriptors and short names are enough for a tree of any
depth, and a removal that was cut short is simply begun again. A mount refuses to be moved, and stays.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from vp_queue.clock import new_token
from vp_queue.contracts.paths import printable
from vp_queue.worker import confined
from vp_queue.worker.confined import closing
from vp_queue.worker.workspace import relative_mission_path

NAMES_AT_ONCE: Final = 1_000
LOOK_EACH: Final = 64  # entries between two looks at whether to go on
FULL_RIGHTS: Final = 0o700


class Stopped(Exception):
    """The caller wants no more for now."""


def remove_mission_folder(root: Path, vp_id: str, mission_id: str, go_on: Callable[[], bool] = lambda: True) -> bool:
    """Remove a mission's folder below the workspaces root, with all its attempts.

    Args:
        root: the workspaces root.
        vp_id: the VP.
        mission_id: the mission.
        go_on: asked now and then; False ends the removal, which another call takes up again.

    Returns:
        Whether it has gone; False if ``go_on`` said so.

    Raises:
        OSError: something in it cannot be removed (the first such thing is named); what could be, was.
        ValueError: an id that could name another place.
    """
    vp_folder, name = relative_mission_path(vp_id, mission_id).split("/")
    with closing(confined.open_trusted(root, confined.SEARCH)) as trusted, contextlib.ExitStack() as stack:
        try:
            parent = stack.enter_context(closing(confined.open_folder(trusted, vp_folder)))
            return _Removal(parent, go_on).remove(name)
        except FileNotFoundError:
            return True  # its VP has no folder, or another remover was faster
        except Stopped:
            return False


class _Removal:
    """A removal under way, of one entry of a folder."""

    def __init__(self, parent: int, go_on: Callable[[], bool]) -> None:
        self._parent = parent
        self._device = os.fstat(parent).st_dev
        self._go_on = go_on
        self._names = (f".vp-{new_token()[:12]}-{number}" for number in itertools.count())
        self._looked_at = 0
        self._gone = 0
        self._problem: OSError | None = None

    def remove(self, name: str) -> bool:
        while self._is_there(name):
            if not self._is_folder(self._parent, name):
                self._unlink(self._parent, name)
            else:
                with self._opened(self._parent, name) as top:
                    self._empty(top)
                self._attempt(name, lambda: os.rmdir(name, dir_fd=self._parent))
            if self._problem is not None:
                raise self._problem
        return True

    def _is_there(self, name: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            os.stat(name, dir_fd=self._parent, follow_symlinks=False)
            return True
        return False

    def _empty(self, top: int) -> None:
        """Until nothing is left in it, or nothing more can be removed."""
        gone = -1
        while (names := _names(top)) and self._gone != gone:
            gone, self._problem = self._gone, None
            for name in names:
                self._attempt(name, lambda name=name: self._take_apart(top, name))  # type: ignore[misc]

    def _take_apart(self, top: int, name: str) -> None:
        if not self._is_folder(top, name):
            self._unlink(top, name)
            return
        moved = next(self._names)
        os.rename(name, moved, src_dir_fd=top, dst_dir_fd=top)  # refused if something is mounted there
        with self._opened(top, moved) as folder:
            while names := _names(folder):
                gone = self._gone
                for inner in names:
                    self._attempt(inner, lambda inner=inner: self._lift(folder, inner, top))  # type: ignore[misc]
                if self._gone == gone:
                    return  # what is in it cannot be removed; _attempt noted why
        os.rmdir(moved, dir_fd=top)
        self._gone += 1

    def _lift(self, folder: int, name: str, top: int) -> None:
        """Remove an entry of a folder, or move it up if it is a folder itself."""
        if not self._is_folder(folder, name):
            self._unlink(folder, name)
            return
        with self._opened(folder, name):
            pass  # now it may be written to, without which it could not be moved
        os.rename(name, next(self._names), src_dir_fd=folder, dst_dir_fd=top)
        self._gone += 1

    def _unlink(self, folder: int, name: str) -> None:
        os.unlink(name, dir_fd=folder)
        self._gone += 1

    def _attempt(self, name: str, step: Callable[[], None]) -> None:
        """Do a step; keep the first problem, and go on with the rest."""
        self._looked_at += 1
        if self._looked_at % LOOK_EACH == 0 and not self._go_on():
            raise Stopped
        try:
            step()
        except FileNotFoundError:
            self._gone += 1  # another remover was faster
        except OSError as error:
            self._problem = self._problem or OSError(error.errno, error.strerror, printable(os.fsencode(name)))

    def _is_folder(self, folder: int, name: str) -> bool:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)

    @contextlib.contextmanager
    def _opened(self, parent: int, name: str) -> Iterator[int]:
        """An open folder that may be read and written, whatever mode a program gave it."""
        flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with closing(os.open(name, confined.SEARCH | flags, dir_fd=parent)) as found:
            about = os.fstat(found)
            if about.st_dev != self._device:
                raise OSError(errno.EXDEV, "another file system is mounted there")
            if about.st_mode & FULL_RIGHTS != FULL_RIGHTS:
                # By way of /proc: what was opened without the right to read it has no fchmod.
                os.chmod(f"/proc/self/fd/{found}", stat.S_IMODE(about.st_mode) | FULL_RIGHTS)
            with closing(os.open(".", os.O_RDONLY | flags, dir_fd=found)) as folder:
                yield folder


def _names(folder: int) -> list[str]:
    """Some of the names in an open folder."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in itertools.islice(entries, NAMES_AT_ONCE)]
