"""A consumer process's worker: who it is, what it runs, and how it stops in good order."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable
from typing import Final

from vp_queue import clock, tracing
from vp_queue.config import Profile, Settings
from vp_queue.contracts import WorkerState, limits
from vp_queue.errors import LedgerBusy, VpError
from vp_queue.ledger import database, fleet
from vp_queue.ledger.guard import LedgerGuard
from vp_queue.ledger.records import WorkerIdentity
from vp_queue.worker import runner, standby
from vp_queue.worker.attempt import RunningAttempt, StopReason
from vp_queue.worker.lease import LeaseKeeper
from vp_queue.worker.runner import AttemptRunner
from vp_queue.worker.supervised import UNUSABLE_LEDGER, drop_what_supervisord_does_not_read, end_with_supervisord
from vp_queue.worker.workspace import attempt_path

logger = logging.getLogger("vp_queue.worker")

# All executors must be ended and released within supervisord's stopwaitsecs=30: past it comes SIGKILL.
STOP_WAIT_SECONDS: Final = 27.0


class MissionWorker:
    """What ``huey_consumer`` runs missions with; one per process."""

    def __init__(
        self, settings: Settings, profile: Profile, at_start: Callable[[str], None] = lambda worker_id: None
    ) -> None:
        """
        Args:
            profile: the VP whose queue this process consumes.
            at_start: called once it has registered, with its worker id, in a thread of its own.
        """
        self._settings = settings
        self._profile = profile
        self._at_start = at_start
        self._leases = LeaseKeeper(settings.lease_seconds, on_corrupt=self.end_loudly)
        self._guard = LedgerGuard(self.end_loudly)
        self._identity: WorkerIdentity | None = None
        self._running: list[RunningAttempt] = []
        self._stop_deadline: float | None = None
        self._lock = threading.Lock()

    def start(self) -> WorkerIdentity:
        """Register this process as a worker, once, and begin its heartbeat."""
        with self._lock:
            if self._identity is None:
                end_with_supervisord()
                drop_what_supervisord_does_not_read()
                with database.write_transaction() as tx:
                    self._identity = fleet.register(tx, self._profile.vp_id, self._profile.digest)
                self._leases.start(self._identity.worker_id)
                self._guard.start()
                tracing.begin()  # before close is registered: what that ends is told as well
                standby.keep()
                atexit.register(self.close)
                # Beside the missions: what it has to end may take its time.
                worker_id = self._identity.worker_id
                threading.Thread(target=self._at_start, args=(worker_id,), name="at-start", daemon=True).start()
            return self._identity

    def begin(self) -> None:
        """:meth:`start`, however long the ledger is locked: an idle worker that gave up would be known to nobody."""
        while True:
            try:
                self.start()
                return
            except LedgerBusy as error:  # it waited 8 s
                logger.warning("not registered yet: %s", error)

    def run(self, mission_id: str, attempt: int) -> None:
        """The body of the Huey task: run the attempt if it can be claimed."""
        identity = self.start()
        with self._lock:  # claimed and listed in one step, or an orderly stop could overlook it
            if self._stop_deadline is not None:
                return  # still queued; the keeper writes it a new wake-up
            asked_us = clock.boottime_us()
            path = attempt_path(self._settings.workspaces_root, self._profile.vp_id, mission_id, attempt)
            claimed = runner.claim(mission_id, attempt, identity, self._settings.lease_seconds, path)
            if claimed is None:
                return
            mission, running = claimed
            self._running.append(running)
        self._leases.add(running, asked_us)
        try:
            with tracing.attempt(mission, running.claim):
                AttemptRunner(self._settings, self._profile, mission, running).run()
        finally:
            self._leases.remove(running)
            with self._lock:
                self._running.remove(running)
            running.close()

    def stop_all(self) -> None:
        """The orderly stop: claim nothing more, end every executor, prove it dead, release its attempt.

        Returns when all are released, or supervisord's patience is nearly over. It is called once per
        interrupted task and once more at exit; the time they may wait is counted from the first call.
        """
        if self._stop_deadline is None:  # before the lock, which a claim that waits for the ledger may hold
            self._stop_deadline = clock.monotonic() + STOP_WAIT_SECONDS
        deadline = self._stop_deadline
        with self._lock:
            running = list(self._running)
        for attempt in running:
            attempt.stop(StopReason.INTERRUPTED)
        for attempt in running:
            if not attempt.finished.wait(max(0.0, deadline - clock.monotonic())):
                name = f"{attempt.claim.mission_id}.{attempt.claim.attempt}"
                logger.error("%s could not be released in time; the keeper will find it", name)

    def end_loudly(self, why: str) -> None:
        """Kill every executor and end this process: its ledger is no more, and nothing can be written about them.

        supervisord starts another, on the ledger that stands there then.
        """
        self._stop_deadline = clock.monotonic()
        # Without the lock: a claim on the ledger that is no more may hold it. What is not in the list yet ends when
        # this process does: its launcher sees to it.
        running = list(self._running)
        for attempt in running:
            attempt.stop(StopReason.LEASE_LOST)
        logger.critical("this worker ends: %s", why)
        deadline = clock.monotonic() + STOP_WAIT_SECONDS
        for attempt in running:
            attempt.finished.wait(max(0.0, deadline - clock.monotonic()))
        standby.close()
        os._exit(UNUSABLE_LEDGER)

    def close(self) -> None:
        """This process leaves in good order: everything it runs is released, and it signs off."""
        self.stop_all()
        if self._identity is None:
            return
        self._leases.stop()
        self._guard.stop()
        if self._stop_deadline is not None and clock.monotonic() > self._stop_deadline - limits.WRITE_WAIT_SECONDS:
            return  # signing off may wait for the ledger; supervisord does not. The keeper will mark this worker lost
        try:
            with database.write_transaction() as tx:
                fleet.end(tx, self._identity.worker_id, WorkerState.STOPPED)
        except VpError as error:
            logger.warning("could not sign off: %s", error)  # the keeper will mark this worker lost
