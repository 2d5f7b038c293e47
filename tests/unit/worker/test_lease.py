"""The heartbeat's watchdog: what is not heard of for half a lease is given up, whatever keeps the heartbeat."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clocks import Clocks
from tests.harness import until
from vp_queue import clock
from vp_queue.ledger import database
from vp_queue.ledger.records import Claim
from vp_queue.worker import lease
from vp_queue.worker.attempt import RunningAttempt, StopReason
from vp_queue.worker.lease import LeaseKeeper


@pytest.fixture
def clocks(tmp_path: Path) -> Iterator[Clocks]:
    made = Clocks()
    with clock.use(made):
        database.open_ledger(tmp_path / "vp_state.db")
        yield made


@pytest.fixture
def attempt() -> Iterator[RunningAttempt]:
    made = RunningAttempt(Claim("m-1", "vp.general.primary", 1, "token"))
    yield made
    made.close()


def test_half_a_lease_without_a_heartbeat_gives_the_attempt_up(clocks: Clocks, attempt: RunningAttempt) -> None:
    keeper = LeaseKeeper(30)
    keeper.add(attempt, clock.boottime_us())
    clocks.pass_time(14.9)
    assert keeper.give_up_overdue() == pytest.approx(0.1)
    assert attempt.stop_reason is None
    clocks.pass_time(0.1)
    keeper.give_up_overdue()
    assert attempt.stop_reason == StopReason.UNREACHABLE
    assert attempt.at_once
    assert not attempt.lost, "it may still say that it gave up: nobody has taken it over"


def test_a_wall_clock_that_jumps_gives_nothing_up(clocks: Clocks, attempt: RunningAttempt) -> None:
    keeper = LeaseKeeper(30)
    keeper.add(attempt, clock.boottime_us())
    clocks.wall = clocks.wall.replace(year=2031)
    keeper.give_up_overdue()
    assert attempt.stop_reason is None


def test_a_cancel_under_way_is_hurried_and_stays_a_cancel(clocks: Clocks, attempt: RunningAttempt) -> None:
    keeper = LeaseKeeper(30)
    keeper.add(attempt, clock.boottime_us())
    attempt.stop(StopReason.CANCELLED)
    clocks.pass_time(15)
    keeper.give_up_overdue()
    assert (attempt.stop_reason, attempt.at_once) == (StopReason.CANCELLED, True)


def test_one_that_is_over_is_not_given_up(clocks: Clocks, attempt: RunningAttempt) -> None:
    keeper = LeaseKeeper(30)
    keeper.add(attempt, clock.boottime_us())
    keeper.remove(attempt)
    clocks.pass_time(60)
    keeper.give_up_overdue()
    assert attempt.stop_reason is None


@pytest.mark.parametrize("guarded", [True, False])
def test_a_heartbeat_that_hangs_is_noticed_by_the_watchdog_and_by_nothing_else(
    tmp_path: Path, attempt: RunningAttempt, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    database.open_ledger(tmp_path / "vp_state.db")
    hanging, let_go, stopped = threading.Event(), threading.Event(), threading.Event()

    def hang() -> None:
        hanging.set()
        let_go.wait()

    keeper = LeaseKeeper(0.2)
    monkeypatch.setattr(keeper, "_beat", hang)
    monkeypatch.setattr(attempt, "stop", lambda reason: stopped.set())
    if not guarded:
        monkeypatch.setattr(lease.LeaseKeeper, "_watch_over", lambda self: None)
    keeper.add(attempt, clock.boottime_us())
    keeper.start("w-1")
    assert hanging.wait(30)
    # Without the watchdog: ten leases are long enough to see that nothing happens.
    assert stopped.wait(30 if guarded else 2.0) is guarded
    keeper.stop()
    let_go.set()


@pytest.mark.parametrize("dropping", [True, False])
def test_a_log_that_nobody_reads_does_not_hold_up_the_watchdog(
    tmp_path: Path, attempt: RunningAttempt, monkeypatch: pytest.MonkeyPatch, dropping: bool
) -> None:
    """A stopped supervisord does not read its pipe: whoever logs would wait, and hold the log's lock meanwhile."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"x" * 4096):
            pass
    os.set_blocking(writer, not dropping)
    stream = logging.StreamHandler(os.fdopen(writer, "w"))
    logger = logging.getLogger("vp_queue.worker")
    monkeypatch.setattr(logger, "handlers", [stream])
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logging, "raiseExceptions", False)
    database.open_ledger(tmp_path / "vp_state.db")
    keeper = LeaseKeeper(30)
    keeper.add(attempt, clock.boottime_us() - 20_000_000)
    watchdog = threading.Thread(target=keeper.give_up_overdue, daemon=True)
    watchdog.start()
    until(lambda: attempt.at_once, "the attempt is given up before anything is logged")
    watchdog.join(30 if dropping else 1)
    assert watchdog.is_alive() is not dropping
    os.read(reader, 1 << 20)
    watchdog.join()
    os.set_blocking(writer, False)
    with contextlib.suppress(OSError):
        stream.stream.close()
    os.close(reader)
