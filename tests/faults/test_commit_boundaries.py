"""SIGKILL just before and just after every commit of a mission's life, in the real process that makes it.

Whoever died is started again as supervisord would; then the mission must come to its end, each lifecycle event
recorded once, and its program must never have run twice at once: it looks for that itself, by a lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.harness import GENERAL, ROOT, Home, alive_with_environment, ended, events, shell, status, until
from tests.mutants.failpoints import COMMITS, VARIABLE
from vp_queue import clock, missions, tools

SIDES = ("before", "after")
# Keeps a lock while it runs; notes each start, and whether another still held the lock.
GUARDED = "exec 9>>../lock; flock -n 9 || echo $VP_ATTEMPT >> ../overlaps; echo $VP_ATTEMPT >> ../starts; "
FIRST = "test $VP_ATTEMPT -ge 2 || "
# What `make test` has time for; all of them are in the long mode.
IN_SHORT = {
    ("dispatch", "before"),
    ("dispatch", "after"),
    ("spawned", "after"),
    ("complete", "before"),
    ("complete", "after"),
    ("take over", "after"),
}


def cases(*names: str) -> list[Any]:
    """Both sides of these commits; what is not in the short mode is marked slow."""
    return [
        pytest.param(name, side, id=f"{side} {name}", marks=() if (name, side) in IN_SHORT else pytest.mark.slow)
        for name in names
        for side in SIDES
    ]


class Mission:
    """One mission whose program watches itself."""

    def __init__(self, home: Home, script: str = "true", **arguments: Any) -> None:
        arguments.setdefault("max_attempts", 3)
        self.home, self.mission_id = home, shell(GUARDED + script, **arguments)["mission_id"]

    @property
    def starts(self) -> list[int]:
        """The attempts whose program began."""
        return self._numbers("starts")

    def _numbers(self, name: str) -> list[int]:
        file = self.home.workspace(self.mission_id).parent / name
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def until_it_runs(self) -> None:
        until(lambda: self.starts, "its program runs")

    def check(self, expected: str) -> None:
        """It has ended so, once, and its program never ran twice at once."""
        assert ended(self.mission_id)["status"] == expected
        self.home.close()
        assert self._numbers("overlaps") == [], "it ran twice at once"
        assert self.starts == sorted(set(self.starts)), "an attempt's program was started twice"
        oracle.check(self.home.database, self.home.path / "AGENT_RUN_WORKSPACES", [self.mission_id], rescued=True)


def dying(home: Home, at: str, *argv: str, mutants: str = "failpoint", **extra: str) -> subprocess.Popen[bytes]:
    """A real program that kills itself at a commit."""
    return home.start(*argv, mutants=mutants, **{VARIABLE: at, **extra})


def dying_consumer(home: Home, at: str) -> subprocess.Popen[bytes]:
    return dying(home, at, "huey_consumer", "vp_queue.tasks.app.huey", VP_ID=GENERAL)


def died(process: subprocess.Popen[bytes]) -> None:
    """It has killed itself where it was to."""
    assert process.wait(60) == -signal.SIGKILL


# --- the dispatcher -----------------------------------------------------------------------------

DISPATCH = ("vp", "dispatch", GENERAL, "a command", "--type", "command", "--key", "one")


def dispatched_twice(home: Home, at: str, mutants: str) -> tuple[dict[str, Any], int]:
    """A dispatch that dies at a commit, and its repetition by whoever heard no answer: that answer, and how many."""
    argv = (*DISPATCH, "--constraints", json.dumps({"command": ["true"]}))
    died(dying(home, at, *argv, mutants=mutants))
    answer = tools.vp_dispatch_mission(
        vp_id=GENERAL,
        objective="a command",
        mission_type="command",
        constraints={"command": ["true"]},
        idempotency_key="one",
    )
    return answer, len(tools.vp_list_missions()["missions"])


@pytest.mark.parametrize(("name", "side"), cases("dispatch"))
def test_a_dispatcher_killed_at_its_commit_may_simply_ask_again(home: Home, name: str, side: str) -> None:
    answer, how_many = dispatched_twice(home, f"{name}:{side}", "failpoint")
    assert (answer["created"], how_many) == (side == "before", 1)
    home.consumer()
    mission_id = answer["mission"]["mission_id"]
    assert ended(mission_id)["status"] == "completed"
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [mission_id])


def test_control_a_key_written_by_a_second_commit_is_lost_between_the_two(home: Home) -> None:
    _, how_many = dispatched_twice(home, "dispatch:after", "key-in-a-transaction-of-its-own,failpoint")
    assert how_many == 2, "the repetition made a second mission"


def test_control_a_tally_written_by_a_second_commit_misses_what_died_between_the_two(home: Home) -> None:
    dispatched_twice(home, "dispatch:after", "failpoint,counts-after-the-commit")
    with pytest.raises(AssertionError, match=r"counted less than there is: .*'event:mission.dispatched'\): \(0, 1\)"):
        oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")


@pytest.mark.parametrize(("name", "side"), cases("cancel"))
def test_a_canceller_killed_at_its_commit_may_simply_ask_again(home: Home, name: str, side: str) -> None:
    mission = Mission(home)
    died(dying(home, f"{name}:{side}", "vp", "cancel", mission.mission_id))
    assert status(mission.mission_id) == ("queued" if side == "before" else "cancelled")
    assert tools.vp_cancel_mission(mission_id=mission.mission_id)["changed"] == (side == "before")
    mission.check("cancelled")
    assert mission.starts == []


# --- the consumer -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "side"), cases("register", "dequeue", "claim", "spawned", "complete"))
def test_a_consumer_killed_at_a_commit_of_a_plain_run(home: Home, name: str, side: str) -> None:
    home.keeper()
    mission = Mission(home)
    died(dying_consumer(home, f"{name}:{side}"))
    home.consumer()
    mission.check("completed")
    lost = name == "spawned" or (name, side) in (("claim", "after"), ("complete", "before"))
    assert mission.starts == ([1, 2] if (name, side) == ("complete", "before") else [2] if lost else [1])


@pytest.mark.parametrize(("name", "side"), cases("progress", "heartbeat", "fail"))
def test_a_consumer_killed_at_a_commit_while_its_program_runs(home: Home, name: str, side: str) -> None:
    home.configure(lease_seconds=1.5)
    home.keeper()
    act = {"progress": """{ echo '{"progress": 0.5}' >&3; sleep 600; }""", "heartbeat": "sleep 600", "fail": "exit 3"}
    mission = Mission(home, FIRST + act[name])
    died(dying_consumer(home, f"{name}:{side}"))
    home.consumer()
    mission.check("completed")
    assert mission.starts[-1] == 2


@pytest.mark.parametrize(("name", "side"), cases("cancelled"))
def test_a_consumer_killed_at_the_commit_of_a_cancel(home: Home, name: str, side: str) -> None:
    home.keeper()
    mission = Mission(home, "sleep 600")
    consumer = dying_consumer(home, f"{name}:{side}")
    mission.until_it_runs()
    assert tools.vp_cancel_mission(mission_id=mission.mission_id)["changed"]
    died(consumer)
    mission.check("cancelled")
    assert mission.starts == [1]


@pytest.mark.parametrize(("name", "side"), cases("release"))
def test_a_consumer_killed_at_the_commit_of_a_release(home: Home, name: str, side: str) -> None:
    home.keeper()
    mission = Mission(home, FIRST + "sleep 600")
    consumer = dying_consumer(home, f"{name}:{side}")
    mission.until_it_runs()
    consumer.terminate()
    died(consumer)
    home.consumer()
    mission.check("completed")
    told = events(mission.mission_id)
    assert ("mission.released" in told, "mission.retrying" in told) == (side == "after", side == "before")


# --- the keeper ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "side"), cases("take over", "lose", "worker lost"))
def test_a_keeper_killed_at_a_commit_of_a_rescue(home: Home, name: str, side: str) -> None:
    mission = Mission(home, FIRST + "{ trap '' TERM; while :; do sleep 1; done; }")
    consumer = home.consumer()
    mission.until_it_runs()
    keeper = dying(home, f"{name}:{side}", "vp", "keeper")
    until(missions.keepers, "the keeper registered")
    consumer.kill()
    died(keeper)
    home.keeper()
    home.consumer()
    mission.check("completed")
    assert mission.starts == [1, 2]


def test_control_a_rescue_that_does_not_kill_lets_the_program_run_twice_at_once(home: Home) -> None:
    mission = Mission(home, FIRST + "{ trap '' TERM; while :; do sleep 1; done; }")
    consumer = home.consumer()
    mission.until_it_runs()
    from vp_queue.ledger.models import Attempt

    launcher = Attempt.get(Attempt.mission == mission.mission_id).executor["launcher_pid"]
    os.kill(launcher, signal.SIGSTOP)  # or it would itself end what its dead worker left
    try:
        home.keeper(mutants="no-kill-before-requeue")
        consumer.kill()
        home.consumer(mutants="no-kill-before-requeue")  # it rescues at its start too, and may be the first
        with pytest.raises(AssertionError, match=r"twice at once|live"):
            mission.check("completed")
    finally:
        os.kill(launcher, signal.SIGCONT)
        for pid in alive_with_environment("VP_MISSION_ID", mission.mission_id):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("name", "side"), cases("expire", "wake up"))
def test_a_keeper_killed_at_a_commit_of_what_becomes_due(home: Home, name: str, side: str) -> None:
    soon = clock.as_text(clock.now() + timedelta(seconds=1))
    mission = Mission(home, **({"expires_at": soon} if name == "expire" else {"not_before": soon}))
    died(dying(home, f"{name}:{side}", "vp", "keeper"))
    home.keeper()
    if name == "wake up":
        home.consumer()
    mission.check("expired" if name == "expire" else "completed")


def test_every_commit_has_its_two_tests() -> None:
    text = Path(__file__).read_text()
    for name in COMMITS:
        assert f'"{name}"' in text, f"no test kills at {name}"


# --- in the midst of a commit -------------------------------------------------------------------

TWO_DISPATCHES = """
import os
from vp_queue import tools
for number in range(2):
    answer = tools.vp_dispatch_mission(vp_id="vp.general.primary", objective="x" * 9000, mission_type="command",
                                       constraints={"command": ["true"]})
    os.write(1, (answer["mission"]["mission_id"] + "\\n").encode())
