"""What each session of a host was shown, in a small file of ``VP_HOME/run``: a hook's process lives for one call.

To remember is one write of a few bytes into a file that is open: a process that is killed in a system call dies when
that returns, and a rename takes milliseconds in which it would count as done and the host as not told. A file that is
lost, torn or older than the truth has the same shown again, so none is synced. One that speaks of another ledger (a
backup was restored) is not believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vp_queue.config import Settings
from vp_queue.contracts import limits
from vp_queue.hooks.inbox import Shown

RECORD_BYTES: Final = 128


class Memory:
    """Of one reader and session. Use it in a ``with`` block.

    Raises:
        OSError: its file cannot be made.
    """

    def __init__(self, settings: Settings, reader: str, session_id: str) -> None:
        folder = settings.run_dir / "inbox"
        folder.mkdir(mode=0o700, exist_ok=True)
        _forget_oldest(folder)
        found = os.stat(settings.database_path)
        self._ledger = (found.st_dev, found.st_ino)
        name = hashlib.sha256(f"{reader}\0{session_id}".encode()).hexdigest()[:32]
        self._file = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def recall(self) -> Shown:
        """What the session was shown; nothing, if that is not known."""
        record, _, check = os.pread(self._file, RECORD_BYTES, 0).rstrip().rpartition(b" ")
        if check != _check(record):
            return Shown()
        *ledger, shown, acknowledge = map(int, record.split())
        return Shown(shown, acknowledge) if tuple(ledger) == self._ledger else Shown()

    def remember(self, shown: Shown) -> None:
        """Note what the session was shown.

        Raises:
            OSError: it was not noted, and will be shown again.
        """
        record = "{} {} {} {}".format(*self._ledger, shown.seq, shown.acknowledge).encode()
        os.pwrite(self._file, (record + b" " + _check(record)).ljust(RECORD_BYTES), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._file)


def _check(record: bytes) -> bytes:
    return b"%08x" % zlib.crc32(record)


def _forget_oldest(folder: Path) -> None:
    files = list(os.scandir(folder))
    with contextlib.suppress(FileNotFoundError):  # another hook forgets, too
        for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)[: -limits.HOOK_SESSIONS]:
            os.unlink(file.path)
