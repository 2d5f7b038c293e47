"""The regression of the earlier system: missions in every state, listed under any TZ, with right durations."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.harness import Home, command, ok
from vp_queue import clock, tools
from vp_queue.contracts import FailureCode, Status
from vp_queue.ledger import database, leases, transitions
from vp_queue.ledger.transitions import Claim, Ending, Failure, WorkerIdentity

ZONES = ("UTC", "America/New_York", "Asia/Kolkata")
TIMES = ("created_at", "queued_at", "started_at", "finished_at", "not_before", "expires_at")
RAN_SECONDS = 90.25

LIST = """
import json, time
from datetime import UTC, datetime
from vp_queue import clock, tools
class Still(clock.SystemClock):
    def now(self):
        return datetime.fromisoformat("{now}").astimezone(UTC)
with clock.use(Still()):
    answers = [tools.vp_list_missions()]
    for mission in answers[0]["missions"]:
        answers.append(tools.vp_get_mission(mission_id=mission["mission_id"]))
        answers.append(tools.vp_wait_mission(mission_id=mission["mission_id"], timeout_seconds=0))
        answers.append(tools.vp_read_result_artifacts(mission_id=mission["mission_id"]))
    answers.append(tools.vp_read_events(reader="simone"))
    answers.append(tools.vp_list_vps())
print(json.dumps([time.strftime("%z"), answers]))
"""


class Hand(clock.SystemClock):
    """A wall clock moved by hand, in a summer night when New York is not on standard time."""

    def __init__(self) -> None:
        self.instant = datetime(2030, 7, 1, 23, 30, tzinfo=UTC)

    def now(self) -> datetime:
        return self.instant


@pytest.fixture
def hand() -> Iterator[Hand]:
    made = Hand()
    with clock.use(made):
        yield made


def claimed(mission_id: str) -> Claim:
    with database.write_transaction() as tx:
        landed = transitions.claim(tx, mission_id, 1, WorkerIdentity("w-1", "host", clock.host_identity()), 30)
    assert landed is not None
    return landed[1]


def one_of_each(hand: Hand) -> dict[str, str]:
    """Status → id of a mission in it; those that ended after a start ran for RAN_SECONDS."""
    made = {
        str(status): command("true", expires_at="2030-07-02T12:00:00+05:30")["mission_id"]
        for status in Status
        if status != Status.EXPIRED
    }
    made["expired"] = command("true", expires_at=clock.as_text(hand.instant + timedelta(seconds=1)))["mission_id"]
    # Not yet due, across a day's and a zone's border.
    made["not due"] = command("true", not_before="2030-07-02T09:00:00-04:00")["mission_id"]
    hand.instant += timedelta(seconds=10)
    claims = {name: claimed(made[name]) for name in ("running", "needs_input", "completed", "failed", "cancelled")}
    with database.write_transaction() as tx:
        transitions.ask(tx, claims["needs_input"], "which?", ["a"], hand.instant + timedelta(hours=1))
        leases.progress(tx, claims["running"], 0.5, "half")
        transitions.expire(tx, made["expired"])
    hand.instant += timedelta(seconds=RAN_SECONDS)
    with database.write_transaction() as tx:
        transitions.complete(tx, claims["completed"], Ending(exit_code=0, result="done"))
        failure = Failure(FailureCode.EXIT_NONZERO, "no", 1)
        transitions.fail(tx, claims["failed"], failure, Ending(exit_code=1), backoff_seconds=0)
        transitions.cancelled(tx, claims["cancelled"], Ending())
    return made


def times(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every instant in an answer, with its key."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from times(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from times(item, name)
    elif isinstance(value, str) and (name == "at" or name.endswith("_at") or name == "not_before"):
        yield name, value


@pytest.mark.parametrize("zone", ZONES)
def test_missions_in_every_state_are_listed_alike_in_every_zone(home: Home, hand: Hand, zone: str) -> None:
    made = one_of_each(hand)
    expected = ok(tools.vp_list_missions())
    now = clock.as_text(hand.instant)
    ran = subprocess.run(
        [sys.executable, "-c", LIST.replace("{now}", now)],
        env={**home.environment, "TZ": zone},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    offset, answers = json.loads(ran.stdout)
    assert (offset == "+0000") == (zone == "UTC"), "the zone was really in force"
    assert all(answer["ok"] for answer in answers), answers
    assert answers[0] == expected
    by_id = {mission["mission_id"]: mission for mission in answers[0]["missions"]}
    durations = {name: by_id[mission_id]["duration_seconds"] for name, mission_id in made.items()}
    assert durations == {
        "queued": None,
        "not due": None,
        "expired": None,
        "running": RAN_SECONDS,
        "needs_input": RAN_SECONDS,
        "completed": RAN_SECONDS,
        "failed": RAN_SECONDS,
        "cancelled": RAN_SECONDS,
    }
    assert by_id[made["not due"]]["not_before"] == "2030-07-02T13:00:00Z"
    assert by_id[made["queued"]]["expires_at"] == "2030-07-02T06:30:00Z"
    found = [pair for answer in answers for pair in times(answer)]
    assert {name for name, _ in found} >= {*TIMES, "at", "asked_at", "deadline_at", "ended_at"}
    assert [pair for pair in found if not pair[1].endswith("Z")] == []


@pytest.mark.parametrize("zone", ZONES)
def test_a_dispatch_in_any_zone_means_the_same_instant(home: Home, zone: str) -> None:
    script = (
        "import json\nfrom vp_queue import tools\n"
        "print(json.dumps(tools.vp_dispatch_mission(vp_id='vp.general.primary', objective='x',"
        " not_before='2031-03-30T02:30:00+01:00', expires_at='2031-03-30T03:30:00+02:00',"
        " idempotency_key='one')))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], env={**home.environment, "TZ": zone}, capture_output=True, text=True
    )
    # 01:30 UTC both: the second is not later than the first, so it is refused everywhere alike.
    answer = json.loads(ran.stdout)
    assert answer["error"]["details"]["field"] == "expires_at"
    ran = subprocess.run(
        [sys.executable, "-c", script.replace("03:30:00", "04:30:00")],
        env={**home.environment, "TZ": zone},
        capture_output=True,
        text=True,
    )
    mission = json.loads(ran.stdout)["mission"]
    assert (mission["not_before"], mission["expires_at"]) == ("2031-03-30T01:30:00Z", "2031-03-30T02:30:00Z")
