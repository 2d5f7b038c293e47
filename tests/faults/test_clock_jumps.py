"""The wall clock jumps a day, either way, under running processes: leases hold, due times follow it, order stays.

libfaketime gives real consumers, keepers and CLI calls a wall clock that a file moves; CLOCK_MONOTONIC and
CLOCK_BOOTTIME stay as they are, as on a machine whose date is set.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.harness import BIN, CODER, GENERAL, Home, ended, events, exited, ok, shell, until
from vp_queue import clock, missions, tools
from vp_queue.ledger import database
from vp_queue.ledger.models import Attempt, Event

WAITING = "until test -e ../go; do sleep 0.05; done"
DAY = timedelta(days=1)
SLEEP = "relative-sleep"


class MovedClock:
    """The wall clock of the processes that are started with its ``environment``."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        self.move("+0")

    def move(self, offset: str) -> None:
        """Set it, relative to the real time: ``+1d``, ``-1d``."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(offset + "\n")
        fresh.replace(self._file)


@pytest.fixture
def moved(tmp_path: Path) -> MovedClock:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("needs libfaketime: apt-get install libfaketime")
    return MovedClock(library, tmp_path / "offset")


def started(home: Home, moved: MovedClock, keeper_mutants: str = "") -> list[subprocess.Popen[bytes]]:
    """A consumer and a keeper on that clock."""
    consumer = home.start("huey_consumer", "vp_queue.tasks.app.huey", mutants=SLEEP, VP_ID=GENERAL, **moved.environment)
    keeper = home.start("vp", "keeper", mutants=f"{SLEEP}{keeper_mutants}", **moved.environment)
    until(lambda: missions.keepers() or exited(keeper), "the keeper registered")
    return [consumer, keeper]


def seen_by_all(mission_id: str, offset: timedelta, probe: Callable[[], None]) -> None:
    """Return when worker and keeper have worked under the moved clock."""

    def beats() -> bool:
        attempt = Attempt.get(Attempt.mission == mission_id)
        return abs(attempt.heartbeat_at - datetime.now(UTC) - offset) < timedelta(minutes=5)

    until(beats, "the worker's heartbeat shows the new time")
    probe()


@pytest.fixture
def keeper_sweeps(home: Home) -> Callable[[], None]:
    """Returns when the keeper has swept twice since it was called: it writes a lost queue row again."""
    missions.ready()
    spare = shell("true", vp_id=CODER)["mission_id"]  # nobody consumes these

    def sweeps() -> None:
        with database.write_transaction():
            database.current().db.execute_sql("DELETE FROM task WHERE queue = ?", (CODER,))
        row = "SELECT 1 FROM task WHERE queue = ? AND instr(CAST(data AS TEXT), ?)"
        until(
            lambda: database.current().db.execute_sql(row, (CODER, spare)).fetchall(), "the keeper writes the lost row"
        )

    return sweeps


def test_the_library_moves_the_wall_clock_and_no_other(moved: MovedClock) -> None:
    moved.move("+1d")
    look = "import time; print(time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME))"
    before = time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
    out = subprocess.check_output([sys.executable, "-c", look], env=moved.environment, text=True)
    wall, monotonic, boottime = (float(number) for number in out.split())
    assert abs(wall - time.time() - DAY.total_seconds()) < 300
    assert before[0] <= monotonic < before[0] + 300
    assert before[1] <= boottime < before[1] + 300


def test_a_running_mission_keeps_its_lease_while_the_wall_clock_jumps_a_day_either_way(
    home: Home, moved: MovedClock, keeper_sweeps: Callable[[], None]
) -> None:
    home.configure(lease_seconds=5)
    processes = started(home, moved)
    mission_id = shell(WAITING, max_attempts=2)["mission_id"]
    until(lambda: home.workspace(mission_id).exists(), "it runs")
    for offset, jump in (("+1d", DAY), ("-1d", -DAY), ("+0", timedelta())):
        moved.move(offset)
        seen_by_all(mission_id, jump, keeper_sweeps)
        listed = vp(home, moved, "get", mission_id)
        assert listed["mission"]["status"] == "running", f"after {offset}"
        assert listed["mission"]["duration_seconds"] >= 0
    (home.workspace(mission_id).parent / "go").touch()
    assert ended(mission_id)["status"] == "completed"
    assert events(mission_id) == ["mission.dispatched", "mission.started", "mission.completed"]
    assert all(process.poll() is None for process in processes)
    rest(home, mission_id)


def vp(home: Home, moved: MovedClock, *arguments: str) -> dict[str, Any]:
    """A command's JSON, under the moved clock."""
    out = subprocess.check_output(
        [str(BIN / "vp"), *arguments, "--json"], env={**home.environment, **moved.environment}
    )
    return ok(json.loads(out))


def rest(home: Home, *acknowledged: str) -> None:
    """Nothing is left of what nobody consumes, and the promise holds."""
    for mission in ok(tools.vp_list_missions(vp_id=CODER, status="queued"))["missions"]:
        tools.vp_cancel_mission(mission_id=mission["mission_id"])
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", list(acknowledged))


def test_due_times_follow_the_wall_clock_and_what_is_due_stays_due_when_it_is_set_back(
    home: Home, moved: MovedClock
) -> None:
    started(home, moved)
    tomorrow = clock.as_text(clock.now() + timedelta(hours=20))
    at_its_time = shell("true", not_before=tomorrow)["mission_id"]
    too_late = shell("true", not_before=tomorrow, expires_at=clock.as_text(clock.now() + timedelta(hours=30)))
    never = shell("true", vp_id=CODER, expires_at=tomorrow)["mission_id"]
    moved.move("+1d")
    assert ended(at_its_time)["status"] == "completed"
    assert ended(too_late["mission_id"])["status"] == "completed"
    assert ended(never)["status"] == "expired"
    # Dispatched by a clock of tomorrow, run by one of yesterday.
    dispatched = vp(
        home, moved, "dispatch", GENERAL, "x", "--type", "command", "--constraints", '{"command": ["true"]}'
    )
    moved.move("-1d")
    again = vp(home, moved, "dispatch", GENERAL, "y", "--type", "command", "--constraints", '{"command": ["true"]}')
    ids = [answer["mission"]["mission_id"] for answer in (dispatched, again)]
    for mission_id in ids:
        assert ended(mission_id)["status"] == "completed"
    # The events' times jumped; their order did not.
    rows = list(Event.select().where(Event.mission.in_([at_its_time, *ids])).order_by(Event.seq))
    times = [row.at for row in rows]
    assert times != sorted(times), "the clock did jump"
    for mission_id in (at_its_time, *ids):
        kinds = [row.type for row in rows if row.mission_id == mission_id]
        assert kinds == ["mission.dispatched", "mission.started", "mission.completed"]
    rest(home, at_its_time, too_late["mission_id"], never, *ids)


def test_control_a_lease_by_the_wall_clock_is_lost_by_the_jump(
    home: Home, moved: MovedClock, keeper_sweeps: Callable[[], None]
) -> None:
    started(home, moved, keeper_mutants=",lease-by-wall-clock")
    mission_id = shell(WAITING)["mission_id"]
    until(lambda: home.workspace(mission_id).exists(), "it runs")
    keeper_sweeps()
    moved.move("+1d")
    lost = ended(mission_id)
    assert (lost["status"], lost["failure"]["code"]) == ("failed", "worker_lost")
