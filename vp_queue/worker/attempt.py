"""The shared state of one running attempt: why it must stop, and how to wake whoever waits on it."""

from __future__ import annotations

import os
import threading
from datetime import datetime
from enum import StrEnum

from vp_queue import clock
from vp_queue.ledger.records import Claim


class StopReason(StrEnum):
    """Why a running attempt is being ended by us."""

    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    TIMEOUT = "timeout"
    BUDGET = "budget"
    UNREACHABLE = "unreachable"  # the ledger: too long without a heartbeat
    LEASE_LOST = "lease_lost"


class Wake:
    """A pipe that becomes readable once, so that select() in the runner wakes at once."""

    def __init__(self) -> None:
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def up(self) -> None:
        """Make it readable."""
        os.write(self._write, b"!")

    def close(self) -> None:
        """Nobody waits any more."""
        os.close(self.fd)
        os.close(self._write)


class RunningAttempt:
    """One attempt of this process, seen by its runner thread, the lease thread and the main thread."""

    def __init__(self, claim: Claim, wake: Wake | None = None) -> None:
        """
        Args:
            wake: made before the claim; closed with the attempt. One of its own if omitted.
        """
        self.claim = claim
        self.finished = threading.Event()
        self.last_output_at: datetime | None = None
        self._lock = threading.Lock()
        self._reason: StopReason | None = None
        self._at_once = False
        self._wake: Wake | None = wake or Wake()
        self.wake_fd = self._wake.fd  # readable once the attempt must stop

    @property
    def stop_reason(self) -> StopReason | None:
        """Why it must stop; None while it may run."""
        return self._reason

    @property
    def lost(self) -> bool:
        """Whether this worker no longer speaks for the attempt."""
        return self._reason == StopReason.LEASE_LOST

    @property
    def at_once(self) -> bool:
        """Whether its program must be killed without grace: somebody else may start it soon."""
        return self._at_once

    def stop(self, reason: StopReason) -> None:
        """Tell it to end. The first reason stands, but a lost lease overrides: then nothing may be written."""
        with self._lock:
            self._at_once = self._at_once or reason in (StopReason.UNREACHABLE, StopReason.LEASE_LOST)
            if self._reason is None:
                self._reason = reason
                if self._wake is not None:
                    self._wake.up()
            elif reason == StopReason.LEASE_LOST:
                self._reason = reason

    def printed(self) -> None:
        """The program printed or reported something."""
        self.last_output_at = clock.now()

    def wait_a_moment(self, seconds: float) -> None:
        """Pause the runner without keeping a stopping process from exiting."""
        self.finished.wait(seconds)

    def close(self) -> None:
        """The attempt is over, for whoever waits."""
        with self._lock:
            if self._wake is not None:
                self._wake.close()
            self._wake = None
        self.finished.set()
