"""One attempt, run in this process with a real program: what late signals and broken steps must not do."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests import oracle
from tests.harness import GENERAL, Home, events, ok, shell, until
from vp_queue import missions, tools
from vp_queue.contracts import limits
from vp_queue.executors.base import Stopped
from vp_queue.ledger import database
from vp_queue.queue.huey import huey_for
from vp_queue.worker import artifacts, control, process
from vp_queue.worker.attempt import StopReason
from vp_queue.worker.consumer import MissionWorker


@pytest.fixture
def worker(home: Home) -> Iterator[MissionWorker]:
    settings = missions.ready()
    made = MissionWorker(settings, settings.profile(GENERAL))
    yield made
    made.close()
    atexit.unregister(made.close)
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")


def run(worker: MissionWorker, mission: dict[str, Any]) -> dict[str, Any]:
    """Run the mission's next attempt here; the mission as it is then."""
    worker.run(mission["mission_id"], mission["attempt"] + 1)
    done: dict[str, Any] = ok(tools.vp_get_mission(mission_id=mission["mission_id"]))["mission"]
    return done


def test_a_stop_that_comes_while_artifacts_are_collected_does_not_excuse_missing_evidence(
    worker: MissionWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = artifacts.collect

    def interrupted(*arguments: Any, **named: Any) -> artifacts.Collection:
        worker._running[0].stop(StopReason.INTERRUPTED)
        return collect(*arguments, **named)

    monkeypatch.setattr(artifacts, "collect", interrupted)
    done = run(worker, shell("true", constraints={"require_artifacts": ["report.md"]}))
    assert (done["status"], done["failure"]["code"]) == ("failed", "evidence_missing")


def test_whatever_breaks_at_the_end_the_mission_ends_and_is_not_run_again(
    worker: MissionWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **named: Any) -> None:
        raise ValueError("something nobody thought of")

    monkeypatch.setattr(artifacts, "collect", broken)
    done = run(worker, shell("true"))
    assert (done["status"], done["failure"]["code"]) == ("failed", "executor_error")
    assert "something nobody thought of" in done["failure"]["message"]


@pytest.mark.parametrize("reason", [StopReason.INTERRUPTED, StopReason.TIMEOUT])
def test_a_program_that_ended_in_time_is_done_whatever_comes_while_its_leftovers_end(
    worker: MissionWorker, home: Home, reason: StopReason
) -> None:
    mission = shell("(trap '' TERM; touch ../deaf; sleep 600) & while ! test -e ../deaf; do sleep 0.01; done; exit 0")

    def stop_late() -> None:
        until(lambda: worker._running, "it runs")
        running = worker._running[0]
        ended = control.ProgramControl.stop_reason  # what the runner asks at the end
        assert ended is not None
        until(lambda: (home.workspace(mission["mission_id"]).parent / "deaf").exists(), "the leftover is deaf")
        threading.Event().wait(0.5)  # the program exits at once; its leftover has two seconds
        running.stop(reason)

    late = threading.Thread(target=stop_late)
    late.start()
    done = run(worker, mission)
    late.join()
    assert (done["status"], done["attempts_charged"]) == ("completed", 1)


def test_progress_goes_on_after_an_attempt_had_its_share_of_events(
    worker: MissionWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PROGRESS_EVENTS_PER_ATTEMPT", 2)
    monkeypatch.setattr(limits, "PROGRESS_INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(control, "LATER_PROGRESS_SECONDS", 0.01)
    mission = shell("for i in 1 2 3 4 5 6; do echo '{\"message\": \"step '$i'\"}' >&3; sleep 0.1; done")
    done = run(worker, mission)
    assert done["progress"]["message"] == "step 6"
    assert events(mission["mission_id"]).count("mission.progress") == 2


def test_a_limit_of_thirty_days_is_no_problem(home: Home) -> None:
    config = home.path / "vp_queue.toml"
    table = '[vp."vp.general.primary"]\n'
    config.write_text(config.read_text().replace(table, table + "max_timeout_seconds = 2592000\n"))
    settings = missions.ready()
    made = MissionWorker(settings, settings.profile(GENERAL))
    try:
        done = run(made, shell("sleep 0.2", budget={"max_duration_seconds": 2592000}))
    finally:
        made.close()
        atexit.unregister(made.close)
    assert done["status"] == "completed"


def test_the_budget_is_the_missions_not_the_attempts(worker: MissionWorker) -> None:
    script = 'echo \'{"usage": {"cost_usd": 0.6}}\' >&3; exit 1'
    mission = shell(script, budget={"max_cost_usd": 1}, max_attempts=3)
    first = run(worker, mission)
    assert (first["status"], first["usage"]["cost_usd"]) == ("queued", 0.6)
    until(lambda: run(worker, first)["attempt"] == 2, "the back-off is over")
    done = ok(tools.vp_get_mission(mission_id=mission["mission_id"]))["mission"]
    assert (done["status"], done["failure"]["code"]) == ("failed", "budget_exhausted")
    assert "1.2 US dollars" in done["failure"]["message"]


def test_an_executor_that_stops_untold_has_not_succeeded(
    worker: MissionWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Quitter:
        def run(self, *_: Any) -> None:
            raise Stopped

    monkeypatch.setattr("vp_queue.executors.registry.executor", lambda _: Quitter())
    done = run(worker, shell("true"))
    assert (done["status"], done["failure"]["code"]) == ("failed", "executor_error")


def test_a_stopping_worker_claims_nothing_more(worker: MissionWorker) -> None:
    worker.stop_all()
    mission = shell("true")
    assert run(worker, mission)["status"] == "queued"
    assert events(mission["mission_id"]) == ["mission.dispatched"]


def test_a_secret_is_redacted_before_a_text_is_cut(worker: MissionWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setattr("vp_queue.worker.environment._SECRET_NAME", __import__("re").compile("HOME"))
    monkeypatch.setenv("HOME", "s3cr3t-value-of-some-length")
    start = "x" * (limits.PROGRESS_MESSAGE_CHARS - 5)
    done = run(worker, shell(f'echo "{{\\"message\\": \\"{start}$HOME\\"}}" >&3'))
    assert "s3c" not in done["progress"]["message"]


def test_between_wake_up_and_program_only_the_claim_waits_for_the_disk(
    worker: MissionWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wait is several ms on a busy disk. What a power cut may undo is told in ADR 0020."""
    committed: list[bool] = []
    begin = database.write_transaction

    def noted(*, synced: bool = True) -> Any:
        committed.append(synced)
        return begin(synced=synced)

    released = process.LaunchedProgram.release

    def release(launched: process.LaunchedProgram) -> None:
        started.extend(committed)
        released(launched)

    started: list[bool] = []
    mission = shell("true")
    worker.start()
    monkeypatch.setattr(worker._leases, "_beat", lambda: None)
    monkeypatch.setattr(database, "write_transaction", noted)
    monkeypatch.setattr(process.LaunchedProgram, "release", release)
    assert huey_for(GENERAL).storage.dequeue() is not None
    assert run(worker, mission)["status"] == "completed"
    assert started == [False, True, False], "taking the wake-up, the claim, who the program is"
    assert committed[3:] == [True], "the end"
