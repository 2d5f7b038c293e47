"""What the keeper does in each sweep. Every step is a compare-and-set, so two keepers do no harm.

    expire    queued missions past their start deadline that never started
    wake up   queued missions that are due and have no queue row (a retry's back-off is over, or a
              consumer died between taking the row and claiming)
    rescue    attempts whose worker is gone (looked for at once when a worker's process dies) or whose lease
              ran out: see ``rescue``
    tidy      workers that ended without saying so; revocations nobody will meet

What is no longer kept is removed beside these, in a thread (:mod:`vp_queue.keeper.retention`), and people are told
of what happened in others (:mod:`vp_queue.keeper.notifier`).

Recovery re-queues; it never executes. Sources of the ideas: DBOS's recovery, Oban's lifeline (without its
flaw: it may run a job beside its living predecessor).
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import Any, Final

from vp_queue import clock
from vp_queue.config import Settings
from vp_queue.contracts import Status, WorkerState
from vp_queue.errors import LedgerBusy, LedgerUnavailable
from vp_queue.keeper.deaths import DeathWatch
from vp_queue.keeper.notifier import Notifier
from vp_queue.keeper.rescue import Rescuer, end_workers, kept_apart
from vp_queue.keeper.retention import Sweeper
from vp_queue.ledger import database, fleet, leases, queries, transitions, watch
from vp_queue.ledger.guard import LedgerGuard
from vp_queue.queue import huey, storage
from vp_queue.worker.supervised import UNUSABLE_LEDGER, drop_what_supervisord_does_not_read, end_with_supervisord

logger = logging.getLogger("vp_queue.keeper")

SWEEP_SECONDS: Final = 1.0  # at least this often
PAUSE_SECONDS: Final = 0.2  # at most this often, however much is written
BATCH: Final = 200
BEAT_SECONDS: Final = 10.0
TIDY_SECONDS: Final = 60.0


class Keeper:
    """One keeper process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._worker_id: str | None = None
        self._rescuer = Rescuer(settings, None)
        self._missing_before: set[str] = set()
        self._next_beat = 0.0
        self._next_tidying = 0.0
        self._changes = watch.current()
        self._deaths = DeathWatch(self._changes.wake)
        self._guard = LedgerGuard(_end_loudly)

    def stop(self, *_: Any) -> None:
        """End after the sweep that runs (also a signal handler).

        A handler may interrupt the very wait whose lock it would need, and then waits for itself; a thread does not.
        """
        threading.Thread(target=self._wake_to_stop, name="stop", daemon=True).start()

    def _wake_to_stop(self) -> None:
        self._stop.set()
        self._changes.wake()

    def run(self) -> None:
        """Sweep until :meth:`stop`."""
        end_with_supervisord()
        drop_what_supervisord_does_not_read()
        while not self._register():
            if self._stop.is_set():
                return
        logger.info("keeper started")
        self._guard.start()
        try:
            while not self._stop.is_set():
                token = self._changes.token()
                try:
                    self.sweep()
                    self._beat()
                except (LedgerBusy, LedgerUnavailable) as error:
                    logger.warning("sweep put off: %s", error)
                    self._rescuer.forgive()
                    if error.details.get("corrupt"):
                        _end_loudly(error.message)
                self._stop.wait(PAUSE_SECONDS)
                self._changes.wait(token, SWEEP_SECONDS - PAUSE_SECONDS)
        finally:
            self._guard.stop()
            self._sign_off()

    def _sign_off(self) -> None:
        if self._worker_id is not None:
            with database.write_transaction() as tx:
                fleet.end(tx, self._worker_id, WorkerState.STOPPED)

    def _register(self) -> bool:
        try:
            with database.write_transaction() as tx:
                self._worker_id = fleet.register(tx, None, None).worker_id
            self._rescuer = Rescuer(self._settings, self._worker_id)
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
            self._deaths.watch(fleet.processes_here())
        for suspect, reason in self._rescuer.lost(suspects):
            if self._stop.is_set():
                return  # each may take seconds, if its program cannot be killed; the next keeper goes on
            with kept_apart(suspect.claim.mission_id):
                self._rescuer.rescue(suspect, reason)
        end_workers(ended)
        for mission_id in expired:
            with kept_apart(mission_id):
                self._expire(mission_id)
        for mission_id in missing:
            with kept_apart(mission_id):
                self._wake_up(mission_id)
        self._missing_before = set(missing)
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


def _end_loudly(why: str) -> None:
    """A keeper repairs nothing in a ledger that is no more; supervisord starts another on what there is."""
    logger.critical("keeper ends: %s", why)
    os._exit(UNUSABLE_LEDGER)


def main(settings: Settings) -> None:
    """Run a keeper in this process until SIGTERM or SIGINT.

    Raises:
        LedgerUnavailable: the ledger is damaged.
    """
    database.check_intact()
    keeper = Keeper(settings)
    signal.signal(signal.SIGTERM, keeper.stop)
    signal.signal(signal.SIGINT, keeper.stop)
    with Sweeper(settings).running(), Notifier(settings).running():
        keeper.run()
