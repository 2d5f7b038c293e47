"""The heartbeat of a worker and of all its running attempts: one thread, one transaction a beat.

It also carries the ledger's answers back: a cancel that was requested (noticed within milliseconds, by
the change watch) and a lease that is no longer held. When no heartbeat has succeeded for half a lease, by
the boot-time clock, the attempts are told that their lease is lost: better to give up early than to run
beside a second worker.
"""

from __future__ import annotations

import logging
import threading
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

    def __init__(self, lease_seconds: float) -> None:
        """
        Args:
            lease_seconds: how long a lease holds without a heartbeat.
        """
        self.lease_seconds = lease_seconds
        self.interval_seconds = min(lease_seconds / BEATS_PER_LEASE, LONGEST_INTERVAL_SECONDS)
        self._attempts: dict[str, RunningAttempt] = {}
        self._lock = threading.Lock()
        self._worker_id: str | None = None
        self._stopped = False
        self._last_success_us = clock.boottime_us()

    def start(self, worker_id: str) -> None:
        """Begin to beat for this worker."""
        self._worker_id = worker_id
        threading.Thread(target=self._run, name="lease-keeper", daemon=True).start()

    def stop(self) -> None:
        """Beat no more; there is nothing left to beat for."""
        self._stopped = True
        watch.current().wake()

    def add(self, attempt: RunningAttempt) -> None:
        """Keep this attempt's lease, just taken with its claim."""
        with self._lock:
            if not self._attempts:
                self._last_success_us = clock.boottime_us()
            self._attempts[attempt.claim.token] = attempt
        watch.current().wake()

    def remove(self, attempt: RunningAttempt) -> None:
        """The attempt is over."""
        with self._lock:
            self._attempts.pop(attempt.claim.token, None)

    def _running(self) -> list[RunningAttempt]:
        with self._lock:
            return list(self._attempts.values())

    def _run(self) -> None:
        next_beat = clock.monotonic()
        while not self._stopped:
            token = watch.current().token()
            try:
                if clock.monotonic() >= next_beat:
                    next_beat = clock.monotonic() + self.interval_seconds
                    self._beat()
                self._look_for_cancels()
            except (LedgerBusy, LedgerUnavailable) as error:
                logger.warning("heartbeat failed, trying again: %s", error)
                self._give_up_if_too_late()
                next_beat = clock.monotonic() + min(1.0, self.interval_seconds)
            except Exception:
                logger.exception("heartbeat failed")
                self._give_up_if_too_late()
            watch.current().wait(token, max(0.0, next_beat - clock.monotonic()))

    def _beat(self) -> None:
        attempts = self._running()
        with database.write_transaction() as tx:
            if self._worker_id is not None:
                fleet.beat(tx, self._worker_id)
            held = {
                attempt.claim.token: leases.renew(tx, attempt.claim, self.lease_seconds, attempt.last_output_at)
                for attempt in attempts
            }
        self._last_success_us = clock.boottime_us()
        for attempt in attempts:
            if not held[attempt.claim.token] and not attempt.finished.is_set():
                self._lost(attempt, "another process took it over")

    def _look_for_cancels(self) -> None:
        attempts = {attempt.claim.mission_id: attempt for attempt in self._running()}
        if not attempts:
            return
        with database.read_transaction():
            asked = queries.cancel_requested(list(attempts))
        for mission_id in asked:
            attempts[mission_id].stop(StopReason.CANCELLED)

    def _give_up_if_too_late(self) -> None:
        silent_seconds = (clock.boottime_us() - self._last_success_us) / 1_000_000
        if silent_seconds > self.lease_seconds / 2:
            for attempt in self._running():
                self._lost(attempt, f"no heartbeat succeeded for {silent_seconds:.1f} s")

    def _lost(self, attempt: RunningAttempt, why: str) -> None:
        if not attempt.lost and attempt in self._running():
            logger.error("lease of %s.%s lost: %s", attempt.claim.mission_id, attempt.claim.attempt, why)
            attempt.stop(StopReason.LEASE_LOST)
