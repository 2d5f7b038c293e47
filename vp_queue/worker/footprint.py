"""What a folder takes on disk: allocated blocks, hard links counted once, links not followed.

As ``du -x`` counts, so that a sparse terabyte is what it really takes. The walk is bounded in entries, holds two
descriptors however deep the tree is, and changes nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vp_queue.contracts import limits
from vp_queue.worker import confined
from vp_queue.worker.confined import closing
from vp_queue.worker.workspace import relative_mission_path

BLOCK_BYTES: Final = 512  # the unit of st_blocks, whatever the file system's own
LOOK_EACH: Final = 256  # entries between two looks at whether to go on


@dataclass(frozen=True)
class Footprint:
    """What was counted.

    Attributes:
        bytes: on disk.
        entries: names that were looked at.
        complete: nothing was left out for being unreadable or beyond a limit.
    """

    bytes: int = 0
    entries: int = 0
    complete: bool = True


def mission_footprint(
    root: Path,
    vp_id: str,
    mission_id: str,
    most_entries: int = limits.MEASURED_ENTRIES,
    go_on: Callable[[], bool] = lambda: True,
) -> Footprint:
    """What a mission's folder, with all its attempts, takes on disk; nothing if there is none.

    Args:
        root: the workspaces root.
        vp_id: the VP.
        mission_id: the mission.
        most_entries: names after which the count ends, incomplete.
        go_on: asked now and then; False ends the count, incomplete.

    Raises:
        ValueError: an id that could name another place.
    """
    path = relative_mission_path(vp_id, mission_id)
    try:
        with closing(confined.open_trusted(root, confined.SEARCH)) as trusted:
            with closing(confined.open_folder(trusted, path)) as top:
                return _Count(top, most_entries, go_on).run()
    except FileNotFoundError:
        return Footprint()
    except OSError:  # a link or file in its place, or not ours to read
        return Footprint(complete=False)


class _Count:
    """A count under way."""

    def __init__(self, top: int, most_entries: int, go_on: Callable[[], bool]) -> None:
        about = os.fstat(top)
        self._top, self._device = top, about.st_dev
        self._most_entries, self._go_on = most_entries, go_on
        self._bytes, self._entries, self._complete = about.st_blocks * BLOCK_BYTES, 0, True
        self._linked: set[int] = set()
        self._waiting = [""]

    def run(self) -> Footprint:
        while self._waiting and self._may_go_on():
            path = self._waiting.pop()
            try:
                with closing(confined.open_folder(self._top, path) if path else os.dup(self._top)) as folder:
                    self._count_folder(folder, f"{path}/" if path else "")
            except OSError:  # unreadable, exchanged meanwhile, or a path too long to be opened
                self._complete = False
        return Footprint(self._bytes, self._entries, self._complete and not self._waiting)

    def _may_go_on(self) -> bool:
        if self._entries < self._most_entries and (self._entries % LOOK_EACH or self._go_on()):
            return True
        self._complete = False
        return False

    def _count_folder(self, folder: int, prefix: str) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not self._may_go_on():
                    return
                self._entries += 1
                with suppress(FileNotFoundError):
                    self._count_entry(entry, prefix)

    def _count_entry(self, entry: os.DirEntry[str], prefix: str) -> None:
        about = entry.stat(follow_symlinks=False)
        if about.st_dev != self._device or about.st_ino in self._linked:
            return
        self._bytes += about.st_blocks * BLOCK_BYTES
        if stat.S_ISDIR(about.st_mode):
            self._waiting.append(prefix + entry.name)
        elif about.st_nlink > 1:
            self._linked.add(about.st_ino)