"""


def killed_at_write(home: Home, number: int) -> tuple[list[str], int]:
    """Two dispatches, SIGKILLed at this write to the ledger's files: what was acknowledged, and the status."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace: apt-get install strace")
    inject = f"inject=pwrite64:signal=SIGKILL:when={number}"
    ran = subprocess.run(
        [
            strace,
            "-f",
            "-qq",
            "-o",
            os.devnull,
            "-e",
            "trace=pwrite64",
            "-e",
            inject,
            sys.executable,
            "-c",
            TWO_DISPATCHES,
        ],
        env=home.environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    return ran.stdout.decode().split(), ran.returncode


def sweep_of_writes(home: Home, numbers: range) -> int:
    """Kill at each of these writes, judge, and say how many dispatches were killed."""
    first = shell("true")["mission_id"]
    acknowledged, killed = [first], 0
    for number in numbers:
        more, code = killed_at_write(home, number)
        acknowledged += more
        killed += code != 0
        oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", acknowledged, live=False)
    home.consumer()
    home.keeper()
    for mission_id in acknowledged:
        assert ended(mission_id)["status"] == "completed"
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", acknowledged)
    return killed


def test_a_dispatcher_killed_at_a_write_within_its_commit_loses_nothing_acknowledged(home: Home) -> None:
    assert sweep_of_writes(home, range(1, 60, 9)) > 0


@pytest.mark.slow
def test_a_dispatcher_killed_at_each_write_within_its_commits(home: Home) -> None:
    assert sweep_of_writes(home, range(1, 121)) > 0
