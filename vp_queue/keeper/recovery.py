"""What the keeper does in each sweep. Every step is a compare-and-set, so two keepers do no harm.

    expire    queued missions past their start deadline that never started
    wake up   queued missions that are due and have no queue row (a retry's back-off is over, or a
              consumer died between taking the row and claiming)
    rescue    attempts whose worker is gone or whose lease ran out: fence it by taking the lease over,
              prove the old executor dead, then requeue with back-off or fail as worker_lost
    tidy      workers that ended without saying so; revocations nobody will meet

What is no longer kept is removed beside these, in a thread (:mod:`vp_queue.keeper.retention`).

Recovery re-queues; it never executes. Sources of the ideas: DBOS's recovery, Oban's lifeline (without its
flaw: it may run a job beside its living predecessor).
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Final

from vp_queue import clock
from vp_queue.config import Profile, Settings
from vp_queue.contracts import EventType, Status, WorkerState, limits
from vp_queue.errors import LedgerBusy, LedgerUnavailable, UnknownVp
from vp_queue.keeper.retention import Sweeper
from vp_queue.ledger import database, fleet, leases, queries, transitions, watch
from vp_queue.ledger.leases import Suspect
from vp_queue.ledger.models import Mission
from vp_queue.ledger.records import Claim, Ending
from vp_queue.queue import huey, storage
from vp_queue.worker import log
from vp_queue.worker.supervised import end_with_supervisord
from vp_queue.worker.tree import TreeIdentity, end_tree
from vp_queue.worker.workspace import attempt_path

logger = logging.getLogger("vp_queue.keeper")

SWEEP_SECONDS: Final = 1.0  # at least this often
PAUSE_SECONDS: Final = 0.2  # at most this often, however much is written
BATCH: Final = 200
BEAT_SECONDS: Final = 10.0
TIDY_SECONDS: Final = 60.0
KILL_GRACE_SECONDS: Final = 0.0  # its worker is gone: nobody is left to be polite for


class Loss(StrEnum):
    """How a worker was lost, in the words of the failure."""

    PROCESS_DIED = "Its worker's process died."
    LEASE_RAN_OUT = "Its worker's lease ran out without a heartbeat."


class Keeper:
    """One keeper process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._worker_id: str | None = None
        self._missing_before: set[str] = set()
        self._next_beat = 0.0
        self._next_tidying = 0.0
        self._changes = watch.current()

    def stop(self, *_: Any) -> None:
        """End after the sweep that runs (also a signal handler)."""
        self._stop.set()
        self._changes.wake()

    def run(self) -> None:
        """Sweep until :meth:`stop`."""
        end_with_supervisord()
        while not self._register():
            if self._stop.is_set():
                return
        logger.info("keeper started")
        try:
            while not self._stop.is_set():
                token = self._changes.token()
                try:
                    self.sweep()
                    self._beat()
                except (LedgerBusy, LedgerUnavailable) as error:
                    logger.warning("sweep put off: %s", error)
                self._stop.wait(PAUSE_SECONDS)
                self._changes.wait(token, SWEEP_SECONDS - PAUSE_SECONDS)
        finally:
            self._sign_off()

    def _sign_off(self) -> None:
        if self._worker_id is not None:
            with database.write_transaction() as tx:
                fleet.end(tx, self._worker_id, WorkerState.STOPPED)

    def _register(self) -> bool:
        try:
            with database.write_transaction() as tx:
                self._worker_id = fleet.register(tx, None, None).worker_id
        except LedgerBusy as error:
            logger.warning("not registered yet: %s", error)  # it waited 8 s; whoever repairs must not give up
            return False
        return True

    def sweep(self) -> None:
        """Look once for everything that needs repair. What goes wrong with one mission holds up no other."""
        with database.read_transaction() as now:
            expired = queries.past_start_deadline(now, BATCH)
            missing = storage.without_row(now, BATCH)
            suspects = list(leases.running(now, self._settings.lost_host_grace_seconds))
            ended = fleet.gone(now, self._settings.lost_host_grace_seconds)
        for mission_id in expired:
            with _kept_apart(mission_id):
                self._expire(mission_id)
        for mission_id in missing:
            with _kept_apart(mission_id):
                self._wake_up(mission_id)
        self._missing_before = set(missing)
        for suspect in suspects:
            reason = _why_lost(suspect)
            if reason is not None:
                with _kept_apart(suspect.claim.mission_id):
                    self.rescue(suspect, reason)
        self._end_workers(ended)
        self._sweep_revocations()

    def _expire(self, mission_id: str) -> None:
        with database.write_transaction() as tx:
            if transitions.expire(tx, mission_id) is not None:
                logger.info("%s expired", mission_id)

    def _wake_up(self, mission_id: str) -> None:
        """Write a wake-up for a mission that has none.

        One that had a row is given a sweep's time: a consumer has just taken it and is about to claim. A
        second wake-up would do no harm, but would tell of a loss that was none.
        """
        with database.write_transaction() as tx:
            mission = queries.mission_row(mission_id)
            if mission.status != Status.QUEUED:
                return
            if mission.queue_row is None or mission_id in self._missing_before:
                huey.enqueue(tx, mission)
                logger.info("%s is due: enqueued", mission_id)

    def rescue(self, suspect: Suspect, reason: Loss) -> Mission | None:
        """Fence a lost worker, prove its executor dead, then requeue or fail its mission.

        Returns:
            the mission as changed, or None: the worker is alive after all, another keeper was faster, or the
            executor cannot be proved dead yet (then the lease taken here runs out and we try again).
        """
        with database.write_transaction() as tx:
            taken = leases.take_over(
                tx,
                suspect,
                self._settings.lease_seconds,
                self._worker_id,
                only_if_expired=reason is Loss.LEASE_RAN_OUT,
            )
        if taken is None:
            return None
        claim, here = taken.claim, suspect.host_identity == clock.host_identity()
        if taken.executor is not None and here and not end_tree(TreeIdentity.of(taken.executor), KILL_GRACE_SECONDS):
            logger.error("executor of %s.%s cannot be killed yet", claim.mission_id, claim.attempt)
            return None
        return self._lose(claim, reason, overlap_possible=not here)

    def _lose(self, claim: Claim, reason: str, *, overlap_possible: bool) -> Mission | None:
        profile = self._profile(claim.vp_id)
        tail = self._log_tail(claim)
        with database.write_transaction() as tx:
            mission = transitions.lose(
                tx,
                claim,
                reason,
                Ending(),
                backoff_seconds=profile.retry_backoff_seconds if profile else 0.0,
                log_tail=tail,
                overlap_possible=overlap_possible,
            )
        if mission is not None:
            logger.warning("%s.%s lost (%s): now %s", claim.mission_id, claim.attempt, reason, mission.status)
        return mission

    def _profile(self, vp_id: str) -> Profile | None:
        try:
            return self._settings.profile(vp_id)
        except UnknownVp:
            return None  # removed from the configuration while its mission ran

    def _log_tail(self, claim: Claim) -> str | None:
        path = attempt_path(self._settings.workspaces_root, claim.vp_id, claim.mission_id, claim.attempt)
        try:
            return log.log_tail(path, limits.LOG_TAIL_BYTES).decode("utf-8", "replace").replace("\0", "") or None
        except OSError:
            return None

    def _end_workers(self, ended: list[str]) -> None:
        if not ended:
            return
        with database.write_transaction() as tx:
            for worker_id in ended:
                if fleet.end(tx, worker_id, WorkerState.LOST):
                    logger.warning("worker %s is gone: %s", worker_id, EventType.WORKER_LOST)

    def _sweep_revocations(self) -> None:
        if clock.monotonic() < self._next_tidying:
            return
        self._next_tidying = clock.monotonic() + TIDY_SECONDS
        if storage.has_stale_revocations():
            with database.write_transaction():
                storage.sweep_revocations(BATCH)

    def _beat(self) -> None:
        if self._worker_id is not None and clock.monotonic() >= self._next_beat:
            self._next_beat = clock.monotonic() + BEAT_SECONDS
            with database.write_transaction() as tx:
                fleet.beat(tx, self._worker_id)


@contextlib.contextmanager
def _kept_apart(mission_id: str) -> Iterator[None]:
    """Log what goes wrong with one mission and go on with the next; only the ledger's trouble ends a sweep."""
    try:
        yield
    except (LedgerBusy, LedgerUnavailable):
        raise
    except Exception:
        logger.exception("repairing %s failed", mission_id)


def _why_lost(suspect: Suspect) -> Loss | None:
    """Why an attempt's worker counts as lost, or None while it may be alive."""
    if suspect.host_identity == clock.host_identity() and suspect.worker_pid is not None:
        start = clock.process_start_ticks(suspect.worker_pid)
        if start is None or start != suspect.worker_start:
            return Loss.PROCESS_DIED
    return Loss.LEASE_RAN_OUT if suspect.expired else None


def main(settings: Settings) -> None:
    """Run a keeper in this process until SIGTERM or SIGINT."""
    keeper = Keeper(settings)
    signal.signal(signal.SIGTERM, keeper.stop)
    signal.signal(signal.SIGINT, keeper.stop)
    with Sweeper(settings).running():
        keeper.run()
