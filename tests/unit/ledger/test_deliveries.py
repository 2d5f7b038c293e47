"""Who may tell a sink: one process at a time, until its lease has run out or it is dead; what a lost claim writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from tests.ended import mission
from tests.harness import Home
from vp_queue import clock, missions
from vp_queue.contracts import DeliveryState
from vp_queue.ledger import database, deliveries, queries
from vp_queue.ledger.models import Delivery, Sink

SINK, MINE, OTHERS = "webhook-x", "mine", "another's"
LEASE_SECONDS = 60.0


class Later(clock.SystemClock):
    """Both clocks, some seconds on."""

    def __init__(self, wall_seconds: float, boot_seconds: float) -> None:
        self._wall, self._boot_us = timedelta(seconds=wall_seconds), int(boot_seconds * 1e6)

    def now(self) -> datetime:
        return super().now() + self._wall

    def boottime_us(self) -> int:
        return super().boottime_us() + self._boot_us


@pytest.fixture(autouse=True)
def one_waits(home: Home) -> Iterator[None]:
    """A sink with two events of two missions that wait."""
    missions.ready()
    with database.write_transaction() as tx:
        deliveries.introduce(tx, SINK, "x")
    for _ in range(2):
        mission(timedelta(0))
    with database.write_transaction() as tx:
        events = [event for event in queries.events_after(0, 100) if event.type == "mission.completed"]
        deliveries.enqueue(tx, SINK, events, queries.newest_seq())
    return


def claimed(token: str) -> Delivery | None:
    with database.write_transaction() as tx:
        return deliveries.claim(tx, SINK, token, LEASE_SECONDS)


def held() -> Delivery:
    row = claimed(OTHERS)
    assert row is not None
    return row


def change(**values: object) -> None:
    with database.write_transaction():
        Sink.update(**values).where(Sink.sink == SINK).execute()


def test_what_another_process_tells_is_left_to_it() -> None:
    held()
    assert claimed(MINE) is None
    with database.read_transaction() as now:
        assert not deliveries.has_due(SINK, MINE, now)
        assert deliveries.has_due(SINK, OTHERS, now)
    assert claimed(OTHERS) is not None, "its own claim is renewed"


def test_a_claim_that_was_given_back_is_free() -> None:
    held()
    with database.write_transaction():
        deliveries.release(SINK, OTHERS)
    assert claimed(MINE) is not None


def test_a_claim_is_over_when_its_process_is_dead() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    start = clock.process_start_ticks(gone.pid)
    gone.wait()
    held()
    change(claim_pid=gone.pid, claim_start_ticks=start or 1)
    assert claimed(MINE) is not None


def test_a_pid_that_was_given_to_another_process_counts_as_dead() -> None:
    held()
    change(claim_pid=os.getpid(), claim_start_ticks=1)
    assert claimed(MINE) is not None


def test_on_this_host_a_lease_runs_by_the_boot_time_clock() -> None:
    held()
    with clock.use(Later(wall_seconds=86_400, boot_seconds=0)):
        assert claimed(MINE) is None
    with clock.use(Later(wall_seconds=0, boot_seconds=LEASE_SECONDS + 1)):
        assert claimed(MINE) is not None


def test_of_another_host_or_boot_it_runs_by_the_wall_clock() -> None:
    held()
    change(claim_host_identity="another", claim_pid=1)
    with clock.use(Later(wall_seconds=0, boot_seconds=86_400)):
        assert claimed(MINE) is None
    with clock.use(Later(wall_seconds=LEASE_SECONDS + 1, boot_seconds=0)):
        assert claimed(MINE) is not None


def test_who_has_lost_its_claim_writes_nothing() -> None:
    row = held()
    change(claim_token=MINE)
    with database.write_transaction() as tx:
        assert not deliveries.told(row, OTHERS)
        assert not deliveries.put_off(tx, row, OTHERS, "x", lambda _: 1.0)
        assert not deliveries.give_up(tx, row, OTHERS, "x")
    with database.read_transaction():
        assert [(each.state, each.attempts) for each in deliveries.page(None, 10)] == [(DeliveryState.PENDING, 0)] * 2


def test_after_a_failure_the_sink_rests_and_then_another_mission_is_told_first() -> None:
    first = held()
    waits = iter([100.0, 10.0])  # the event's, the sink's
    with database.write_transaction() as tx:
        assert deliveries.put_off(tx, first, OTHERS, "x" * 10_000, lambda _: next(waits))
    assert claimed(OTHERS) is None
    with clock.use(Later(11, 11)):
        second = claimed(OTHERS)
        assert second is not None
        assert second.id != first.id
    with database.read_transaction():
        assert [len(each.error or "") for each in deliveries.page(None, 10)] == [500, 0]


def test_what_was_read_already_is_not_told_twice() -> None:
    with database.write_transaction() as tx:
        events = queries.events_after(0, 100)
        deliveries.enqueue(tx, SINK, events, events[-1].seq)
    with database.read_transaction():
        assert len(deliveries.page(None, 10)) == 2


def test_what_is_retried_begins_anew_unless_nobody_is_told_any_more() -> None:
    row = held()
    with database.write_transaction() as tx:
        deliveries.give_up(tx, row, OTHERS, "no")
    with database.write_transaction() as tx:
        assert deliveries.revive(tx, None) == 1
        deliveries.retire(tx, kept=())
    with database.write_transaction() as tx:
        assert deliveries.revive(tx, None) == 0
    with database.read_transaction():
        assert [(each.state, each.error) for each in deliveries.page(None, 10)] == [
            (DeliveryState.DEAD, deliveries.RETIRED)
        ] * 2
