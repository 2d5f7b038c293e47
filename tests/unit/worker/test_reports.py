"""What a program reports of its own failure: when it counts, and what is taken of it."""

from __future__ import annotations

import atexit
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.harness import GENERAL, Home, ok, shell
from vp_queue import missions, tools
from vp_queue.contracts import limits
from vp_queue.worker.consumer import MissionWorker

Fail = Callable[..., dict[str, Any]]


@pytest.fixture
def reported(home: Home) -> Iterator[Fail]:
    """Run a program that writes these reports and exits so."""
    settings = missions.ready()
    worker = MissionWorker(settings, settings.profile(GENERAL))

    def run(*reports: object, status: int = 1) -> dict[str, Any]:
        lines = "\n".join(json.dumps(report) for report in reports)
        mission = shell(f"cat >&3 reports; exit {status}", constraints={"files": {"reports": lines + "\n"}})
        worker.run(mission["mission_id"], 1)
        done: dict[str, Any] = ok(tools.vp_get_mission(mission_id=mission["mission_id"]))["mission"]
        return done

    yield run
    worker.close()
    atexit.unregister(worker.close)


def failure(code: object, message: object = "why") -> dict[str, Any]:
    return {"failure": {"code": code, "message": message}}


def test_it_is_the_missions_failure_if_the_program_then_fails(reported: Fail) -> None:
    done = reported(failure("auth", "log in again"), status=7)
    assert done["failure"] | {"log_tail": None} == {
        "code": "auth",
        "message": "log in again",
        "attempt": 1,
        "exit_code": 7,
        "log_tail": None,
    }


def test_a_program_that_succeeds_has_not_failed(reported: Fail) -> None:
    assert reported(failure("auth"), status=0)["status"] == "completed"


def test_the_last_one_counts(reported: Fail) -> None:
    assert reported(failure("auth"), failure("rate_limited"))["failure"]["code"] == "rate_limited"


@pytest.mark.parametrize(
    "report",
    [
        failure("made_up"),
        failure("timeout"),  # the worker's own finding, not the program's
        failure("worker_lost"),
        failure("AUTH"),
        failure(None),
        failure("auth", None),
        failure("auth", 3),
        {"failure": "auth"},
        {"failure": None},
        {"failure": ["auth", "why"]},
    ],
)
def test_nonsense_is_passed_over(reported: Fail, report: object) -> None:
    assert reported(report)["failure"]["code"] == "exit_nonzero"


def test_its_message_is_bounded_and_harmless(reported: Fail) -> None:
    message = reported(failure("refused", "\0" + "x" * 10_000))["failure"]["message"]
    assert len(message) <= limits.FAILURE_MESSAGE_CHARS
    assert "\0" not in message
