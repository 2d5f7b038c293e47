"""Notices that the ledger's file was removed or replaced under a running process.

SQLite goes on writing into a file that has no name any more, and all that is written there is lost. Whoever
executes or repairs must then stop loudly, and be started again by supervisord on what stands there now.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from vp_queue.ledger import database

LOOK_SECONDS: Final = 0.5


class LedgerGuard:
    """Looks at the ledger's device and inode from a thread of its own."""

    def __init__(self, on_gone: Callable[[str], None]) -> None:
        """
        Args:
            on_gone: called once, in the guard's thread, with what happened, for people.
        """
        self._on_gone = on_gone
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin to look at the ledger that is current now."""
        threading.Thread(target=self._run, args=(database.current(),), name="ledger-guard", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()

    def _run(self, ledger: database.Ledger) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            what = ledger.what_became_of_it()
            if what is not None:
                self._on_gone(what)
                return
