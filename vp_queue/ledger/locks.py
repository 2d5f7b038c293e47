"""Who holds the ledger's write lock: what ``ledger_busy`` sends people to ``vp doctor`` for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

# In WAL mode the one writer holds this byte of the -shm file (WAL_WRITE_LOCK in SQLite's wal.c).
WRITE_LOCK_BYTE: Final = 120


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
