"""Removes what ``[retention]`` no longer keeps: the keeper once a minute, ``vp prune`` now.

    folders    those of missions pruned earlier that a crash or an obstacle left
    sizes      the workspaces of ended missions, each measured once
    missions   what :func:`vp_queue.ledger.retention.expendable` names: rows first, folders after
    rest       old events of no mission, idempotency keys of missions pruned long ago, tallies of days long ago

The ledger is written in transactions of milliseconds with a longer pause after each, so that a dispatch mostly meets
a free lock; the keeper does all of this in a thread of its own, so that a slow disk holds up no rescue. Two that
prune at once do no harm: each delete is a compare-and-set, and a folder that has gone has gone.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Final

from vp_queue import clock
from vp_queue.config import Settings
from vp_queue.config_retention import Retention
from vp_queue.errors import LedgerBusy, LedgerUnavailable
from vp_queue.keeper.followed_settings import FollowedSettings
from vp_queue.keeper.wall_clock import WallClock
from vp_queue.ledger import database, retention
from vp_queue.ledger.models import PrunedWorkspace
from vp_queue.ledger.retention import Expendable
from vp_queue.queue import storage
from vp_queue.worker.footprint import mission_footprint
from vp_queue.worker.removal import remove_mission_folder

logger = logging.getLogger("vp_queue.keeper")

EACH_SECONDS: Final = 60.0  # a sweep, and at once another if there was more to do
SWEEP_SECONDS: Final = 20.0  # then the settings are looked at again
AGAIN_SECONDS: Final = 0.5
# How long one transaction holds the write lock, within one mission's deletes: those of a mission with ten
# thousand events take 50 ms.
TRANSACTION_SECONDS: Final = 0.01
MISSIONS_AT_ONCE: Final = 25
# After each transaction, of as long as it took: others then find the lock free most of the time.
PAUSE_TIMES: Final = 3
PAUSE_SECONDS: Final = 0.01  # at least
PAGE: Final = 500


@dataclass
class Swept:
    """What a sweep did.

    Attributes:
        missions: whose rows were deleted.
        folders: workspaces that were removed.
        freed_bytes: what those had been measured to take.
        stuck: folders that could not be removed now, with the reason, by their mission.
        unfinished: there is more to do.
    """

    missions: list[Expendable] = field(default_factory=list)
    folders: int = 0
    freed_bytes: int = 0
    stuck: dict[str, str] = field(default_factory=dict)
    unfinished: bool = False


@dataclass(frozen=True)
class Scope:
    """What a sweep is about.

    Attributes:
        vp_id: one VP's missions only; None = everything.
        older_than: an age at which missions go whatever the settings say.
        retry_all: folders that could not be removed are tried again now, and not only when it is time.
    """

    vp_id: str | None = None
    older_than: timedelta | None = None
    retry_all: bool = False


def policy_of(settings: Settings, vp_id: str) -> Retention:
    """What is kept of a VP's missions, be it configured or not any more."""
    profile = settings.vps.get(vp_id)
    return profile.retention if profile else settings.retention


def _until(deadline: float) -> Callable[[], bool]:
    return lambda: clock.monotonic() < deadline


