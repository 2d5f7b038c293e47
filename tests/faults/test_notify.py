"""Telling people, by real keepers, to real receivers: at least once, in order, and never in the way of a rescue."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import oracle, receiver
from tests.ended import mission
from tests.faults.test_hostile_secrets import found_in_files
from tests.harness import CODER, GENERAL, Home, alive_with_environment, events, exited, ok, shell, until
from tests.receiver import Receiver, listening, stall, status
from vp_queue import clock, missions, tools
from vp_queue.contracts import Status
from vp_queue.ledger import database, deliveries

NOW = timedelta(0)
# Not that a worker was lost: here keepers are.
ENDS = 'events = ["mission.completed"]\n'


def check(home: Home, acknowledged: list[str] | None = None) -> None:
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", acknowledged)


@pytest.fixture
def hooked() -> Iterator[Receiver]:
    with listening(Receiver()) as made:
        yield made


def keeper(home: Home, *, mutants: str = "") -> subprocess.Popen[bytes]:
    """A real keeper that has the key, once it knows whom to tell."""
    started = home.start("vp", "keeper", mutants=mutants, **{receiver.VARIABLE: receiver.KEY})
    until(lambda: known() or exited(started), "the keeper knows whom to tell")
    return started


def known() -> dict[str, Any]:
    with database.read_transaction():
        return deliveries.sinks()


def waiting() -> dict[str, int]:
    with database.read_transaction():
        counts = deliveries.counts()
    return {"pending": sum(each.pending for each in counts), "dead": sum(each.dead for each in counts)}


def errors() -> list[str]:
    with database.read_transaction():
        return [str(row.error) for row in deliveries.page(None, 100)]


def configure(home: Home, table: str) -> None:
    home.configure(more=f"\n[notify]\n{table}")
    missions.ready()


# --- what is told ---------------------------------------------------------------------------------


def test_what_ends_is_told_signed_and_the_key_stands_nowhere(home: Home, hooked: Receiver) -> None:
    configure(home, hooked.table)
    keeper(home)
    home.consumer()
    done = shell("echo 'the result' > $VP_WORK_PRODUCTS/x")["mission_id"]
    failed = shell("echo '</data> gone wrong'; exit 3")["mission_id"]
    cancelled = ok(
        tools.vp_dispatch_mission(vp_id=CODER, objective="x", mission_type="command", constraints={"command": ["true"]})
    )["mission"]["mission_id"]
    ok(tools.vp_cancel_mission(mission_id=cancelled, reason="\x1b]0;not needed\x07"))
    wanted = {("mission.completed", done), ("mission.failed", failed), ("mission.cancelled", cancelled)}
    until(lambda: set(hooked.told()) >= wanted, "all three are told")
    until(lambda: waiting() == {"pending": 0, "dead": 0}, "and that is known")
    assert sorted(hooked.told(), key=str) == sorted(wanted, key=str)
    assert all(each.signed for each in hooked.received)
    of_failed = next(each for each in hooked.received if each.what[1] == failed)
    event = of_failed.event
    assert (event["specversion"], event["datacontenttype"]) == ("1.0", "application/json")
    assert of_failed.headers["content-type"].startswith("application/cloudevents+json")
    assert of_failed.headers["webhook-id"] == event["id"]
    assert event["data"]["event"]["type"] == "mission.failed"
    assert event["data"]["mission"]["failure"]["code"] == "exit_nonzero"
    assert event["data"]["mission"]["workspace"] == f"workspace://{GENERAL}/{failed}"
    check(home, [done, failed, cancelled])
    assert found_in_files(receiver.KEY, home.path) == []
    assert found_in_files(receiver.PATH, home.path) == [str(home.path / "vp_queue.toml")]


# --- a death between any two steps ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("death", "receipts"),
    [
        ("dies-before-rows-are-committed", 1),
        ("dies-before-it-tells", 1),
        ("dies-before-it-notes-that-it-told", 2),
    ],
)
def test_a_keeper_killed_at_any_step_tells_it_in_its_next_life(
    home: Home, hooked: Receiver, death: str, receipts: int
) -> None:
    configure(home, hooked.table + ENDS)
    killed = keeper(home, mutants=death)
    done = mission(NOW)
    assert killed.wait(30) == -signal.SIGKILL
    assert len(hooked.received) == receipts - 1
    keeper(home)
    until(lambda: len(hooked.received) == receipts, "the next keeper tells it")
    until(lambda: waiting()["pending"] == 0, "and notes it")
    assert hooked.told() == [("mission.completed", done)] * receipts
    assert len({each.id for each in hooked.received}) == 1, "a repetition has the same id"
    assert all(each.signed for each in hooked.received)


@pytest.mark.parametrize("mutants", ["notes-before-it-tells,dies-before-it-tells", "moves-the-cursor-first"])
def test_a_row_or_cursor_written_too_early_loses_it(home: Home, hooked: Receiver, mutants: str) -> None:
    """The negative control: by the time a later event has been told, the earlier one has not."""
    configure(home, hooked.table + ENDS)
    killed = keeper(home, mutants=mutants)
    mission(NOW)
    assert killed.wait(30) == -signal.SIGKILL
    keeper(home)
    later = mission(NOW)
    until(lambda: hooked.received, "something is told")
    until(lambda: waiting()["pending"] == 0, "nothing waits")
    assert hooked.told() == [("mission.completed", later)]


# --- receivers with troubles ------------------------------------------------------------------------


def test_a_receiver_that_was_down_is_told_everything_in_order(home: Home) -> None:
    with listening(Receiver()) as made:
        pass  # its port is free now
    configure(home, made.table + 'events = ["mission.dispatched", "mission.cancelled"]\nmax_attempts = 100\n')
    keeper(home)
    ids = [str(ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="x"))["mission"]["mission_id"]) for _ in range(5)]
    for mission_id in ids:
        ok(tools.vp_cancel_mission(mission_id=mission_id))
    until(lambda: any("no connection" in error for error in errors()), "it was tried")
    with listening(made):
        until(lambda: len(made.received) == 10, "all is told", 60)
        until(lambda: waiting() == {"pending": 0, "dead": 0}, "and noted")
    for mission_id in ids:
        assert [kind for kind, about in made.told() if about == mission_id] == [
            "mission.dispatched",
            "mission.cancelled",
        ]
    check(home, ids)


def test_a_receiver_that_hangs_holds_up_no_rescue(home: Home) -> None:
    with listening(Receiver(script=(stall,))) as made:
        configure(home, made.table + "timeout_seconds = 120\n")
        keeper(home)
        mission(NOW)
        until(made.stalled.is_set, "the receiver hangs")
        mission_id = expiring()
        until(lambda: "mission.expired" in events(mission_id), "the keeper does its work")
        assert len(made.received) == 1, "and the receiver still hangs"


def test_a_keeper_that_told_in_its_sweep_would_be_held_up(home: Home) -> None:
    """The negative control."""
    with listening(Receiver(script=(stall,))) as made:
        configure(home, made.table + "timeout_seconds = 120\n")
        keeper(home, mutants="tells-in-the-sweep")
        mission(NOW)
        until(made.stalled.is_set, "the receiver hangs")
        until_swept = expiring()
        with pytest.raises(AssertionError, match="never happened"):
            until(lambda: "mission.expired" in events(until_swept), "the keeper does its work", 3)


def expiring() -> str:
    """A mission whose start deadline passes at once."""
    soon = clock.as_text(clock.now() + timedelta(seconds=0.5))
    return str(ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="x", expires_at=soon))["mission"]["mission_id"])


# --- two keepers ------------------------------------------------------------------------------------


def tell_many(home: Home, made: Receiver, mutants: str) -> list[str]:
    configure(home, made.table + 'events = ["mission.cancelled"]\n')
    keeper(home, mutants=mutants)
    keeper(home, mutants=mutants)

    def one(_: int) -> str:
        mission_id = str(ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="x"))["mission"]["mission_id"])
        ok(tools.vp_cancel_mission(mission_id=mission_id))
        database.close_thread_connection()
        return mission_id

    with ThreadPoolExecutor(4) as writers:
        ids = list(writers.map(one, range(8)))
    until(lambda: {about for _, about in made.told()} == set(ids), "each event of each writer is told", 60)
    until(lambda: waiting() == {"pending": 0, "dead": 0}, "and noted")
    return ids


def slowly(handler: Any) -> None:
    handler.server.receiver.release.wait(0.05)
    status(204)(handler)


def test_two_keepers_beside_each_other_tell_each_event_of_many_writers_once(home: Home) -> None:
    with listening(Receiver(script=(slowly,))) as made:
        ids = tell_many(home, made, "")
        assert len(made.received) == len(ids)
        check(home, ids)


def test_without_a_claim_they_would_tell_it_twice(home: Home) -> None:
    """The negative control."""
    with listening(Receiver(script=(slowly,))) as made:
        ids = tell_many(home, made, "tells-without-a-claim")
        assert len(made.received) > len(ids)


# --- commands -----------------------------------------------------------------------------------------


LINGERING = "setsid sh -c 'setsid sleep 600 & sleep 600' & echo gone wrong; sleep 600"


def command(home: Home, script: str, monkeypatch: pytest.MonkeyPatch, more: str = "") -> str:
    """A command whose processes can be told by what this returns."""
    mark = str(home.path)
    monkeypatch.setenv("TEST_NOTIFIED", mark)
    configure(
        home,
        f'command = ["sh", "-c", """{script}"""]\nenv_allow = ["PATH", "TEST_NOTIFIED"]\nretry_backoff_seconds = 0.05\n'
        + more,
    )
    return mark


def test_a_command_gets_the_event_and_nothing_that_was_not_allowed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "canary-of-the-keeper")
    told = home.targets / "told"
    command(home, f"cat > {told}.part; env > {told}.env; mv {told}.part {told}", monkeypatch)
    keeper(home)
    done = mission(NOW)
    until(told.exists, "the command ran")
    until(lambda: waiting() == {"pending": 0, "dead": 0}, "and that is noted")
    assert f'"subject":"{done}"' in told.read_text()
    environment = Path(f"{told}.env").read_text()
    assert f"VP_EVENT_MISSION_ID={done}\n" in environment
    assert "VP_EVENT_TYPE=mission.completed\n" in environment
    assert "canary-of-the-keeper" not in environment
    assert list((home.path / "run").glob("notify-*")) == []


def test_a_command_that_hangs_is_ended_with_the_daemons_it_left(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = command(home, LINGERING, monkeypatch, "command_timeout_seconds = 0.5\nmax_attempts = 1\n")
    keeper(home)
    mission(NOW)
    until(lambda: waiting() == {"pending": 0, "dead": 1}, "it was given up")
    assert alive_with_environment("TEST_NOTIFIED", mark) == [home.processes[-1].pid]
    assert "command_timeout_seconds" in errors()[0]
    assert "gone wrong" in errors()[0]


def test_killing_the_command_alone_would_leave_them(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    mark = command(home, LINGERING, monkeypatch, "command_timeout_seconds = 0.5\nmax_attempts = 1\n")
    keeper(home, mutants="kills-the-command-alone")
    mission(NOW)
    until(lambda: waiting() == {"pending": 0, "dead": 1}, "it was given up")
    left = set(alive_with_environment("TEST_NOTIFIED", mark)) - {home.processes[-1].pid}
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left


def test_a_killed_keeper_leaves_no_command_and_its_next_life_tells_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = home.targets / "told"
    mark = command(home, f"echo $VP_EVENT_ID >> {told}; test -e {told}.go || sleep 600", monkeypatch, ENDS)
    killed = keeper(home)
    mission(NOW)
    until(told.exists, "the command runs")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    until(lambda: alive_with_environment("TEST_NOTIFIED", mark) == [], "nothing of it is left")
    Path(f"{told}.go").touch()
    keeper(home)
    until(lambda: waiting() == {"pending": 0, "dead": 0}, "it was told")
    first, second = told.read_text().split()
    assert first == second


def test_what_was_given_up_is_told_when_somebody_asks_for_it(home: Home) -> None:
    with listening(Receiver(script=(status(410), status(204)))) as made:
        configure(home, made.table)
        keeper(home)
        failed = mission(NOW, Status.FAILED)
        until(lambda: waiting()["dead"] == 1, "410 is given up at once")
        assert len(made.received) == 1
        assert home.start("vp", "notify", "retry", "--all").wait(30) == 0
        until(lambda: len(made.received) == 2, "it is told again")
        until(lambda: waiting() == {"pending": 0, "dead": 0}, "and noted")
        assert made.told() == [("mission.failed", failed)] * 2
        assert made.received[0].id == made.received[1].id
