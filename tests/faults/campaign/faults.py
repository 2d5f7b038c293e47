"""Injects the planned faults: chooses a victim among those there are, does it, notes it, and undoes it in time."""

from __future__ import annotations

import heapq
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final

from tests.faults.campaign import processes
from tests.faults.campaign.fleet import Fleet
from tests.faults.campaign.notes import Notes, boottime
from tests.faults.campaign.plan import VPS, FaultSpec
from tests.faults.campaign.processes import Found

AGAIN_SECONDS: Final = 0.5
SIGNALS: Final = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}
# An outsider that holds the write lock. cysqlite, as the ledger itself: two SQLite libraries would disturb each other.
LOCKER: Final = """
import sys, time, cysqlite
connection = cysqlite.connect(sys.argv[1], timeout=30)
connection.execute("BEGIN IMMEDIATE")
time.sleep(float(sys.argv[2]))
connection.rollback()
"""


class Injector:
    """The faults of one campaign, in their order."""

    def __init__(self, fleet: Fleet, faults: Sequence[FaultSpec], began: float, journal: Notes) -> None:
        self._fleet, self._journal, self._began = fleet, journal, began
        self._faults = list(faults)
        self._undo: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._lockers: list[subprocess.Popen[bytes]] = []
        self._commands = self._known_commands()

    def _known_commands(self) -> frozenset[str]:
        from vp_queue.cli.main import COMMANDS

        return frozenset(COMMANDS)

    @property
    def is_over(self) -> bool:
        """Everything was injected and undone."""
        return not self._faults and not self._undo and all(locker.poll() is not None for locker in self._lockers)

    def known(self) -> list[int]:
        """Pids of children that their Popen objects reap."""
        return [locker.pid for locker in self._lockers]

    def step(self, running: Sequence[Found]) -> None:
        """Do what is due."""
        now = boottime()
        while self._undo and self._undo[0][0] <= now:
            heapq.heappop(self._undo)[2]()
        while self._faults and self._began + self._faults[0].at <= now:
            self._inject(self._faults.pop(0), running)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._undo, (boottime() + seconds, self._count, action))

    def _note(self, fault: FaultSpec, **met: object) -> None:
        self._journal.write(
            fault=fault.kind, target=fault.target, planned_at=fault.at, at=boottime() - self._began, **met
        )

    def _inject(self, fault: FaultSpec, running: Sequence[Found]) -> None:
        if fault.kind in SIGNALS:
            self._signal(fault, running)
        elif fault.kind == "lock":
            self._lock(fault)
        elif fault.kind == "down":
            self._down(fault)
        else:
            self._operate(fault)

    def _signal(self, fault: FaultSpec, running: Sequence[Found]) -> None:
        candidates = [process for process in running if process.role == fault.target]
        if not candidates:
            self._note(fault, met=None)
            return
        victim = sorted(candidates, key=lambda process: process.pid)[int(fault.pick * len(candidates))]
        sent = processes.send(victim, SIGNALS[fault.kind])
        self._note(
            fault,
            met=victim.pid if sent else None,
            start=victim.start,
            vp_id=victim.vp_id,
            mission=victim.mission,
            attempt=victim.attempt,
            seconds=fault.seconds if fault.kind == "stop" else 0,
            client=victim.argv[3] if victim.role == "client" else None,
        )
        if fault.kind == "stop" and sent:
            self._later(fault.seconds, lambda: self._continue(victim))

    def _continue(self, victim: Found) -> None:
        processes.send(victim, signal.SIGCONT)
        self._journal.write(continued=victim.pid, role=victim.role)

    def _lock(self, fault: FaultSpec) -> None:
        ledger = self._fleet.folder.home / "vp_state.db"
        argv = [sys.executable, "-c", LOCKER, str(ledger), str(fault.seconds)]
        with (self._fleet.folder.logs / "locker.log").open("ab") as log:
            locker = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._lockers = [each for each in self._lockers if each.poll() is None] + [locker]
        self._note(fault, met=locker.pid, seconds=fault.seconds)

    def _down(self, fault: FaultSpec) -> None:
        """`vp down`, and after a moment `vp up` (by the fleet's guard)."""
        if self._fleet.direct or self._fleet.is_at_work():
            self._note(fault, met=None)
            return
        self._fleet.vp("down")
        self._note(fault, met="vp down")

    def _operate(self, fault: FaultSpec) -> None:
        """pause, drain: undone by resume; restart: waits, but not for long."""
        vp_id = VPS[int(fault.pick * len(VPS))]
        supervised_only = fault.kind == "restart" and (self._fleet.direct or self._fleet.is_at_work())
        if fault.kind not in self._commands or supervised_only:
            self._note(fault, met=None)
            return
        patience = ("--timeout", str(fault.seconds)) if fault.kind == "restart" else ()
        self._fleet.vp(fault.kind, vp_id, *patience)
        self._note(fault, met=f"vp {fault.kind} {vp_id}", seconds=fault.seconds)
        if fault.kind != "restart":
            self._later(fault.seconds, lambda: self._resume(vp_id))

    def _resume(self, vp_id: str) -> None:
        if any(vp_id in command.argv for command in self._fleet.commands):  # what is to be undone is not yet done
            self._later(AGAIN_SECONDS, lambda: self._resume(vp_id))
        else:
            self._fleet.vp("resume", vp_id)
