"""Reading events and telling sinks, a look at a time, in this process: whom, in what order, and how much is kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from tests import mutants, receiver
from tests.ended import DAY, at_age, mission
from tests.harness import CODER, GENERAL, Home, ok, until
from tests.receiver import Receiver, listening, status
from vp_queue import config, missions, tools
from vp_queue.config_notify import Notify, Sink
from vp_queue.contracts import DeliveryState, limits
from vp_queue.keeper import notifier
from vp_queue.keeper.notifier import Notifier
from vp_queue.ledger import database, deliveries

NOW = timedelta(0)
SINK = Sink("command", '["true"]', "true")
Look = Callable[[], None]


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv(receiver.VARIABLE, receiver.KEY)
    with listening(Receiver()) as made:
        yield made


def looking(home: Home, table: str, vps: str = "") -> Look:
    """Configure who is told; what this returns looks once, and waits until everybody has been told what is due."""
    home.configure(more=f"\n[notify]\n{table}{vps}")
    missions.ready()
    telling = Notifier(config.load())

    def look() -> None:
        telling.look()
        for served in telling._served.values():
            if served.thread is not None:
                served.thread.join(30)
        telling.look()

    return look


def dead() -> list[tuple[str, str]]:
    with database.read_transaction():
        return [(row.type, row.error or "") for row in deliveries.page(DeliveryState.DEAD, 1_000)]


def pending() -> int:
    with database.read_transaction():
        return sum(each.pending for each in deliveries.counts())


def dispatched(vp_id: str = GENERAL) -> str:
    return str(
        ok(
            tools.vp_dispatch_mission(
                vp_id=vp_id, objective="x", mission_type="command", constraints={"command": ["true"]}
            )
        )["mission"]["mission_id"]
    )


# --- whom -------------------------------------------------------------------------------------------


def test_a_new_receiver_is_told_what_happens_from_now_on(home: Home, hooked: Receiver) -> None:
    look = looking(home, hooked.table)
    mission(NOW)
    look()
    new = mission(NOW)
    look()
    assert hooked.told() == [("mission.completed", new)]
    assert hooked.received[0].signed


def test_without_that_it_would_be_told_all_history(home: Home, hooked: Receiver) -> None:
    """The negative control."""
    look = looking(home, hooked.table)
    old = mission(NOW)
    with mutants.removed("begins-with-all-history"):
        look()
        look()
    assert hooked.told() == [("mission.completed", old)]


def test_without_signing_the_receiver_sees_it(home: Home, hooked: Receiver) -> None:
    """The negative control."""
    look = looking(home, hooked.table)
    look()
    mission(NOW)
    from vp_queue.keeper import notify_webhook  # noqa: F401  loaded, so that what is removed is put back

    with mutants.removed("signs-nothing"):
        look()
    assert [each.signed for each in hooked.received] == [False]


def test_a_vp_of_its_own_table_tells_whom_and_what_it_says(home: Home, hooked: Receiver) -> None:
    vps = f'[vp."{CODER}".notify]\nevents = ["mission.dispatched"]\n'
    look = looking(home, hooked.table + 'events = ["mission.cancelled"]\n', vps)
    look()
    one, other = dispatched(GENERAL), dispatched(CODER)
    for mission_id in (one, other):
        ok(tools.vp_cancel_mission(mission_id=mission_id))
    look()
    assert set(hooked.told()) == {("mission.cancelled", one), ("mission.dispatched", other)}


def test_a_vp_can_be_silent(home: Home, hooked: Receiver) -> None:
    look = looking(home, hooked.table, f'[vp."{CODER}".notify]\nurl = ""\n')
    look()
    mission(NOW, vp_id=CODER)
    look()
    assert hooked.received == []
    assert pending() == 0


def test_what_a_receiver_that_is_named_no_more_was_not_told_is_given_up(home: Home, hooked: Receiver) -> None:
    hooked.script = (status(503),)
    look = looking(home, hooked.table)
    look()
    mission(NOW)
    look()
    assert pending() == 1
    home.configure()
    Notifier(config.load()).look()
    assert dead() == [("mission.completed", deliveries.RETIRED)]


# --- in what order ------------------------------------------------------------------------------------


def two_events(home: Home, hooked: Receiver, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a receiver is told of one mission's two events that refuses the first one once.

    The event waits longer than its sink, as one that failed more often does.
    """
    hooked.script = (status(500), status(204))
    waits = iter([0.3])
    monkeypatch.setattr(notifier, "waiting", lambda *_: lambda failures: next(waits, 0.0))
    look = looking(home, hooked.table + 'events = ["mission.dispatched", "mission.cancelled"]\n')
    look()
    ok(tools.vp_cancel_mission(mission_id=dispatched()))

    def looked() -> bool:
        look()
        return pending() == 0

    until(looked, "all is told")
    return [kind.removeprefix("mission.") for kind, _ in hooked.told()]


