"""Ends this process in good order when the supervisord that started it dies, however it dies.

Otherwise a SIGKILL of supervisord leaves consumers that no ``vp down`` knows, beside those that the next
``vp up`` starts.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from vp_queue.worker.gate import PR_SET_PDEATHSIG, prctl

# The exit status of a process that cannot go on with this ledger (EX_IOERR of sysexits.h): start it again.
UNUSABLE_LEDGER = 74


def end_with_supervisord() -> None:
    """Ask the kernel for a SIGTERM at the parent's death, if the parent is supervisord (Linux only)."""
    parent = os.getppid()
    if sys.platform != "linux" or "SUPERVISOR_ENABLED" not in os.environ or not _is_supervisord(parent):
        return  # that variable also reaches what a supervised shell starts
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel was asked
        os.kill(os.getpid(), signal.SIGTERM)


def _is_supervisord(pid: int) -> bool:
    try:
        return b"supervisord" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
