"""Ends this process in good order when the supervisord that started it dies, however it dies.

Otherwise a SIGKILL of supervisord leaves consumers that no ``vp down`` knows, beside those that the next
``vp up`` starts.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from vp_queue.worker import procfs
from vp_queue.worker.gate import PR_SET_PDEATHSIG, prctl

# The exit status of a process that cannot go on with this ledger (EX_IOERR of sysexits.h): start it again.
UNUSABLE_LEDGER = 74
KEEPER = "keeper"  # its program in supervisord.conf; a consumer's is its VP's id


def end_with_supervisord() -> None:
    """Ask the kernel for a SIGTERM at the parent's death, if the parent is supervisord (Linux only).

    A process takes a second to come so far. If supervisord died meanwhile, it ends at once.
    """
    if sys.platform != "linux" or "SUPERVISOR_ENABLED" not in os.environ:
        return
    parent = os.getppid()
    if _is_supervisord(parent):
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        orphaned = os.getppid() != parent  # it died before the kernel was asked
    else:
        # Those variables also reach what a supervised shell starts: there supervisord stands further up.
        ours = os.environ.get("SUPERVISOR_PROCESS_NAME") in (KEEPER, os.environ.get("VP_ID"))
        orphaned = ours and not any(map(_is_supervisord, _ancestors()))
    if orphaned:
        os.kill(os.getpid(), signal.SIGTERM)


def _ancestors() -> list[int]:
    """The pids above this process, nearest first."""
    found: list[int] = []
    pid = os.getppid()
    while pid > 0:
        found.append(pid)
        process = procfs.read_process(pid)
        pid = process.ppid if process else 0
    return found


def _is_supervisord(pid: int) -> bool:
    try:
        return b"supervisord" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
