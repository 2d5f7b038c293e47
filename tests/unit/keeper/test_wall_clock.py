"""A wall clock that runs ahead makes no mission old, be the keeper running or started under it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import pytest

from tests import mutants
from tests.ended import DAY, HOUR, left, mission, on_until_now, worker_seen
from tests.harness import Home
from vp_queue import clock, config, missions
from vp_queue.keeper.retention import Sweeper
from vp_queue.ledger import database, fleet

AHEAD = 40 * DAY


@pytest.fixture(autouse=True)
def ready(home: Home) -> None:
    missions.ready()


class Set(clock.SystemClock):
    """Both clocks, as they are some time later."""

    def __init__(self, ahead: timedelta, passed: timedelta) -> None:
        self._ahead, self._passed = ahead, passed

    def now(self) -> datetime:
        return super().now() + self._ahead + self._passed

    def boottime_us(self) -> int:
        return super().boottime_us() + self._passed // clock.MICROSECOND


@contextmanager
def clocks(*, ahead: timedelta = timedelta(0), passed: timedelta = timedelta(0)) -> Iterator[None]:
    """The wall clock runs ahead by so much, after so much time has really passed."""
    with clock.use(Set(ahead, passed)):
        yield


@contextmanager
def booted(uptime: timedelta) -> Iterator[None]:
    """This machine was switched on so long ago."""
    with clock.use(Booted(uptime)):
        yield


class Booted(clock.SystemClock):
    """Its boot-time clock."""

    def __init__(self, uptime: timedelta) -> None:
        self._extra_us = uptime // clock.MICROSECOND - super().boottime_us()

    def boottime_us(self) -> int:
        return super().boottime_us() + self._extra_us


def test_a_wall_clock_that_jumps_ahead_makes_nothing_old_for_a_day(caplog: pytest.LogCaptureFixture) -> None:
    on_until_now()
    young = mission(1 * DAY)
    sweeper = Sweeper(config.load())
    sweeper._swept_some()
    with clocks(ahead=AHEAD):
        sweeper._swept_some()
        sweeper._swept_some()
        assert left() == {young}
    assert caplog.text.count("jumped ahead by 3456000 s") == 1
    sweeper._swept_some()  # it was corrected
    mission(31 * DAY)
    sweeper._swept_some()
    assert left() == {young}
    with clocks(ahead=AHEAD):
        sweeper._swept_some()
    with clocks(ahead=AHEAD, passed=DAY):
        sweeper._swept_some()
    assert left() == set()


def swept_by_a_keeper_started_under_a_clock_that_jumped() -> set[str]:
    """What is left by it; the worker beside it lived through the jump, and its heartbeats followed the clock."""
    with database.write_transaction() as tx:
        worker = fleet.register(tx, None, None)
    with clocks(ahead=AHEAD), database.write_transaction() as tx:
        fleet.beat(tx, worker.worker_id)
    with clocks(ahead=AHEAD):
        Sweeper(config.load())._swept_some()
    return left()


def test_a_keeper_started_after_the_jump_learns_of_it_from_the_workers_of_this_boot() -> None:
    on_until_now()
    young = mission(1 * DAY)
    assert swept_by_a_keeper_started_under_a_clock_that_jumped() == {young}


def test_a_stopped_workers_last_heartbeat_tells_it_too() -> None:
    on_until_now()
    young = mission(1 * DAY)
    worker_seen(HOUR, clock.boottime_us() - 3_600_000_000, host_identity=clock.host_identity())
    with clocks(ahead=AHEAD):
        sweeper = Sweeper(config.load())
        sweeper._swept_some()
        assert left() == {young}
    with clocks(ahead=AHEAD, passed=DAY):
        sweeper._swept_some()
    assert left() == set()


def test_a_keeper_that_does_not_compare_the_clocks_prunes_everything() -> None:
    """The negative control."""
    mission(1 * DAY)
    with mutants.removed("believes-the-clock"):
        assert swept_by_a_keeper_started_under_a_clock_that_jumped() == set()


def test_after_a_boot_with_a_wrong_clock_nothing_is_pruned_for_a_day(caplog: pytest.LogCaptureFixture) -> None:
    young = mission(1 * DAY)
    worker_seen(HOUR)  # it was off for a moment, and its clock came back 40 days ahead
    with clock.use(AheadSinceBoot(HOUR)):
        Sweeper(config.load())._swept_some()
        assert left() == {young}
    assert "was off for 40.0 days" in caplog.text
    with clock.use(AheadSinceBoot(HOUR + DAY)):
        Sweeper(config.load())._swept_some()
    assert left() == set()


class AheadSinceBoot(Booted):
    """The wall clock has been wrong since the boot."""

    def now(self) -> datetime:
        return super().now() + AHEAD


def test_a_machine_that_was_off_for_a_week_prunes_again_after_a_day() -> None:
    old = mission(31 * DAY)
    worker_seen(7 * DAY)
    with booted(HOUR):
        Sweeper(config.load())._swept_some()
        assert left() == {old}
    with booted(DAY + HOUR):
        Sweeper(config.load())._swept_some()
    assert left() == set()


def test_a_machine_that_was_off_for_a_night_prunes_at_once() -> None:
    mission(31 * DAY)
    worker_seen(14 * HOUR)
    with booted(HOUR):
        Sweeper(config.load())._swept_some()
    assert left() == set()
