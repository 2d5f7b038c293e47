"""One campaign from its first dispatch to the empty machine it must leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cysqlite

from tests.faults.campaign import processes
from tests.faults.campaign.clients import Acknowledged
from tests.faults.campaign.faults import Injector
from tests.faults.campaign.fleet import Fleet
from tests.faults.campaign.ledger import Ledger, opened
from tests.faults.campaign.notes import Folder, boottime
from tests.faults.campaign.plan import Plan
from tests.faults.campaign.processes import Found
from vp_queue.operations.programs import place

STEP_SECONDS: Final = 0.1
SAMPLE_SECONDS: Final = 0.5
START_SECONDS: Final = 60.0
# A campaign settles as long as something happens in the ledger; silence for so long while missions are open is a stall.
QUIET_SECONDS: Final = 30.0
SETTLE_SECONDS: Final = 1200.0
TIDY_SECONDS: Final = 20.0
DOWN_SECONDS: Final = 90.0


@dataclass
class Seen:
    """What was seen while it ran and when it was over, beyond what the files tell."""

    fleeting: list[str] = field(default_factory=list)  # broken invariants, as they were met
    stalled: bool = False
    settle_seconds: float = 0.0
    left_running: list[str] = field(default_factory=list)
    left_cgroups: list[str] = field(default_factory=list)
    left_rows: list[str] = field(default_factory=list)
    feed_end: int = 0  # the newest event when the readers were told that all is settled


class Campaign:
    """Runs a plan in a folder."""

    def __init__(self, folder: Folder, plan: Plan, fleet: Fleet, *, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._folder, self._plan, self._fleet = folder, plan, fleet
        self._quiet_seconds = quiet_seconds
        self._journal = fleet.journal
        self._injector: Injector | None = None
        self._next_sample = 0.0
        self.seen = Seen()

    def run(self) -> Seen:
        """All of it; whatever goes wrong, nothing it started is left."""
        processes.adopt_orphans()
        try:
            self._begin()
            self._inject()
            self._settle()
            self._take_down()
        finally:
            self._leave_nothing()
        return self.seen

    def _begin(self) -> None:
        self._fleet.configure(self._plan.lease_seconds)
        if not self._await(self._is_up, START_SECONDS, "the start"):
            raise SystemExit(f"the installation does not come up; see {self._folder.logs}")
        began = {"began": boottime(), "began_wall": time.time()}
        self._folder.plan.write_text(json.dumps({**self._plan.as_dict(), **began}) + "\n")
        self._fleet.clients_wanted = True
        self._injector = Injector(self._fleet, self._plan.faults, began["began"], self._journal)

    def _is_up(self) -> bool:
        """Keeper and consumers have registered."""
        self._step()
        path = self._folder.home / "vp_state.db"
        with contextlib.suppress(cysqlite.Error), opened(path) as ledger:
            return len(ledger.rows("SELECT 1 FROM vp_worker WHERE state = 'running'")) > self._fleet.consumers
        return False

    def _step(self) -> Sequence[Found]:
        running = processes.below()
        self._fleet.guard(running)
        processes.bury([*self._fleet.known(), *(self._injector.known() if self._injector else ())])
        return running

    def _await(self, look: Callable[[], bool], seconds: float, what: str) -> bool:
        deadline = boottime() + seconds
        while not look():
            if boottime() > deadline:
                self._journal.write(waited_in_vain_for=what)
                return False
            time.sleep(STEP_SECONDS)
        return True

    def _inject(self) -> None:
        assert self._injector is not None
        end = boottime() + self._plan.seconds
        with opened(self._folder.home / "vp_state.db") as ledger:
            while boottime() < end or not self._injector.is_over:
                running = self._step()
                self._injector.step(running)
                self._sample(ledger, running)
                time.sleep(STEP_SECONDS)

    def _sample(self, ledger: Ledger, running: Sequence[Found]) -> None:
        """A program that lives while its attempt is over: looked at before and after the ledger."""
        if boottime() < self._next_sample:
            return
        self._next_sample = boottime() + SAMPLE_SECONDS
        for program in (process for process in running if process.role == "program"):
            if not ledger.attempt_is_running(program.mission, program.attempt) and processes.is_alive(program):
                self.seen.fleeting.append(
                    f"{program.mission}.{program.attempt} is over, but its program {program.pid} lives"
                )

    def _settle(self) -> None:
        """No more faults: let everything come to its end, as long as anything moves."""
        began = boottime()
        with opened(self._folder.home / "vp_state.db") as ledger:
            for (vp_id,) in ledger.rows("SELECT vp_id FROM vp_agent WHERE paused OR draining"):
                self._fleet.vp("resume", vp_id)
            moved_at, newest = boottime(), -1
            while not (self._fleet.dispatchers_are_done() and self._is_quiet(ledger)):
                running = self._step()
                self._sample(ledger, running)
                if ledger.newest_seq() != newest:
                    moved_at, newest = boottime(), ledger.newest_seq()
                if boottime() - moved_at > self._quiet_seconds or boottime() - began > SETTLE_SECONDS:
                    self.seen.stalled = True
                    break
                time.sleep(STEP_SECONDS)
            self.seen.settle_seconds = round(boottime() - began, 3)
            if not self.seen.stalled:
                self._tidy(ledger)
            self.seen.feed_end = ledger.newest_seq()
        self._folder.settled.touch()
        clients = self._fleet.clients
        self._await(
            lambda: bool(self._step()) and len(self._fleet.finished) == len(clients), START_SECONDS, "the clients' end"
        )

    def _is_quiet(self, ledger: Ledger) -> bool:
        """Every mission has ended, and nothing is owed."""
        return not ledger.unfinished() and not self._fleet.commands and not self._retries_owed(ledger)

    def _retries_owed(self, ledger: Ledger) -> bool:
        """Whether the meddler has still to retry something."""
        to_retry = {spec.name for each in self._plan.missions for spec in each if spec.retry}
        failed = set(ledger.failed_without_retry())
        acknowledged = Acknowledged(self._folder).news()
        return any(note["mission_id"] in failed for note in acknowledged if note["acknowledged"] in to_retry)

    def _tidy(self, ledger: Ledger) -> None:
        """The keeper sweeps revocations once a minute, and at its start: so have it start anew."""
        for keeper in (process for process in self._step() if process.role == "keeper"):
            processes.send(keeper, signal.SIGTERM)
        self._await(
            lambda: bool(self._step()) and not ledger.queue_rows() and not ledger.stale_revocations(),
            TIDY_SECONDS,
            "needless queue rows and revocations to go",
        )
        self.seen.left_rows = [f"queue row {row}" for row in ledger.queue_rows()]
        if revocations := ledger.stale_revocations():
            self.seen.left_rows.append(f"{revocations} revocations of ended missions")

    def _take_down(self) -> None:
        """The installation ends in good order; then nothing of it may be left."""
        self._fleet.wanted_up = False
        if self._fleet.direct:
            self._fleet.stop_direct()
        else:
            self._fleet.vp("down")
        self._await(lambda: bool(self._step() or True) and not self._fleet.commands, DOWN_SECONDS, "vp down")
        self._await(lambda: not self._step(), TIDY_SECONDS, "the last process to end")
        self.seen.left_running = [f"{found.role} {found.pid}: {' '.join(found.argv)}" for found in processes.below()]
        self.seen.left_cgroups = cgroups(self._missions())

    def _missions(self) -> set[str]:
        with opened(self._folder.home / "vp_state.db") as ledger:
            return {mission_id for (mission_id,) in ledger.rows("SELECT id FROM vp_mission")}

    def _leave_nothing(self) -> None:
        """Whatever happened, end every process of this campaign."""
        while found := processes.below():
            for process in found:
                processes.send(process, signal.SIGKILL)
            processes.bury(())
            time.sleep(STEP_SECONDS)
        short = place(self._folder.home).short
        if short is not None:
            shutil.rmtree(short, ignore_errors=True)


def cgroups(missions: set[str]) -> list[str]:
    """cgroup directories of these missions' attempts, wherever a cgroup file system is mounted."""
    left = []
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            for folder, names, _ in os.walk(point):
                left += [
                    f"{folder}/{name}"
                    for name in names
                    if name.startswith("vp-queue-") and name[len("vp-queue-") :].rpartition(".")[0] in missions
                ]
    return left
