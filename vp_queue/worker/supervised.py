"""What a process does that supervisord started: end with it, and never wait for it.

Otherwise a SIGKILL of supervisord leaves consumers that no ``vp down`` knows, beside those that the next
``vp up`` starts; and a supervisord that is stopped, and reads no more, stops whoever logs.
"""

from __future__ import annotations

import os
import signal
import stat
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


def drop_what_supervisord_does_not_read() -> None:
    """Let a write to supervisord's pipe fail where it would wait: lines of the log are lost, nothing else.

    Logging holds a lock while it writes: without this a full pipe would stop the heartbeat, its watchdog, and the
    loud stop, one after the other.
    """
    if "SUPERVISOR_ENABLED" not in os.environ or not _is_supervisord(os.getppid()):
        return  # a pipe that others write to as well is not ours to change
    for descriptor in (1, 2):
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.set_blocking(descriptor, False)


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
