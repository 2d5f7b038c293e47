"""The watermark: missions are refused while the disk still has room for those that were accepted.

A full disk ends everything at once: no claim, no log, no result can be written. So a dispatch is refused
earlier, with what to do about it; what was accepted goes on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from vp_queue.config import Settings
from vp_queue.errors import LimitExceeded

# Where min_free_bytes is not set. A share of the disk, so that a small one can be used; at most this much,
# because a large one with 1 GiB left is not full yet.
DEFAULT_DIVISOR: Final = 20
DEFAULT_MOST_BYTES: Final = 1024**3


@dataclass(frozen=True)
class Space:
    """Room on the disk of a folder.

    Attributes:
        path: the folder.
        free_bytes: what this user may still write.
        required_bytes: the watermark; 0 = there is none.
    """

    path: str
    free_bytes: int
    required_bytes: int

    @property
    def low(self) -> bool:
        """Whether missions are refused."""
        return self.free_bytes < self.required_bytes

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**vars(self), "low": self.low}


def measure(settings: Settings) -> list[Space]:
    """The disks of VP_HOME, the ledger and the workspaces, each once; a folder that is not there yet is left out."""
    found: dict[tuple[int, int, int], Space] = {}
    for folder in settings.disk_folders:
        space, disk = _space(folder, settings.min_free_bytes)
        if space is not None:
            found.setdefault(disk, space)
    return list(found.values())


def _space(folder: str, min_free_bytes: int | None) -> tuple[Space | None, tuple[int, int, int]]:
    try:
        about = os.statvfs(folder)
    except OSError:
        return None, (0, 0, 0)
    free, size = about.f_bavail * about.f_frsize, about.f_blocks * about.f_frsize
    by_size = min(size // DEFAULT_DIVISOR, DEFAULT_MOST_BYTES)
    return Space(folder, free, by_size if min_free_bytes is None else min_free_bytes), (about.f_fsid, size, free)


def check(settings: Settings) -> None:
    """Refuse to take on more.

    Raises:
        LimitExceeded: less than the watermark is free; nothing was stored.
    """
    for space in measure(settings):
        if space.low:
            raise LimitExceeded(
                f"Only {_mib(space.free_bytes)} are free on the disk of {space.path}, and {_mib(space.required_bytes)} "
                "must be (min_free_bytes in vp_queue.toml): no mission is taken until there is room. `vp usage` shows "
                "what takes it, `vp prune` removes old missions.",
                path=space.path,
                free_bytes=space.free_bytes,
                required_bytes=space.required_bytes,
            )


def _mib(count: int) -> str:
    return f"{count / 1024**2:,.0f} MiB"
