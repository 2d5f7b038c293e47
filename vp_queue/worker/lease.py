"""The heartbeat of a worker and of all its running attempts: one thread, one transaction a beat.

It also carries the ledger's answers back: a cancel that was requested (noticed within milliseconds, by
the change watch) and a lease that is no longer held. A second thread watches the first. When an attempt has
had no successful heartbeat for half a lease, by the boot-time clock, whatever the reason (the ledger is locked,
its disk hangs and the heartbeat with it), its program is killed and the attempt given up: better early than
beside a second worker.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from vp_queue import clock
from vp_queue.errors import LedgerBusy, LedgerUnavailable
from vp_queue.ledger import database, fleet, leases, queries, watch
from vp_queue.worker.attempt import RunningAttempt, StopReason

logger = logging.getLogger("vp_queue.worker")

BEATS_PER_LEASE: Final = 6
LONGEST_INTERVAL_SECONDS: Final = 10.0


class LeaseKeeper:
    """Renews the leases of the attempts it is given, from a thread of its own."""

    def __init__(self, lease_seconds: float, on_corrupt: Callable[[str], None] = lambda why: None) -> None:
        """
        Args:
            lease_seconds: how long a lease holds without a heartbeat.
            on_corrupt: called, with the reason, when a heartbeat finds the ledger damaged.
        """
        self.lease_seconds = lease_seconds
        self.interval_seconds = min(lease_seconds / BEATS_PER_LEASE, LONGEST_INTERVAL_SECONDS)
        self._on_corrupt = on_corrupt
        self._attempts: dict[str, RunningAttempt] = {}
        # By lease token: when the lease was last known to be ours, on the boot-time clock.
        self._renewed_us: dict[str, int] = {}
        self._lock = threading.Lock()
        self._worker_id: str | None = None
        self._stopped = threading.Event()

    def start(self, worker_id: str) -> None:
        """Begin to beat for this worker."""
        self._worker_id = worker_id
        threading.Thread(target=self._run, name="lease-keeper", daemon=True).start()
        threading.Thread(target=self._watch_over, name="lease-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Beat no more; there is nothing left to beat for."""
        self._stopped.set()
        watch.current().wake()

    def add(self, attempt: RunningAttempt, claimed_us: int) -> None:
        """Keep this attempt's lease, just taken with its claim.

        Args:
            claimed_us: the boot-time clock, in microseconds, when its claim began: the lease is no older.
        """
        with self._lock:
            self._attempts[attempt.claim.token] = attempt
            self._renewed_us[attempt.claim.token] = claimed_us
        watch.current().wake()

    def remove(self, attempt: RunningAttempt) -> None:
        """The attempt is over."""
        with self._lock:
            self._attempts.pop(attempt.claim.token, None)
            self._renewed_us.pop(attempt.claim.token, None)

    def _running(self) -> list[RunningAttempt]:
        with self._lock:
            return list(self._attempts.values())

    def _run(self) -> None:
        next_beat = clock.monotonic()
        while not self._stopped.is_set():
            token = watch.current().token()
            try:
                if clock.monotonic() >= next_beat:
                    next_beat = clock.monotonic() + self.interval_seconds
                    self._beat()
                self._look_for_cancels()
            except (LedgerBusy, LedgerUnavailable) as error:
                logger.warning("heartbeat failed, trying again: %s", error)
                next_beat = clock.monotonic() + min(1.0, self.interval_seconds)
                if error.details.get("corrupt"):
                    self._on_corrupt(error.message)
            except Exception:
                logger.exception("heartbeat failed")
            watch.current().wait(token, max(0.0, next_beat - clock.monotonic()))

    def _beat(self) -> None:
        attempts = self._running()
        began_us = clock.boottime_us()
        with database.write_transaction() as tx:
            if self._worker_id is not None:
                fleet.beat(tx, self._worker_id)
            held = {
                attempt.claim.token: leases.renew(tx, attempt.claim, self.lease_seconds, attempt.last_output_at)
                for attempt in attempts
            }
        for attempt in attempts:
            token = attempt.claim.token
            if held[token]:
                with self._lock:
                    if token in self._renewed_us:
                        self._renewed_us[token] = began_us
            elif not attempt.finished.is_set() and not attempt.lost and attempt in self._running():
                attempt.stop(StopReason.LEASE_LOST)
                logger.error("lease of %s.%s lost", attempt.claim.mission_id, attempt.claim.attempt)

    def _look_for_cancels(self) -> None:
        attempts = {attempt.claim.mission_id: attempt for attempt in self._running()}
        if not attempts:
            return
        with database.read_transaction():
            asked = queries.cancel_requested(list(attempts))
        for mission_id in asked:
            attempts[mission_id].stop(StopReason.CANCELLED)

    def _watch_over(self) -> None:
        # In slices no longer than a beat: the wait's clock stands still while the machine sleeps, the lease's does not.
        while not self._stopped.wait(min(self.interval_seconds, self.give_up_overdue())):
            pass

    def give_up_overdue(self) -> float:
        """Give up every attempt without a heartbeat for half a lease; returns the seconds until the next may be due."""
        half_us = int(self.lease_seconds * 500_000)
        now_us = clock.boottime_us()
        with self._lock:
            silent_us = {token: now_us - renewed for token, renewed in self._renewed_us.items()}
            overdue = [self._attempts[token] for token, silence in silent_us.items() if silence >= half_us]
        for attempt in overdue:
            if not attempt.at_once:
                attempt.stop(StopReason.UNREACHABLE)  # first: nothing that could wait, as a log may, comes before
                name = f"{attempt.claim.mission_id}.{attempt.claim.attempt}"
                logger.error("%s is given up: no heartbeat succeeded for half a lease", name)
        left = [half_us - silence for silence in silent_us.values() if silence < half_us]
        return min(left, default=half_us) / 1_000_000
