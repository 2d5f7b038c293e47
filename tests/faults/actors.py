"""Who acts in the world: consumers, keepers and dispatchers, each the real code of one process.

Beside them stand the records that the invariants are judged by: which leases were given until when, and which
claims were ever held.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.faults.world import Actor, Host, Process, World
from tests.harness import GENERAL
from vp_queue import clock, missions, tools
from vp_queue.config import Settings
from vp_queue.keeper import recovery
from vp_queue.keeper.rescue import rescue_the_dead
from vp_queue.ledger import database, leases, transitions
from vp_queue.ledger.records import Claim
from vp_queue.queue import signals
from vp_queue.queue.huey import VpHuey, bind
from vp_queue.queue.messages import JsonSerializer
from vp_queue.queue.storage import LedgerStorage
from vp_queue.worker.consumer import MissionWorker

LEASE_SECONDS, GRACE_SECONDS = 30, 120
CONFIG = f"""
lease_seconds = {LEASE_SECONDS}
lost_host_grace_seconds = {GRACE_SECONDS}
[vp."{GENERAL}"]
executor = "command"
allow_commands = true
max_releases = 1
retry_backoff_seconds = 2
"""


class Consumer:
    """A consumer with one worker thread."""

    def __init__(self, world: World, settings: Settings, host: Host) -> None:
        self.worker = MissionWorker(settings, settings.profile(GENERAL))
        self.rescue: Actor | None = None
        self.stopping = False
        self.process = world.spawn(host, "consumer")
        self._world, self._settings = world, settings
        self._huey = VpHuey(GENERAL, storage_class=LedgerStorage, serializer=JsonSerializer(), utc=True)
        bind(self._huey, self.worker.run)
        signals.connect(self._huey)
        self.actor = Actor(world, self.process, self._consume)
        world.actors.append(self.actor)

    def _consume(self) -> None:
        worker_id = self.worker.start().worker_id
        # What `tasks.app` has it do at its start, in a thread of its own.
        self.rescue = Actor(self._world, self.process, lambda: rescue_the_dead(self._settings, worker_id))
        self._world.actors.append(self.rescue)
        while not self.stopping:
            task = self._huey.dequeue()
            if task is not None:
                self._huey.execute(task, clock.now().astimezone(UTC).replace(tzinfo=None))
            self._world.pause("its next wake-up")
        self.worker.close()

    def beat(self) -> None:
        """What its heartbeat thread does."""
        with self._world.acting_as(self.process):
            self.worker._leases._beat()
            self.worker._leases._look_for_cancels()

    def give_up(self) -> None:
        """What its watchdog does."""
        with self._world.acting_as(self.process):
            self.worker._leases.give_up_overdue()

    def stop(self) -> None:
        """SIGTERM: what its main thread does, before it waits for its workers."""
        while self.worker._lock.locked():  # it claims just now, and cannot be told before it has
            self.actor.step()
        self.stopping = True
        with self._world.acting_as(self.process):
            self.worker.stop_all()

    def claims(self) -> list[Claim]:
        """The attempts that it believes to run."""
        return [attempt.claim for attempt in self.worker._running]


class Keeper:
    """A keeper: it sweeps, and sweeps."""

    def __init__(self, world: World, settings: Settings, host: Host) -> None:
        self.process = world.spawn(host, "keeper")
        self.sweeps = 0
        self._world, self._settings = world, settings
        self.actor = Actor(world, self.process, self._sweep)
        world.actors.append(self.actor)

    def _sweep(self) -> None:
        keeper = recovery.Keeper(self._settings)
        keeper._register()
        while True:
            self._world.pause("its next sweep")
            keeper.sweep()
            keeper._beat()
            self.sweeps += 1


class Dispatcher:
    """A process that dispatches once; ``answer`` is what it was told, if it lived to hear it."""

    def __init__(self, world: World, host: Host, **request: Any) -> None:
        self.request, self.answer = request, None
        self.process = world.spawn(host, "dispatcher")
        self.actor = Actor(world, self.process, self._dispatch)
        world.actors.append(self.actor)

    def _dispatch(self) -> None:
        self.answer = tools.vp_dispatch_mission(**self.request)


@dataclass
class Held:
    """A lease as its holder knows it: who holds it, and until when by each clock."""

    claim: Claim
    holder: Process
    until_boottime_us: int
    until: datetime


class Witness:
    """Watches the calls that give, renew and take leases, and notes what must never happen."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.leases: dict[tuple[str, int], Held] = {}
        self.claims: list[Claim] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look on while the block runs. What is in place when it begins (a mutant, say) is what is watched."""
        before = transitions.claim, leases.renew, leases.take_over
        transitions.claim = self._claim(transitions.claim)
        leases.renew = self._renew(leases.renew)
        leases.take_over = self._take_over(leases.take_over)
        try:
            yield
        finally:
            transitions.claim, leases.renew, leases.take_over = before

    def _note(self, claim: Claim) -> None:
        until_us = clock.boottime_us() + LEASE_SECONDS * 1_000_000
        until = clock.now() + timedelta(seconds=LEASE_SECONDS)
        self.leases[claim.mission_id, claim.attempt] = Held(claim, self._world.acting(), until_us, until)
        if claim not in self.claims:
            self.claims.append(claim)

    def _claim(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def claim(*arguments: Any) -> Any:
            landed = original(*arguments)
            if landed is not None:
                self._note(landed[1])
            return landed

        return claim

    def _renew(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def renew(tx: Any, claim: Claim, *more: Any) -> Any:
            held = original(tx, claim, *more)
            if held:
                self._note(claim)
            return held

        return renew

    def _take_over(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def take_over(tx: Any, suspect: Any, *more: Any, **options: Any) -> Any:
            held = self.leases[suspect.claim.mission_id, suspect.claim.attempt]
            taken = original(tx, suspect, *more, **options)
            if taken is not None:
                self._judge(held)
                self._note(taken.claim)
            return taken

        return take_over

    def _judge(self, held: Held) -> None:
        """A lease may be taken only from a dead process, or when it is over by the right clock."""
        here, there = self._world.acting().host, held.holder.host
        if here.processes and held.holder in here.processes:
            over = not held.holder.alive or clock.boottime_us() > held.until_boottime_us
        else:  # elsewhere, or this host before it booted anew
            over = clock.now() > held.until + timedelta(seconds=GRACE_SECONDS)
        assert over, f"the lease of {held.claim} was taken from a living {held.holder.name} on {there.name}"


class Complaints(logging.Handler):
    """Exceptions that some loop caught and logged: none is expected in this world."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.heard.append(f"{record.getMessage()}: {record.exc_info[1]!r}")

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Hear what vp_queue and Huey log, and keep it off the terminal."""
        loggers = [logging.getLogger(name) for name in ("vp_queue", "huey")]
        before = [(logger.propagate, logger.level) for logger in loggers]
        for logger in loggers:
            logger.addHandler(self)
            logger.propagate = False
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, (propagate, level) in zip(loggers, before, strict=True):
                logger.removeHandler(self)
                logger.propagate = propagate
                logger.setLevel(level)


@contextlib.contextmanager
def settled_in(folder: Path) -> Iterator[Settings]:
    """A VP_HOME of this world's in ``folder``, its ledger open."""
    before = os.environ.get("VP_HOME")
    os.environ["VP_HOME"] = str(folder)
    (folder / "vp_queue.toml").write_text(CONFIG)
    try:
        yield missions.ready()
    finally:
        database.close_thread_connection()
        os.environ.pop("VP_HOME")
        if before is not None:
            os.environ["VP_HOME"] = before
