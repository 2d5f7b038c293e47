"""Takes an attempt over from a worker that is gone: fence it, prove its program dead, then requeue or fail.

The keeper does so in each sweep; a consumer does it once, when it starts, for its own host's dead. Every step is a
compare-and-set, so any number of rescuers do no harm. Recovery re-queues; it never executes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final

from vp_queue import clock
from vp_queue.config import Profile, Settings
from vp_queue.contracts import EventType, WorkerState, limits
from vp_queue.errors import LedgerBusy, LedgerUnavailable, UnknownVp
from vp_queue.ledger import database, fleet, leases, transitions
from vp_queue.ledger.leases import Suspect
from vp_queue.ledger.models import Mission
from vp_queue.ledger.records import Claim, Ending
from vp_queue.worker import log
from vp_queue.worker.reports import clean
from vp_queue.worker.tree import TreeIdentity, end_tree
from vp_queue.worker.workspace import attempt_path, take_back

logger = logging.getLogger("vp_queue.keeper")

KILL_GRACE_SECONDS: Final = 0.0  # its worker is gone: nobody is left to be polite for
# How long a lease must have run out while the ledger could be written to: after a time when nobody could write,
# its worker needs a moment to renew it.
CONFIRM_SECONDS: Final = 2.0
# A take-over that had to wait so long for the write lock: whoever renews leases had to wait, too.
KEPT_WAITING_SECONDS: Final = 0.5
MOST_PUT_OFF: Final = 3  # on a disk that is always that slow nothing would be taken over otherwise


class Loss(StrEnum):
    """How a worker was lost, in the words of the failure."""

    PROCESS_DIED = "Its worker's process died."
    LEASE_RAN_OUT = "Its worker's lease ran out without a heartbeat."


class Rescuer:
    """One process that rescues."""

    def __init__(self, settings: Settings, rescuer_id: str | None) -> None:
        """
        Args:
            rescuer_id: this process's worker id; what it takes over is its own until it dies.
        """
        self._settings = settings
        self._rescuer_id = rescuer_id
        self._confirm_seconds = min(CONFIRM_SECONDS, settings.lease_seconds / 3)
        # Lease tokens that had run out at a time when the ledger could be written to, and that time.
        self._ran_out_at: dict[str, float] = {}
        # How often each of them was put off, because its take-over had to wait.
        self._put_off: dict[str, int] = {}

    def forgive(self) -> None:
        """The ledger could not be written to: leases that ran out meanwhile say nothing about their workers."""
        self._ran_out_at.clear()

    def lost(self, suspects: Iterable[Suspect]) -> list[tuple[Suspect, Loss]]:
        """Those of the running attempts whose worker counts as lost, and why.

        Args:
            suspects: all running attempts, as they are now.

        Raises:
            LedgerBusy, LedgerUnavailable: a lease seems to have run out, but nobody can write.
        """
        dead = [suspect for suspect in suspects if died(suspect)]
        ran_out = [suspect for suspect in suspects if suspect.expired and suspect not in dead]
        before = self._ran_out_at
        if any(suspect.claim.token not in before for suspect in ran_out):
            with database.write_transaction() as tx:
                fleet.beat(tx, self._rescuer_id)
        now = clock.monotonic()
        self._ran_out_at = {s.claim.token: before.get(s.claim.token, now) for s in ran_out}
        self._put_off = {token: times for token, times in self._put_off.items() if token in self._ran_out_at}
        confirmed = [s for s in ran_out if now - self._ran_out_at[s.claim.token] >= self._confirm_seconds]
        return [(s, Loss.PROCESS_DIED) for s in dead] + [(s, Loss.LEASE_RAN_OUT) for s in confirmed]

    def rescue(self, suspect: Suspect, reason: Loss) -> Mission | None:
        """Fence a lost worker, prove its executor dead, then requeue or fail its mission.

        Returns:
            the mission as changed, or None: the worker is alive after all, another rescuer was faster, or the
            executor cannot be proved dead yet (then the lease taken here runs out and we try again).
        """
        asked, token = clock.monotonic(), suspect.claim.token
        with database.write_transaction() as tx:
            kept_waiting = clock.monotonic() - asked > KEPT_WAITING_SECONDS
            if reason is Loss.LEASE_RAN_OUT and kept_waiting and self._put_off.get(token, 0) < MOST_PUT_OFF:
                self._put_off[token] = self._put_off.get(token, 0) + 1
                self._ran_out_at.pop(token, None)
                return None
            taken = leases.take_over(
                tx,
                suspect,
                self._settings.lease_seconds,
                self._rescuer_id,
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
        path = attempt_path(self._settings.workspaces_root, claim.vp_id, claim.mission_id, claim.attempt)
        with contextlib.suppress(OSError):
            take_back(path)
        tail = clean(log.tail_text(path, limits.LOG_TAIL_BYTES), limits.LOG_TAIL_BYTES) or None
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


def died(suspect: Suspect) -> bool:
    """Whether an attempt's worker was a process of this host that is no more."""
    if suspect.host_identity != clock.host_identity() or suspect.worker_pid is None:
        return False
    start = clock.process_start_ticks(suspect.worker_pid)
    return start is None or start != suspect.worker_start


def rescue_the_dead(settings: Settings, rescuer_id: str) -> None:
    """Rescue what dead workers of this host left, and note that they are lost; once, when a consumer starts.

    Args:
        rescuer_id: the starting consumer's worker id.
    """
    rescuer = Rescuer(settings, rescuer_id)
    with database.read_transaction() as now:
        suspects = [suspect for suspect in leases.running(now, settings.lost_host_grace_seconds) if died(suspect)]
        ended = fleet.gone(now, settings.lost_host_grace_seconds)
    for suspect in suspects:
        with kept_apart(suspect.claim.mission_id):
            rescuer.rescue(suspect, Loss.PROCESS_DIED)
    end_workers(ended)


def end_workers(ended: list[str]) -> None:
    """Note that these workers are lost."""
    if not ended:
        return
    with database.write_transaction() as tx:
        for worker_id in ended:
            if fleet.end(tx, worker_id, WorkerState.LOST):
                logger.warning("worker %s is gone: %s", worker_id, EventType.WORKER_LOST)


@contextlib.contextmanager
def kept_apart(mission_id: str) -> Iterator[None]:
    """Log what goes wrong with one mission and go on with the next; only the ledger's trouble ends a sweep."""
    try:
        yield
    except (LedgerBusy, LedgerUnavailable) as error:
        if not error.details.get("unreadable"):
            raise
        logger.error("%s cannot be repaired: %s", mission_id, error.message)
    except Exception:
        logger.exception("repairing %s failed", mission_id)