class Sweep:
    """One pass over everything."""

    def __init__(
        self,
        settings: Settings,
        scope: Scope,
        *,
        go_on: Callable[[], bool],
        pause: Callable[[float], object],
        seconds: float | None = None,
        progress: Callable[[Swept], None] = lambda swept: None,
    ) -> None:
        """
        Args:
            settings: where, and what is kept.
            scope: what it is about.
            go_on: False ends it early, at once.
            pause: waits so many seconds.
            seconds: it begins nothing more after so long; None = it ends when nothing is left to do.
            progress: is shown what was done so far, now and then.
        """
        self._settings, self._scope = settings, scope
        self._wanted, self._pause, self._progress = go_on, pause, progress
        self._deadline = None if seconds is None else clock.monotonic() + seconds
        self._swept = Swept()

    def run(self) -> Swept:
        """Do all of it.

        Raises:
            LedgerBusy, LedgerUnavailable: what was not done is done by another sweep.
        """
        self._remove_folders()
        self._measure()
        with database.read_transaction():
            vp_ids = retention.ended_vps()
        for vp_id in vp_ids:
            if self._scope.vp_id in (None, vp_id):
                self._prune(vp_id)
        if self._scope.vp_id is None:
            self._tidy()
        self._swept.unfinished = not self._go_on()
        return self._swept

    def _go_on(self) -> bool:
        return self._wanted() and (self._deadline is None or clock.monotonic() < self._deadline)

    def _measure(self) -> None:
        while self._go_on():
            with database.read_transaction():
                rows = retention.unmeasured(MISSIONS_AT_ONCE)
            if not rows:
                return
            sizes = {mission_id: self._size(vp_id, mission_id, attempts) for mission_id, vp_id, attempts in rows}
            if not self._wanted():
                return  # the count may have been cut short
            with database.write_transaction():
                for mission_id, size in sizes.items():
                    retention.record_size(mission_id, size)
            self._pause(PAUSE_SECONDS)

    def _size(self, vp_id: str, mission_id: str, attempts: int) -> int:
        if not attempts:
            return 0
        try:
            return mission_footprint(self._settings.workspaces_root, vp_id, mission_id, go_on=self._wanted).bytes
        except ValueError as error:
            logger.error("the workspace of %s cannot be measured: %s", mission_id, error)
            return 0

    def _prune(self, vp_id: str) -> None:
        policy = policy_of(self._settings, vp_id)
        while self._go_on():
            with database.read_transaction() as now:
                going = retention.expendable(now, vp_id, policy, older_than=self._scope.older_than)
                chosen = list(islice(going, PAGE))
            before = len(self._swept.missions)
            self._delete(chosen, policy)
            self._remove_folders()
            if len(chosen) < PAGE or len(self._swept.missions) == before:
                return

    def _delete(self, chosen: list[Expendable], policy: Retention) -> None:
        waiting = {each.mission_id: each for each in chosen}
        while waiting and self._go_on():
            batch = list(islice(waiting, MISSIONS_AT_ONCE))
            with database.write_transaction() as tx:
                began = clock.monotonic()
                pruned = retention.delete_missions(tx, batch, policy, _until(began + TRANSACTION_SECONDS))
                for each in pruned:
                    storage.forget(each.vp_id, each.mission_id, each.queue_row)
            if not pruned:
                return  # somebody else prunes too
            self._swept.missions += [waiting.pop(each.mission_id) for each in pruned]
            self._progress(self._swept)
            self._pause(max(PAUSE_SECONDS, PAUSE_TIMES * (clock.monotonic() - began)))

    def _remove_folders(self) -> None:
        while self._go_on():
            with database.read_transaction() as now:
                until = clock.LATEST if self._scope.retry_all else now
                due = retention.folders_due(until, MISSIONS_AT_ONCE, [*self._swept.stuck])
            if not due:
                return
            gone = [row for row in due if self._go_on() and self._removed(row)]
            if gone:
                with database.write_transaction():
                    for row in gone:
                        retention.folder_gone(row.mission_id)
                self._swept.folders += len(gone)
                self._swept.freed_bytes += sum(row.bytes or 0 for row in gone)
                self._progress(self._swept)

    def _removed(self, row: PrunedWorkspace) -> bool:
        try:
            return remove_mission_folder(self._settings.workspaces_root, row.vp_id, row.mission_id, self._go_on)
        except (OSError, ValueError) as error:
            problem = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
            logger.warning("the folder of %s, which was pruned, cannot be removed yet: %s", row.mission_id, problem)
            self._swept.stuck[row.mission_id] = problem
            with database.write_transaction() as tx:
                retention.folder_stays(tx, row.mission_id, problem)
            return False

    def _tidy(self) -> None:
        while self._go_on():
            with database.read_transaction() as now:
                seqs = retention.old_vp_events(now, self._settings.retention, PAGE)
                keys = retention.old_keys(now, PAGE)
                old_tallies = retention.old_tallies(now)
            if not (seqs or keys or old_tallies):
                return
            with database.write_transaction() as tx:
                retention.delete_vp_events(seqs)
                retention.delete_keys(keys)
                retention.fold_tallies(tx.now)
            self._pause(PAUSE_SECONDS)


class Sweeper:
    """The keeper's thread that sweeps."""

    def __init__(self, settings: Settings) -> None:
        self._settings = FollowedSettings(settings, "retention")
        self._stop = threading.Event()
        self._wall_clock = WallClock()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Sweep within a ``with`` block."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._stop.wait(AGAIN_SECONDS if self._swept_some() else EACH_SECONDS)
        finally:
            database.close_thread_connection()

    def _swept_some(self) -> bool:
        """Sweep once; whether there is more to do at once."""
        try:
            if not self._wall_clock.is_believed():
                return False
            swept = Sweep(
                self._settings.current(),
                Scope(),
                go_on=lambda: not self._stop.is_set(),
                pause=self._stop.wait,
                seconds=SWEEP_SECONDS,
            ).run()
        except (LedgerBusy, LedgerUnavailable) as error:
            logger.warning("pruning put off: %s", error)
            return False
        except Exception:
            logger.exception("pruning failed; it is tried again in %.0f s", EACH_SECONDS)
            return False
        if swept.missions or swept.folders:
            logger.info(
                "pruned %s missions, removed %s workspaces (%s bytes)",
                len(swept.missions),
                swept.folders,
                swept.freed_bytes,
            )
        return swept.unfinished
