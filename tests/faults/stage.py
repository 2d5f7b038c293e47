"""The stage of the state machine: who is there and how they are moved, what must hold, and how it ends."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import cysqlite
from hypothesis.stateful import RuleBasedStateMachine, invariant

from tests import mutants, oracle
from tests.faults.actors import LEASE_SECONDS, Complaints, Consumer, Dispatcher, Keeper, Witness, settled_in
from tests.faults.world import ELSEWHERE, HERE, Process, Program, World
from tests.harness import GENERAL
from vp_queue import missions
from vp_queue.ledger.records import Claim

BEAT_SECONDS = 5
TURNS_OF_AN_ATTEMPT = 30  # more than any needs from its wake-up to its program's start


class Stage(RuleBasedStateMachine):
    """Consumers, keepers and dispatchers on one ledger, and the invariants of ledger.md."""

    mutant: ClassVar[str] = ""  # a guard to remove (tests.mutants)

    """The system, from a first dispatch to whatever end."""

    mutant: ClassVar[str] = ""  # a guard to remove (tests.mutants)

    def __init__(self) -> None:
        super().__init__()
        self._undo = contextlib.ExitStack()
        try:
            self._set_up()
        except BaseException:
            self._undo.close()
            raise

    def _set_up(self) -> None:
        shared = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
        self._undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.complaints = Complaints()
        self._undo.enter_context(self.complaints.listening())
        self.settings = self._undo.enter_context(settled_in(self.folder))
        self.world = World()
        self._undo.enter_context(self.world.installed())
        self._undo.callback(self._end_everybody)
        if self.mutant:
            self._undo.enter_context(mutants.removed(self.mutant))
        self.witness = Witness(self.world)
        self._undo.enter_context(self.witness.watching())
        self.consumers: list[Consumer] = []
        self.keepers: list[Keeper] = []
        self.dispatchers: list[Dispatcher] = []
        self.acknowledged: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, tuple[dict[str, Any], str]] = {}
        self.ended: dict[str, Any] = {}
        self.reader = cysqlite.connect(str(self.folder / "vp_state.db"))
        self._undo.callback(self.reader.close)

    def _end_everybody(self) -> None:
        for host in self.world.hosts.values():
            self.world.boot(host)

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:  # else a rule or an invariant has failed, and that is what to tell
                self._come_to_rest()
        finally:
            self._undo.close()

    # --- the cast -----------------------------------------------------------------------------------

    def start_consumer(self, host: str) -> Consumer:
        """A consumer of the Generalist starts on this host."""
        self.consumers.append(Consumer(self.world, self.settings, self.world.hosts[host]))
        return self.consumers[-1]

    def start_keeper(self) -> Keeper:
        """A keeper starts."""
        self.keepers.append(Keeper(self.world, self.settings, self.world.hosts[HERE]))
        return self.keepers[-1]

    def live(self, those: list[Any]) -> list[Any]:
        """Those whose process has not ended."""
        return [one for one in those if one.process.alive and not one.actor.done]

    def movable(self, those: list[Any]) -> list[Any]:
        """Those that live and are not frozen."""
        return [one for one in self.live(those) if not one.process.frozen]

    def mission(self, which: int) -> str:
        """One of the acknowledged missions."""
        return sorted(self.acknowledged)[which % len(self.acknowledged)]

    def running(self) -> list[Program]:
        """The programs that run."""
        return self.world.programs(lambda program: program.runs)

    def orphans(self) -> list[Program]:
        """Programs whose worker is dead and whose launcher is about to end them."""
        return [p for p in self.running() if not p.owner.alive and p.launcher_alive and not p.stubborn]

    # --- who takes how many turns -------------------------------------------------------------------

    def move(self, one: Any, turns: int) -> None:
        """So many turns of one of the cast."""
        for _ in range(turns):
            if one.actor.done:
                break
            one.actor.step()
        if isinstance(one, Dispatcher) and one.actor.done and one.answer is not None:
            self._note_answer(one)

    def _note_answer(self, dispatcher: Dispatcher) -> None:
        self.dispatchers.remove(dispatcher)
        request, answer = dispatcher.request, dispatcher.answer
        assert answer is not None
        key = request["idempotency_key"]
        known = self.keys.get(key) if key else None
        if not answer["ok"]:
            assert answer["error"]["code"] in ("idempotency_conflict", "validation_error"), answer
            return
        mission_id = answer["mission"]["mission_id"]
        if known is not None:
            assert known == (request, mission_id), f"the key {key} stands for {known}, and for {request}: {mission_id}"
        if key:
            self.keys[key] = (request, mission_id)
        self.acknowledged[mission_id] = request

    def until_its_program_runs(self, consumer: Consumer) -> None:
        """Turns, until its program runs."""
        for _ in range(TURNS_OF_AN_ATTEMPT):
            if consumer.actor.done or consumer.actor.at == "its program":
                break
            consumer.actor.step()

    def rescuing(self) -> list[Consumer]:
        """The consumers that still look for what their predecessors left."""
        return [one for one in self.movable(self.consumers) if one.rescue is not None and not one.rescue.done]

    def rescue_to_the_end(self, consumer: Consumer) -> None:
        """A starting consumer's rescue, to its end."""
        while consumer.rescue is not None and not consumer.rescue.done:
            consumer.rescue.step()

    def sweep(self, keeper: Keeper) -> None:
        """A keeper's turns to the end of its next sweep."""
        target = keeper.sweeps + 1
        while keeper.sweeps < target:
            keeper.actor.step()

    def let_pass(self, seconds: int) -> None:
        """Who lives and is not frozen beats meanwhile."""
        left = seconds
        while left > 0:
            self.world.elapsed += min(left, BEAT_SECONDS)
            left -= BEAT_SECONDS
            for consumer in self.movable(self.consumers):
                if consumer.worker._leases._worker_id is not None:
                    consumer.beat()
                    consumer.give_up()

    # --- what must hold -----------------------------------------------------------------------------

    def sql(self, statement: str, *parameters: Any) -> list[Any]:
        """Rows, read by a connection of the test's own."""
        return list(self.reader.execute(statement, parameters).fetchall())

    def is_stale(self, claim: Claim) -> bool:
        """Whether a claim no longer holds."""
        rows = self.sql(
            "SELECT 1 FROM vp_attempt WHERE mission_id = ? AND number = ? AND lease_token = ? AND outcome = 'running'",
            claim.mission_id,
            claim.attempt,
            claim.token,
        )
        return not rows

    @invariant()
    def the_ledger_is_sound(self) -> None:
        statuses = oracle.check_rows(self.reader, self.acknowledged)
        assert not self.complaints.heard, self.complaints.heard
        for row in self.sql("SELECT * FROM vp_mission WHERE finished_at IS NOT NULL"):
            known = self.ended.setdefault(row[0], row)
            # Its queue row's number may still be noted or forgotten; nothing else of it changes.
            assert known == row, f"terminal {row[0]} changed: {known} → {row}"
        over = self.sql("SELECT id FROM vp_mission WHERE attempts_charged > max_attempts")
        assert over == [], f"charged more than max_attempts: {over}"
        revived = self.sql("SELECT id FROM vp_mission WHERE cancel_requested_at IS NOT NULL AND status = 'queued'")
        assert revived == [], f"queued again after a cancel: {revived}"
        keys = dict(self.sql("SELECT key, mission_id FROM vp_idempotency_key WHERE key <> 'again'"))
        assert keys.items() >= {key: mission_id for key, (_, mission_id) in self.keys.items()}.items()
        for program in self.running():
            if statuses[program.mission_id] in oracle.TERMINAL:
                assert self._overlap_told(program), f"{program.identity.marker} runs after its mission's end"
        for older, newer in self.world.beside:
            assert self._overlap_told(older), f"{newer.identity.marker} beside {older.identity.marker}, untold"

    def _overlap_told(self, program: Program) -> bool:
        """Whether the event that gave its attempt up says that it may still run, on another host."""
        mission_id, _, number = program.identity.marker.rpartition(".")
        return bool(
            self.sql(
                "SELECT 1 FROM vp_event WHERE mission_id = ? AND attempt = ? "
                "AND json_extract(data, '$.overlap_possible')",
                mission_id,
                int(number),
            )
        )

    # --- the end ------------------------------------------------------------------------------------

    def _come_to_rest(self) -> None:
        """Everybody is dead, keepers sweep: each mission is queued with its row, or has ended. Then all are done."""
        for process in self._processes():
            self.world.kill(process)
        for program in self.running():
            program.stubborn = False
        self.world.boot(self.world.hosts[ELSEWHERE])
        missions.resume(GENERAL)
        self.world.wall_offset = timedelta(days=2)  # past every due time
        self.let_pass(LEASE_SECONDS + 1)
        keepers = [self.start_keeper(), self.start_keeper()]
        self._sweep_until_nothing_changes(keepers)
        astray = self.sql(
            "SELECT m.id, m.status FROM vp_mission AS m "
            "LEFT JOIN task AS t ON t.id = m.queue_row AND t.queue = m.vp_id "
            "WHERE m.finished_at IS NULL AND (m.status <> 'queued' OR t.id IS NULL)"
        )
        assert astray == [], f"neither queued with a row nor ended: {astray}"
        here = [program for program in self.running() if program.host.name == HERE]
        assert here == [], "a program outlived everybody"
        self.the_ledger_is_sound()
        self._work_off(keepers)
        self.the_ledger_is_sound()
        unfinished = self.sql("SELECT id, status FROM vp_mission WHERE finished_at IS NULL")
        assert unfinished == [], f"never done: {unfinished}"

    def _processes(self) -> list[Process]:
        return [one.process for one in self.live([*self.consumers, *self.keepers, *self.dispatchers])]

    def _sweep_until_nothing_changes(self, keepers: list[Keeper]) -> None:
        unchanged = 0
        for _ in range(20):
            before = self._state()
            self.world.elapsed += 10  # longer than any back-off of two
            for keeper in keepers:
                self.sweep(keeper)
            unchanged = unchanged + 1 if self._state() == before else 0
            if unchanged == 3:  # a lost row is believed lost at the second look
                return
        raise AssertionError("the keepers never come to rest")

    def _state(self) -> list[Any]:
        missions_, rows = "SELECT id, status, attempt, events FROM vp_mission", "SELECT * FROM task"
        return [*self.sql(missions_), *self.sql(rows)]

    def _work_off(self, keepers: list[Keeper]) -> None:
        consumer = self.start_consumer(HERE)
        for _ in range(600):
            consumer.actor.step()
            for program in self.running():
                program.end(0)
            if consumer.actor.at == "its next wake-up":
                self.world.elapsed += 10
                self.sweep(keepers[0])
                if not self.sql("SELECT 1 FROM vp_mission WHERE finished_at IS NULL"):
                    return
