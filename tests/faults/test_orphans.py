"""supervisord dies while what it has just started still imports: no consumer stays that no `vp down` knows.

Found by the fault campaign: a supervisord killed within half a second of its start left its consumers working.
"""

from __future__ import annotations

import subprocess

import pytest

from tests import oracle
from tests.harness import CODER, GENERAL, Home, ended, exited, shell, until, worker_pids
from vp_queue import missions

CONSUMER = ("huey_consumer", "vp_queue.tasks.app.huey")
PROGRAMS = [(GENERAL, CONSUMER), ("keeper", ("vp", "keeper"))]


def orphan(home: Home, name: str, argv: tuple[str, ...], mutants: str = "") -> subprocess.Popen[bytes]:
    """A program as supervisord starts it, when supervisord has died already."""
    extra = {"SUPERVISOR_ENABLED": "1", "SUPERVISOR_PROCESS_NAME": name}
    return home.start(*argv, mutants=mutants, **extra, **({} if name == "keeper" else {"VP_ID": name}))


@pytest.mark.parametrize(("name", "argv"), PROGRAMS)
def test_a_program_whose_supervisord_died_before_it_was_ready_ends(
    home: Home, name: str, argv: tuple[str, ...]
) -> None:
    process = orphan(home, name, argv)
    until(lambda: process.poll() is not None, "it ended")
    assert missions.worker_pids() == set()


@pytest.mark.parametrize(("name", "argv"), PROGRAMS)
def test_control_without_the_guard_it_works_on(home: Home, name: str, argv: tuple[str, ...]) -> None:
    process = orphan(home, name, argv, "outlives-supervisord")
    until(lambda: process.pid in missions.worker_pids() or exited(process), "it works")


def test_what_a_supervised_shell_started_is_left_alone(home: Home) -> None:
    process = home.start(*CONSUMER, VP_ID=CODER, SUPERVISOR_ENABLED="1", SUPERVISOR_PROCESS_NAME="my-shell")
    until(lambda: process.pid in worker_pids(CODER) or exited(process), "it works")
    mission_id = shell("true", vp_id=CODER)["mission_id"]
    assert ended(mission_id)["status"] == "completed"
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [mission_id], rescued=True)
