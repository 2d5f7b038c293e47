"""What each session of a host was shown, in a small file of ``VP_HOME/run``: a hook's process lives for one call.

A file that is lost, or older than the truth, has the same shown again; so none of them is synced. One that speaks of
another ledger (a backup was restored) is not believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from vp_queue.config import Settings
from vp_queue.contracts import limits
from vp_queue.hooks.inbox import Shown


class Memory:
    """Of one reader and session."""

    def __init__(self, settings: Settings, reader: str, session_id: str) -> None:
        name = hashlib.sha256(f"{reader}\0{session_id}".encode()).hexdigest()[:32]
        self._file = settings.run_dir / "inbox" / f"{name}.json"
        found = os.stat(settings.database_path)
        self._ledger = [found.st_dev, found.st_ino]

    def recall(self) -> Shown:
        """What the session was shown; nothing, if that is not known."""
        try:
            told = json.loads(self._file.read_bytes())
            if told["ledger"] == self._ledger:
                return Shown(int(told["shown"]), int(told["acknowledge"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return Shown()

    def remember(self, shown: Shown) -> None:
        """Note what the session was shown, whole or not at all.

        Raises:
            OSError: it was not noted, and will be shown again.
        """
        folder = self._file.parent
        folder.mkdir(mode=0o700, exist_ok=True)
        told = {"ledger": self._ledger, "shown": shown.seq, "acknowledge": shown.acknowledge}
        draft = self._file.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(told), encoding="ascii")
        draft.replace(self._file)
        _forget_oldest(folder)


def _forget_oldest(folder: Path) -> None:
    files = list(os.scandir(folder))
    if len(files) <= limits.HOOK_SESSIONS:
        return
    with contextlib.suppress(FileNotFoundError):  # another hook forgets, too
        for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)[: -limits.HOOK_SESSIONS]:
            os.unlink(file.path)
