"""Leases: held by heartbeat, judged by the boot-time clock, taken over by exactly one."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.clocks import Clocks
from vp_queue import clock
from vp_queue.contracts import EventType
from vp_queue.ledger import database, fleet, leases, queries, transitions
from vp_queue.ledger.leases import Suspect
from vp_queue.ledger.models import Attempt, Event, Mission
from vp_queue.ledger.transitions import Claim, Ending, NewMission, WorkerIdentity

VP = "vp.general.primary"
LEASE_SECONDS = 30.0
GRACE_SECONDS = 300.0
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def clocks(tmp_path: Path) -> Iterator[Clocks]:
    made = Clocks()
    with clock.use(made):
        database.open_ledger(tmp_path / "vp_state.db")
        yield made


def claimed(host_identity: str | None = None) -> Claim:
    """A running attempt of a new mission."""
    mission_id = clock.new_mission_id()
    new = NewMission(mission_id, VP, "task", "o", {}, {}, {}, 0, 2, "d")
    worker = WorkerIdentity("w-1", "host", host_identity or clock.host_identity())
    with database.write_transaction() as tx:
        transitions.accept(tx, new)
        landed = transitions.claim(tx, mission_id, 1, worker, LEASE_SECONDS, "/w/attempt-1")
    assert landed is not None
    return landed[1]


def renewed(claim: Claim, last_output_at: datetime | None = None) -> bool:
    with database.write_transaction() as tx:
        return leases.renew(tx, claim, LEASE_SECONDS, last_output_at)


def suspect(claim: Claim) -> Suspect:
    """As a keeper saw this attempt a while ago: its worker dead, its lease over."""
    return Suspect(claim, clock.host_identity(), None, None, True, timedelta(seconds=GRACE_SECONDS))


def taken_over(claim: Claim, *, only_if_expired: bool = False) -> Claim | None:
    with database.write_transaction() as tx:
        taken = leases.take_over(tx, suspect(claim), LEASE_SECONDS, None, only_if_expired=only_if_expired)
    return taken.claim if taken else None


def suspects() -> list[Suspect]:
    with database.read_transaction() as now:
        return list(leases.running(now, GRACE_SECONDS))


def expired() -> bool:
    (suspect,) = suspects()
    return suspect.expired


def attempt(claim: Claim) -> Attempt:
    return Attempt.get(Attempt.mission == claim.mission_id, Attempt.number == claim.attempt)


# --- heartbeats ---------------------------------------------------------------------------------


def test_a_lease_runs_out_after_its_seconds_and_not_before(clocks: Clocks) -> None:
    claimed()
    clocks.pass_time(LEASE_SECONDS)
    assert not expired()
    clocks.pass_time(0.000_001)
    assert expired()


def test_a_heartbeat_makes_it_hold_its_seconds_from_then(clocks: Clocks) -> None:
    claim = claimed()
    for _ in range(5):
        clocks.pass_time(LEASE_SECONDS - 1)
        assert renewed(claim)
        assert not expired()
    assert attempt(claim).heartbeat_at == clocks.wall
    assert attempt(claim).lease_expires_at == clocks.wall + timedelta(seconds=LEASE_SECONDS)
    clocks.pass_time(LEASE_SECONDS + 1)
    assert expired()


def test_a_heartbeat_is_no_event() -> None:
    claim = claimed()
    before = Event.select().count()
    assert renewed(claim)
    assert Event.select().count() == before


def test_a_lease_that_ran_out_unnoticed_may_still_be_renewed(clocks: Clocks) -> None:
    # A worker that was stopped for a while and that nobody took over is still the only one.
    claim = claimed()
    clocks.pass_time(10 * LEASE_SECONDS)
    assert renewed(claim)
    assert not expired()


def test_a_heartbeat_after_a_take_over_says_that_the_lease_is_lost() -> None:
    claim = claimed()
    assert taken_over(claim) is not None
    before = attempt(claim).heartbeat_at
    assert not renewed(claim)
    assert attempt(claim).heartbeat_at == before


def test_a_lease_renewed_since_the_keeper_looked_is_not_taken_over(clocks: Clocks) -> None:
    claim = claimed()
    clocks.pass_time(2 * LEASE_SECONDS)
    assert expired()
    assert renewed(claim)  # the worker thawed before the keeper came to it
    assert taken_over(claim, only_if_expired=True) is None
    assert renewed(claim)
    clocks.pass_time(2 * LEASE_SECONDS)
    assert taken_over(claim, only_if_expired=True) is not None


def test_a_keeper_ends_the_program_of_this_moment_not_the_one_it_read_about() -> None:
    claim = claimed()
    seen = suspect(claim)
    with database.write_transaction() as tx:
        leases.spawned(tx, claim, {"pid": 4711})  # since the keeper looked
    with database.write_transaction() as tx:
        taken = leases.take_over(tx, seen, LEASE_SECONDS, None, only_if_expired=False)
    assert taken is not None
    assert taken.executor == {"pid": 4711}


def test_a_second_keeper_leaves_alone_what_a_living_keeper_took_over(clocks: Clocks) -> None:
    claim = claimed()
    with database.write_transaction() as tx:
        keeper = fleet.register(tx, None, None)
        assert leases.take_over(tx, suspect(claim), LEASE_SECONDS, keeper.worker_id, only_if_expired=False)
    (seen,) = suspects()
    assert (seen.worker_pid, seen.expired) == (os.getpid(), False)  # the keeper answers for it now
    clocks.pass_time(2 * LEASE_SECONDS)
    assert expired()


def test_a_heartbeat_after_the_attempt_ended_says_that_the_lease_is_lost() -> None:
    claim = claimed()
    with database.write_transaction() as tx:
        transitions.complete(tx, claim, Ending())
    assert not renewed(claim)
    assert suspects() == []


def test_the_last_output_is_kept_when_a_heartbeat_knows_of_no_newer(clocks: Clocks) -> None:
    claim = claimed()
    assert attempt(claim).last_output_at is None
    printed = clocks.wall + timedelta(seconds=3)
    assert renewed(claim, printed)
    assert renewed(claim, None)
    assert attempt(claim).last_output_at == printed


# --- which clock decides ------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [DAY, -DAY, timedelta(days=400), -timedelta(days=400)])
def test_a_wall_clock_that_jumps_expires_nothing_and_revives_nothing(clocks: Clocks, jump: timedelta) -> None:
    claim = claimed()
    clocks.wall += jump
    assert not expired()
    assert renewed(claim), "heartbeats go on"
    clocks.pass_time(LEASE_SECONDS + 1)
    clocks.wall -= jump
    assert expired()


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_wall_clock_that_jumps_while_a_worker_is_dead_does_not_hide_it(clocks: Clocks, jump: timedelta) -> None:
    claimed()
    clocks.pass_time(LEASE_SECONDS + 1)
    clocks.wall += jump
    assert expired()


def test_the_boot_time_of_another_host_means_nothing_here(clocks: Clocks) -> None:
    claimed(host_identity="another-boot:1")
    clocks.boot_us += 10**15
    assert not expired()
    clocks.wall += timedelta(seconds=LEASE_SECONDS + GRACE_SECONDS)
    assert not expired()
    clocks.wall += timedelta(microseconds=1)
    assert expired()


def test_suspects_carry_what_is_needed_to_judge_them() -> None:
    claim = claimed()
    with database.write_transaction() as tx:
        assert leases.spawned(tx, claim, {"pid": 7, "start_ticks": 9})
    (seen,) = suspects()
    assert seen.claim == claim
    assert (seen.host_identity, seen.worker_pid) == (clock.host_identity(), None)


# --- taking over --------------------------------------------------------------------------------


def test_of_many_who_take_over_at_once_exactly_one_wins() -> None:
    claim = claimed()
    start, winners = threading.Barrier(8), []

    def compete() -> None:
        start.wait()
        won = taken_over(claim)
        if won is not None:
            winners.append(won)

    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = winners
    assert winner.token == attempt(claim).lease_token != claim.token
    assert (winner.mission_id, winner.attempt, winner.vp_id) == (claim.mission_id, claim.attempt, claim.vp_id)


def test_a_heartbeat_and_a_take_over_race_for_one_lease_and_one_loses() -> None:
    for _ in range(10):
        claim = claimed()
        start, results = threading.Barrier(2), {}

        def beat(claim: Claim = claim, start: Any = start, results: Any = results) -> None:
            start.wait()
            results["beat"] = [renewed(claim), renewed(claim)][-1]

        def take(claim: Claim = claim, start: Any = start, results: Any = results) -> None:
            start.wait()
            results["taken"] = taken_over(claim) is not None

        threads = [threading.Thread(target=beat), threading.Thread(target=take)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results["taken"]
        assert not renewed(claim), "whoever was first, from now on the old worker is fenced"


def test_the_lease_of_whoever_took_over_runs_out_like_any_other(clocks: Clocks) -> None:
    clocks_claim = claimed()
    clocks.pass_time(LEASE_SECONDS + 1)
    second = taken_over(clocks_claim)
    assert second is not None
    assert not expired()
    clocks.pass_time(LEASE_SECONDS + 1)
    assert expired()
    assert taken_over(second) is not None


def test_the_new_claim_ends_the_attempt() -> None:
    second = taken_over(claimed())
    assert second is not None
    with database.write_transaction() as tx:
        mission = transitions.lose(tx, second, "gone", Ending(), backoff_seconds=0)
    assert mission is not None
    assert mission.status == "queued"


# --- workspace and progress ---------------------------------------------------------------------


def test_the_workspace_is_recorded_with_the_claim() -> None:
    claim = claimed()
    assert queries.attempt_views(claim.mission_id)[0].workspace == "/w/attempt-1"


def test_progress_is_shown_with_its_time_counts_as_output_and_is_an_event(clocks: Clocks) -> None:
    claim = claimed()
    clocks.pass_time(5)
    for fraction in (0.25, 0.5):
        with database.write_transaction() as tx:
            assert leases.progress(tx, claim, fraction, "on it")
    mission = Mission.get_by_id(claim.mission_id)
    assert mission.progress == {"fraction": 0.5, "message": "on it", "at": "2030-01-01T12:00:05Z"}
    assert attempt(claim).last_output_at == clocks.wall
    told = [event for event in Event.select().order_by(Event.seq) if event.type == EventType.PROGRESS]
    assert [event.data["fraction"] for event in told] == [0.25, 0.5]
    assert [event.mission_seq for event in told] == [3, 4]


@pytest.mark.parametrize(("silent_seconds", "stalled"), [(600, False), (601, True)])
def test_stalled_means_silent_for_too_long_and_is_no_status(
    clocks: Clocks, silent_seconds: float, stalled: bool
) -> None:
    claim = claimed()
    clocks.pass_time(silent_seconds)
    view = queries.mission_view(Mission.get_by_id(claim.mission_id), clocks.wall, {VP: 600})
    assert (view.stalled, view.status) == (stalled, "running")
    assert renewed(claim, clocks.wall)
    assert not queries.mission_view(Mission.get_by_id(claim.mission_id), clocks.wall, {VP: 600}).stalled
