"""Ends this process in good order when the supervisord that started it dies, however it dies.

Otherwise a SIGKILL of supervisord leaves consumers that no ``vp down`` knows, beside those that the next
``vp up`` starts.
"""

from __future__ import annotations

import os
import signal
import sys

from vp_queue.worker.gate import PR_SET_PDEATHSIG, prctl


def end_with_supervisord() -> None:
    """Ask the kernel for a SIGTERM at the parent's death, if the parent is supervisord (Linux only)."""
    if "SUPERVISOR_ENABLED" in os.environ and sys.platform == "linux":
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
