"""A consumer process's worker: who it is, what it runs, and how it stops in good order."""

from __future__ import annotations

import atexit
import logging
import threading
from typing import Final

from vp_queue.config import Profile, Settings
from vp_queue.contracts import WorkerState
from vp_queue.errors import VpError
from vp_queue.ledger import database, fleet
from vp_queue.ledger.records import WorkerIdentity
from vp_queue.worker import runner
from vp_queue.worker.attempt import RunningAttempt, StopReason
from vp_queue.worker.lease import LeaseKeeper
from vp_queue.worker.runner import AttemptRunner
from vp_queue.worker.supervised import end_with_supervisord

logger = logging.getLogger("vp_queue.worker")

# All executors must be ended and released within supervisord's stopwaitsecs=30: past it comes SIGKILL.
INTERRUPT_WAIT_SECONDS: Final = 27.0


class MissionWorker:
    """What ``huey_consumer`` runs missions with; one per process."""

    def __init__(self, settings: Settings, profile: Profile) -> None:
        """
        Args:
            profile: the VP whose queue this process consumes.
        """
        self._settings = settings
        self._profile = profile
        self._leases = LeaseKeeper(settings.lease_seconds)
        self._identity: WorkerIdentity | None = None
        self._running: dict[str, RunningAttempt] = {}
        self._lock = threading.Lock()

    def start(self) -> WorkerIdentity:
        """Register this process as a worker, once, and begin its heartbeat."""
        with self._lock:
            if self._identity is None:
                end_with_supervisord()
                with database.write_transaction() as tx:
                    self._identity = fleet.register(tx, self._profile.vp_id, self._profile.digest)
                self._leases.start(self._identity.worker_id)
                atexit.register(self._stopped)
            return self._identity

    def run(self, mission_id: str, attempt: int) -> None:
        """The body of the Huey task: run the attempt if it can be claimed."""
        claimed = runner.claim(mission_id, attempt, self.start(), self._settings.lease_seconds)
        if claimed is None:
            return
        mission, running = claimed
        with self._lock:
            self._running[f"{mission_id}.{attempt}"] = running
        self._leases.add(running)
        try:
            AttemptRunner(self._settings, self._profile, mission, running).run()
        finally:
            self._leases.remove(running)
            with self._lock:
                del self._running[f"{mission_id}.{attempt}"]
            running.close()

    def interrupt(self, mission_id: str, attempt: int) -> None:
        """SIGTERM: end every executor, prove it dead, release its attempt; returns when this one is released.

        Called by Huey's ``interrupted`` signal once per task in flight; the first call stops them all, so
        that they end side by side within supervisord's patience.
        """
        with self._lock:
            running = dict(self._running)
        for other in running.values():
            other.stop(StopReason.INTERRUPTED)
        mine = running.get(f"{mission_id}.{attempt}")
        if mine is not None and not mine.finished.wait(INTERRUPT_WAIT_SECONDS):
            logger.error("%s.%s could not be released in time; the keeper will find it", mission_id, attempt)

    def _stopped(self) -> None:
        """This process leaves in good order."""
        if self._identity is None:
            return
        try:
            with database.write_transaction() as tx:
                fleet.end(tx, self._identity.worker_id, WorkerState.STOPPED)
        except VpError as error:
            logger.warning("could not sign off: %s", error)  # the keeper will mark this worker lost
