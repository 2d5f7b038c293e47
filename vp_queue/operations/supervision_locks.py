"""The locks that keep one ``up``, ``down`` or restart from another, and waiting for what nobody announces."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from vp_queue import clock
from vp_queue.config import Settings
from vp_queue.errors import InternalError

Found = TypeVar("Found")

LOCK_WAIT_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.05


@contextlib.contextmanager
def at_work(settings: Settings) -> Iterator[None]:
    """One ``up`` or ``down`` at a time. The descriptor closes on exec."""
    lock = settings.run_dir / "up.lock"
    held = polled(lambda: take(lock), LOCK_WAIT_SECONDS)
    if held is None:
        raise InternalError(
            f"Another `vp up` or `vp down` has been at work for {LOCK_WAIT_SECONDS:.0f} s; it holds {lock}."
        )
    try:
        yield
    finally:
        os.close(held)


def take(lock: Path) -> int | None:
    """Take the lock if nobody holds it; closing the descriptor gives it back."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def polled(look: Callable[[], Found | None], seconds: float) -> Found | None:
    """What ``look`` finds, asked again until the time is up."""
    deadline = clock.monotonic() + seconds
    while True:
        found = look()
        if found is not None or clock.monotonic() > deadline:
            return found
        time.sleep(POLL_SECONDS)