def test_a_later_event_does_not_overtake_one_that_is_tried_again(
    home: Home, hooked: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert two_events(home, hooked, monkeypatch) == ["dispatched", "dispatched", "cancelled"]


def test_without_lanes_it_would(home: Home, hooked: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    with mutants.removed("lets-later-events-overtake"):
        assert two_events(home, hooked, monkeypatch) == ["dispatched", "cancelled", "dispatched"]


@pytest.mark.parametrize("asked_seconds", [None, 0.0, 3.0])
def test_a_receiver_that_asks_for_a_short_wait_does_not_shorten_the_back_off(asked_seconds: float | None) -> None:
    wait_seconds = notifier.waiting(Notify(retry_backoff_seconds=5), asked_seconds)
    assert 20 <= wait_seconds(3) <= 40


def test_a_longer_wait_is_granted_within_limits() -> None:
    assert notifier.waiting(Notify(retry_backoff_seconds=5), 600.0)(3) == 600
    assert notifier.waiting(Notify(retry_backoff_seconds=5), 1e9)(3) == limits.DELIVERY_WAIT_SECONDS


# --- how much -----------------------------------------------------------------------------------------


def test_of_a_huge_backlog_the_oldest_are_given_up_and_that_is_said(
    home: Home, hooked: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DELIVERIES_PENDING", 3)
    hooked.script = (status(503, Retry_After="3600"),)
    look = looking(home, hooked.table)
    look()
    ids = [mission(NOW) for _ in range(5)]
    look()
    assert pending() == 3
    assert dead() == [("mission.completed", deliveries.OVERFLOW)] * 2
    with database.read_transaction():
        assert [row.mission_id for row in deliveries.page(DeliveryState.DEAD, 10)] == ids[:2]


def test_the_dead_are_kept_for_a_while_and_up_to_a_number(
    home: Home, hooked: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked.script = (status(410),)
    look = looking(home, hooked.table)
    look()
    with at_age(100 * DAY):
        mission(NOW)
        look()
    for _ in range(3):
        mission(NOW)
    look()
    with database.read_transaction() as now:
        assert len(deliveries.stale(now, None, 100)) == 0
        assert len(deliveries.stale(now, 90 * DAY, 100)) == 1
        monkeypatch.setattr(limits, "DELIVERIES_DEAD", 2)
        gone = deliveries.stale(now, None, 100)
    with database.write_transaction():
        deliveries.delete(gone)
    assert len(dead()) == 2


def test_of_more_dead_than_a_page_the_surplus_goes_look_by_look(
    home: Home, hooked: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked.script = (status(410),)
    look = looking(home, hooked.table)
    look()
    for _ in range(6):
        mission(NOW)
    look()
    monkeypatch.setattr(limits, "DELIVERIES_DEAD", 1)
    monkeypatch.setattr(notifier, "PAGE", 2)
    again = Notifier(config.load())
    for _ in range(3):
        again.look()
    assert len(dead()) == 1


def test_one_that_never_takes_it_is_given_up_after_so_many_attempts(home: Home, hooked: Receiver) -> None:
    hooked.script = (status(500, b"no \x1b[31m<b>room</b>\n"),)
    look = looking(home, hooked.table + "max_attempts = 3\n")
    look()
    mission(NOW)

    def given_up() -> bool:
        look()
        return bool(dead())

    until(given_up, "it is given up")
    assert len(hooked.received) == 3
    assert dead()[0][1].startswith("given up after 3 attempts: the receiver answered 500: no ")
    assert len({each.id for each in hooked.received}) == 1


def test_an_event_that_was_pruned_before_it_was_told_is_given_up(home: Home, hooked: Receiver) -> None:
    hooked.script = (status(503),)
    look = looking(home, hooked.table)
    look()
    done = mission(NOW)
    look()
    with database.write_transaction():
        database.current().db.execute_sql("DELETE FROM vp_mission WHERE id = ?", (done,))

    def given_up() -> bool:
        look()
        return bool(dead())

    until(given_up, "it is given up")
    assert dead() == [("mission.completed", deliveries.PRUNED)]


# --- the keeper's threads ---------------------------------------------------------------------------


def test_who_began_to_be_told_as_the_keeper_was_told_to_stop_is_waited_for(home: Home) -> None:
    missions.ready()
    ended = threading.Event()

    class Late(Notifier):
        def _run(self) -> None:
            self._stop.wait()
            time.sleep(0.1)
            telling = threading.Timer(0.1, ended.set)
            telling.start()
            self._served["late"] = notifier._Served(notifier.Teller(SINK, home.path, self._stop.is_set), telling)

    with Late(config.load()).running():
        pass
    assert ended.is_set()
