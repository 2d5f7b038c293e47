"""Everything that can happen to the ledger, as rules that Hypothesis orders as it likes.

A rule lets an actor take some turns, or does something to it: kills it at the turn it has come to, freezes it,
lets time pass, moves the wall clock. After every rule the invariants are judged; at the end everybody is
killed, keepers sweep until nothing changes, and a fresh consumer works off what is left (``stage``).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from tests.faults.actors import GRACE_SECONDS, LEASE_SECONDS, Dispatcher
from tests.faults.stage import Stage
from tests.faults.world import ELSEWHERE, HERE
from tests.harness import GENERAL
from vp_queue import clock, missions, tools
from vp_queue.contracts import FailureCode
from vp_queue.keeper.rescue import CONFIRM_SECONDS
from vp_queue.ledger import database, leases, transitions
from vp_queue.ledger.records import Claim, Ending, Failure

NO = Failure(FailureCode.EXIT_NONZERO, "no", 3)
# What a worker can write, each with a claim that may be stale.
WRITES: dict[str, Callable[[Any, Claim], Any]] = {
    "renew": lambda tx, claim: leases.renew(tx, claim, LEASE_SECONDS, None),
    "spawned": lambda tx, claim: leases.spawned(tx, claim, {"pid": 1}),
    "progress": lambda tx, claim: leases.progress(tx, claim, 0.5, "late"),
    "ask": lambda tx, claim: transitions.ask(tx, claim, "which?"),
    "complete": lambda tx, claim: transitions.complete(tx, claim, Ending()),
    "fail": lambda tx, claim: transitions.fail(tx, claim, NO, Ending(), backoff_seconds=1),
    "lose": lambda tx, claim: transitions.lose(tx, claim, "gone", Ending(), backoff_seconds=1),
    "release": lambda tx, claim: transitions.release(tx, claim, Ending(), max_releases=3, backoff_seconds=1),
    "cancelled": lambda tx, claim: transitions.cancelled(tx, claim, Ending()),
}
TURNS = st.integers(1, 12)
ANY = st.integers(0, 99)  # which of those there are; taken modulo their number


class LedgerMachine(Stage):
    """The system, from a first dispatch to whatever end."""

    @initialize(attempts=st.lists(st.integers(1, 3), min_size=2, max_size=4), turns=st.integers(0, 30))
    def two_workers_a_keeper_and_some_missions(self, attempts: list[int], turns: int) -> None:
        for max_attempts in attempts:
            self.dispatch(None, "sing", max_attempts, None, None, turns=20)
        self.start_keeper()
        for _ in range(2):
            self.move(self.start_consumer(HERE), turns)

    # --- what people do -----------------------------------------------------------------------------

    @rule(
        key=st.sampled_from([None, "a", "a", "b"]),
        objective=st.sampled_from(["sing", "dance"]),
        max_attempts=st.integers(1, 3),
        expires_in=st.sampled_from([None, None, 20]),
        due_in=st.sampled_from([None, None, 20]),
        turns=st.sampled_from([1, 2, 2, 20]),
        twins=st.booleans(),
    )
    def dispatch(
        self,
        key: Any,
        objective: str,
        max_attempts: int,
        expires_in: Any,
        due_in: Any,
        turns: int,
        twins: bool = False,
    ) -> None:
        """A dispatcher comes so far; twins, which ask for the same, both do, and then go on."""

        def later(seconds: int | None) -> str | None:
            return None if seconds is None else clock.as_text(clock.now() + timedelta(seconds=seconds))

        if expires_in is not None and due_in is not None:
            due_in = None
        request = {
            "vp_id": GENERAL,
            "objective": objective,
            "mission_type": "command",
            "constraints": {"command": ["true"]},
            "idempotency_key": key,
            "max_attempts": max_attempts,
            "expires_at": later(expires_in),
            "not_before": later(due_in),
        }
        for _ in range(1 + twins):
            self.dispatchers.append(Dispatcher(self.world, self.world.hosts[HERE], **request))
            self.move(self.dispatchers[-1], turns)
        for twin in self.dispatchers[-2:] if twins else ():
            self.move(twin, 20)

    @precondition(lambda self: self.movable(self.dispatchers))
    @rule(which=ANY)
    def a_dispatcher_goes_on(self, which: int) -> None:
        there = self.movable(self.dispatchers)
        self.move(there[which % len(there)], 20)

    @precondition(lambda self: self.acknowledged)
    @rule(which=ANY)
    def cancel(self, which: int) -> None:
        answer = tools.vp_cancel_mission(mission_id=self.mission(which))
        assert answer["ok"], answer

    @precondition(lambda self: self.ended)
    @rule(which=ANY, key=st.sampled_from([None, "again"]))
    def retry(self, which: int, key: str | None) -> None:
        mission_id = sorted(self.ended)[which % len(self.ended)]
        answer = tools.vp_retry_mission(mission_id=mission_id, idempotency_key=key)
        if answer["ok"]:
            self.acknowledged.setdefault(answer["mission"]["mission_id"], {})
        else:
            assert answer["error"]["code"] in ("not_retryable_state", "idempotency_conflict"), answer

    @rule(paused=st.sampled_from([False, False, True]))
    def pause_or_resume(self, paused: bool) -> None:
        if paused:
            missions.pause(GENERAL, "lunch")
        else:
            missions.resume(GENERAL)

    # --- what processes do --------------------------------------------------------------------------

    @precondition(lambda self: self.movable(self.consumers))
    @rule(which=ANY, turns=TURNS)
    def a_worker_goes_on(self, which: int, turns: int) -> None:
        there = self.movable(self.consumers)
        self.move(there[which % len(there)], turns)

    @precondition(lambda self: self.movable(self.consumers))
    @rule(which=ANY)
    def a_worker_goes_on_until_its_program_runs(self, which: int) -> None:
        there = self.movable(self.consumers)
        self.until_its_program_runs(there[which % len(there)])

    @precondition(lambda self: self.rescuing())
    @rule(which=ANY, turns=TURNS)
    def a_starting_workers_rescue_goes_on(self, which: int, turns: int) -> None:
        rescue = self.rescuing()[which % len(self.rescuing())].rescue
        for _ in range(turns):
            rescue.step()

    @precondition(lambda self: self.movable(self.keepers))
    @rule(which=ANY, turns=TURNS)
    def a_keeper_goes_on(self, which: int, turns: int) -> None:
        there = self.movable(self.keepers)
        self.move(there[which % len(there)], turns)

    @precondition(lambda self: self.movable(self.keepers))
    @rule(which=ANY)
    def a_keeper_sweeps(self, which: int) -> None:
        there = self.movable(self.keepers)
        self.sweep(there[which % len(there)])

    @precondition(lambda self: len(self.live(self.keepers)) < 2)
    @rule()
    def a_keeper_starts(self) -> None:
        self.move(self.start_keeper(), 3)

    @precondition(lambda self: len(self.live(self.consumers)) < 4)
    @rule(host=st.sampled_from([HERE, HERE, ELSEWHERE]))
    def a_worker_starts(self, host: str) -> None:
        if host == HERE or not any(c.process.host.name == host for c in self.live(self.consumers)):
            self.move(self.start_consumer(host), 3)

    @rule(code=st.sampled_from([None, 0, 3]))
    def all_is_well_for_a_while(self, code: int | None) -> None:
        """So that a run gets somewhere: what ended is repaired, back-offs pass, and workers run programs again."""
        missions.resume(GENERAL)
        for program in self.running() if code is not None else ():
            program.end(code)
        for consumer in self.movable(self.consumers):
            self.move(consumer, 12)
        keeper = (self.movable(self.keepers) or [self.start_keeper()])[0]
        self.sweep(keeper)
        for consumer in self.movable(self.consumers):
            self.rescue_to_the_end(consumer)
        self.let_pass(5)
        self.sweep(keeper)
        self.sweep(keeper)
        if all(consumer.claims() for consumer in self.movable(self.consumers)):
            self.start_consumer(HERE)
        for consumer in self.movable(self.consumers):
            self.until_its_program_runs(consumer)

    # --- what programs do ---------------------------------------------------------------------------

    @precondition(lambda self: self.running())
    @rule(which=ANY, code=st.sampled_from([0, 0, 3]))
    def a_program_ends(self, which: int, code: int) -> None:
        self.running()[which % len(self.running())].end(code)

    @precondition(lambda self: self.running())
    @rule(which=ANY, stubborn=st.booleans())
    def a_program_refuses_to_die_or_relents(self, which: int, stubborn: bool) -> None:
        self.running()[which % len(self.running())].stubborn = stubborn

    @precondition(lambda self: self.running())
    @rule(which=ANY)
    def a_program_reports_progress(self, which: int) -> None:
        self.running()[which % len(self.running())].report(progress=0.5, message="half")

    @precondition(lambda self: self.running())
    @rule(which=ANY)
    def a_launcher_is_killed(self, which: int) -> None:
        program = self.running()[which % len(self.running())]
        program.launcher_alive = False

    @precondition(lambda self: self.orphans())
    @rule(which=ANY)
    def a_launcher_ends_its_dead_workers_program(self, which: int) -> None:
        self.orphans()[which % len(self.orphans())].end(None)

    @precondition(lambda self: self.movable(self.consumers))
    @rule(which=ANY)
    def a_worker_asks(self, which: int) -> None:
        there = self.movable(self.consumers)
        consumer = there[which % len(there)]
        if consumer.actor.at == "its program":
            for claim in consumer.claims():
                with self.world.acting_as(consumer.process), database.write_transaction() as tx:
                    transitions.ask(tx, claim, "which?", ["this", "that"])

    @precondition(lambda self: self.acknowledged)
    @rule(which=ANY)
    def answer(self, which: int) -> None:
        mission_id = self.mission(which)
        (question,) = self.sql("SELECT question FROM vp_mission WHERE id = ?", mission_id)[0]
        if question is not None:
            with database.write_transaction() as tx:
                asked = tools.vp_get_mission(mission_id=mission_id, events_limit=0)["mission"]["question"]
                transitions.answer(tx, mission_id, asked["question_id"], "this")

    # --- faults -------------------------------------------------------------------------------------

    @precondition(lambda self: self.live([*self.consumers, *self.keepers, *self.dispatchers]))
    @rule(which=ANY, taken_up=st.booleans())
    def a_process_is_killed_where_it_is(self, which: int, taken_up: bool) -> None:
        there = self.live([*self.consumers, *self.keepers, *self.dispatchers])
        process = there[which % len(there)].process
        if process.host.name == ELSEWHERE:
            self.world.boot(process.host)  # a container: all of it dies
        else:
            self.world.kill(process)
        self.dispatchers = self.live(self.dispatchers)
        if taken_up:
            self.all_is_well_for_a_while(None)

    @precondition(lambda self: self.movable(self.consumers))
    @rule(which=ANY)
    def a_worker_freezes(self, which: int) -> None:
        there = self.movable(self.consumers)
        there = [consumer for consumer in there if consumer.claims()] or there
        there[which % len(there)].process.frozen = True

    @precondition(lambda self: self.movable(self.consumers) and self.movable(self.keepers))
    @rule(which=ANY, turns=st.sampled_from([0, 1, 2, 2, 3, 3, 4, 6]), then=st.sampled_from(["", "taken up", "thaws"]))
    def a_worker_freezes_past_its_lease(self, which: int, turns: int, then: str) -> None:
        """And a keeper comes as far as so many turns; then another worker runs its mission, or it thaws just now."""
        self.a_worker_freezes(which)
        self.let_pass(LEASE_SECONDS + 1)
        keeper = self.movable(self.keepers)[0]
        self.sweep(keeper)
        self.let_pass(CONFIRM_SECONDS + 1)
        while keeper.actor.at != "its next sweep":
            keeper.actor.step()
        self.move(keeper, turns)
        if then == "taken up":
            self.all_is_well_for_a_while(None)
        elif then == "thaws":
            self.a_frozen_worker_thaws(which, "beats", 0, 12)

    @precondition(lambda self: any(c.process.frozen for c in self.live(self.consumers)))
    @rule(
        which=ANY,
        first=st.sampled_from(["beats", "gives up", ""]),
        turns=st.integers(0, 20),
        keepers_turns=st.integers(0, 8),
    )
    def a_frozen_worker_thaws(self, which: int, first: str, turns: int, keepers_turns: int) -> None:
        """And a keeper that had taken it for lost goes on."""
        there = [c for c in self.live(self.consumers) if c.process.frozen]
        consumer = there[which % len(there)]
        consumer.process.frozen = False
        if first == "beats":
            consumer.beat()
        elif first == "gives up":
            consumer.give_up()
        for keeper in self.movable(self.keepers):
            self.move(keeper, keepers_turns)
        self.move(consumer, turns)

    @precondition(lambda self: self.movable(self.consumers))
    @rule(which=ANY, taken_up=st.booleans())
    def a_worker_is_stopped_in_good_order(self, which: int, taken_up: bool) -> None:
        there = [consumer for consumer in self.movable(self.consumers) if not consumer.stopping]
        there = [consumer for consumer in there if consumer.claims()] or there
        if there:
            there[which % len(there)].stop()
        if taken_up:
            self.all_is_well_for_a_while(None)

    @rule(seconds=st.sampled_from([1, 3, LEASE_SECONDS + 1, LEASE_SECONDS + 1, GRACE_SECONDS + LEASE_SECONDS]))
    def time_passes(self, seconds: int) -> None:
        self.let_pass(seconds)

    @rule(days=st.sampled_from([-1, 1]), looked_at=st.booleans())
    def the_wall_clock_jumps(self, days: int, looked_at: bool) -> None:
        """And a keeper looks, before any heartbeat has told the new time and after its patience."""
        if abs(self.world.wall_offset + timedelta(days=days)) <= timedelta(days=1):
            self.world.wall_offset += timedelta(days=days)
        for keeper in self.movable(self.keepers)[:1] if looked_at else ():
            self.sweep(keeper)
            self.world.elapsed += CONFIRM_SECONDS + 1
            self.sweep(keeper)

    @precondition(lambda self: self.witness.claims)
    @rule(which=ANY, write=st.sampled_from(sorted(WRITES)))
    def a_stale_claim_writes_nothing(self, which: int, write: str) -> None:
        claims = [claim for claim in self.witness.claims if self.is_stale(claim)]
        if not claims:
            return
        claim = claims[which % len(claims)]
        with database.write_transaction() as tx:
            before = database.current().db.execute_sql("SELECT total_changes()").fetchone()
            landed = WRITES[write](tx, claim)
            after = database.current().db.execute_sql("SELECT total_changes()").fetchone()
        assert not landed, f"{write} with the stale {claim} landed"
        assert before == after, f"{write} with the stale {claim} wrote rows"
