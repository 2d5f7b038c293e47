"""Who holds the ledger's write lock, and who has it open: what ``vp doctor`` and ``vp restore`` name."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

# In WAL mode the one writer holds this byte of the -shm file (WAL_WRITE_LOCK in SQLite's wal.c).
WRITE_LOCK_BYTE: Final = 120
COMMAND_CHARS: Final = 200


def write_lock_holder(path: Path) -> int | None:
    """The pid that holds the write lock of the ledger at ``path`` now; None if nobody does or it cannot be told.

    Linux only. Source: the POSIX locks that the kernel lists in /proc/locks.
    """
    try:
        shared = os.stat(f"{path}-shm")
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    inode = f"{os.major(shared.st_dev):02x}:{os.minor(shared.st_dev):02x}:{shared.st_ino}"
    for line in lines:
        # 5: POSIX  ADVISORY  WRITE 17696 fe:00:2164883 120 120
        fields = line.split()
        if fields[1:2] != ["POSIX"] or fields[3:4] != ["WRITE"] or fields[5:6] != [inode]:
            continue
        first, last = int(fields[6]), None if fields[7] == "EOF" else int(fields[7])
        if first <= WRITE_LOCK_BYTE and (last is None or last >= WRITE_LOCK_BYTE):
            return int(fields[4])
    return None


def users(path: Path) -> dict[int, str]:
    """The other processes that have the file at ``path`` open, or its log or shared memory, with their commands.

    By device and inode, and by name: a file that was removed is still open under its old one. Linux only; of
    other users' processes only root can tell.
    """
    names = {f"{os.path.realpath(path)}{suffix}" for suffix in ("", "-wal", "-shm")}
    inodes = set()
    for name in names:
        with contextlib.suppress(OSError):
            found = os.stat(name)
            inodes.add((found.st_dev, found.st_ino))
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit()) if os.path.isdir("/proc") else ()
    return {pid: command(pid) for pid in pids if pid != os.getpid() and _has_open(pid, names, inodes)}


def _has_open(pid: int, names: set[str], inodes: set[tuple[int, int]]) -> bool:
    try:
        descriptors = list(os.scandir(f"/proc/{pid}/fd"))
    except OSError:  # ended meanwhile, or another user's
        return False
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            if os.readlink(descriptor.path).removesuffix(" (deleted)") in names:
                return True
            found = os.stat(descriptor.path)
            if (found.st_dev, found.st_ino) in inodes:
                return True
    return False


def command(pid: int) -> str:
    """A process's command line, shortened; "gone" if it has ended."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return "gone"
    return words.decode(errors="replace").strip()[:COMMAND_CHARS]
