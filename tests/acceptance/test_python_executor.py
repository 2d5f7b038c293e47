"""Executor ``python``: a callable carries out the mission, in a process of the launcher's."""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.harness import GENERAL, Home, alive_with_environment, ended, ok, refused, until
from vp_queue import missions, tools
from vp_queue.worker.consumer import MissionWorker

Perform = Callable[..., dict[str, Any]]

JOBS = """
import ctypes, json, os, subprocess, sys, time
from vp_queue.executors.context import MissionContext, MissionFailed

NOT_CALLABLE = 3


def describe(mission: MissionContext) -> str:
    mission.report(fraction=0.25, message="a quarter", usage={"turns": 2, "cost_usd": 0.5})
    print("to the log")
    print("and errors too", file=sys.stderr)
    told = {name: str(value) for name, value in vars(mission).items() if name != "cancelled"}
    told.update(pid=os.getpid(), parent=os.getppid(), cwd=os.getcwd(), variables=sorted(os.environ))
    told["files"] = sorted(os.listdir(mission.workspace))
    (mission.work_products / "told.json").write_text(json.dumps(told))
    return "described"


class Group:
    @staticmethod
    def member(mission):
        return "a member"


def returns(mission):
    return eval(mission.objective)


def fails(mission):
    raise MissionFailed(*json.loads(mission.objective))


def raises(mission):
    raise KeyError("no such thing")


def leaves(mission):
    sys.exit(int(mission.objective))


def leaves_at_once(mission):
    os._exit(3)


def crashes(mission):
    ctypes.string_at(0)


def waits(mission):
    (mission.work_products / "began").write_text("")
    assert mission.cancelled.wait(60)
    (mission.work_products / "partial.txt").write_text("as far as it got")
    return "stopped in good order"


def will_not_listen(mission):
    (mission.work_products / "began").write_text("")
    while True:
        time.sleep(1)


def leaves_a_daemon(mission):
    subprocess.Popen(["sleep", "300"], start_new_session=True)
    return "gone"
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder with a module, and with an installed package's entry point to it."""
    folder = tmp_path / "code"
    (folder / "jobs-1.0.dist-info").mkdir(parents=True)
    (folder / "jobs.py").write_text(JOBS)
    (folder / "broken.py").write_text("import a_module_that_nobody_has\n")
    (folder / "jobs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: jobs\nVersion: 1.0\n")
    (folder / "jobs-1.0.dist-info" / "entry_points.txt").write_text("[vp_queue.callables]\ndescriber = jobs:describe\n")
    return folder


def configure(home: Home, code: Path, name: str, more: str = "", profile: str = "") -> None:
    (home.path / "vp_queue.toml").write_text(
        f'[vp."{GENERAL}"]\nexecutor = "python"\nretry_backoff_seconds = 0\ncancel_grace_seconds = 0.5\n'
        f'allowed_target_roots = ["{home.targets}"]\n{profile}\n'
        f'[vp."{GENERAL}".options]\ncallable = "{name}"\npath = ["{code}"]\n{more}\n'
    )


@pytest.fixture
def perform(home: Home, code: Path) -> Iterator[Perform]:
    """Have a callable carry out a mission, one attempt in this process's worker."""
    made: list[MissionWorker] = []

    def run(name: str, objective: str = "x", more: str = "", **arguments: Any) -> dict[str, Any]:
        configure(home, code, name, more)
        settings = missions.ready()
        worker = MissionWorker(settings, settings.profile(GENERAL))
        made.append(worker)
        mission = ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective=objective, **arguments))["mission"]
        worker.run(mission["mission_id"], 1)
        done: dict[str, Any] = ok(tools.vp_get_mission(mission_id=mission["mission_id"]))["mission"]
        return done

    yield run
    for worker in made:
        worker.close()
        atexit.unregister(worker.close)
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")


def told(home: Home, mission: dict[str, Any]) -> dict[str, Any]:
    path = home.workspace(mission["mission_id"]) / "work_products" / "told.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def log(home: Home, mission: dict[str, Any]) -> str:
    return (home.workspace(mission["mission_id"]) / "run.log").read_text()


@pytest.mark.parametrize("name", ["jobs:describe", "describer"])
def test_a_callable_gets_the_whole_mission_in_a_process_of_its_own(home: Home, perform: Perform, name: str) -> None:
    done = perform(
        name,
        "Tell me.",
        'arguments = {style = "short"}',
        constraints={"files": {"in/a.txt": "A"}},
        budget={"max_turns": 5},
        metadata={"k": "v"},
    )
    assert (done["status"], done["result"]) == ("completed", "described")
    assert done["usage"]["turns"] == 2
    assert done["progress"]["message"] == "a quarter"
    seen = told(home, done)
    workspace = home.workspace(done["mission_id"])
    assert {
        name: seen[name] for name in ("mission_id", "vp_id", "attempt", "objective", "guidance", "target_path")
    } == {
        "mission_id": done["mission_id"],
        "vp_id": GENERAL,
        "attempt": "1",
        "objective": "Tell me.",
        "guidance": "None",
        "target_path": "None",
    }
    assert (seen["arguments"], seen["metadata"], seen["budget"]) == (
        "{'style': 'short'}",
        "{'k': 'v'}",
        "{'max_turns': 5}",
    )
    assert (seen["workspace"], seen["work_products"]) == (str(workspace), str(workspace / "work_products"))
    assert seen["cwd"] == str(workspace)
    assert os.getpid() not in (seen["pid"], seen["parent"]), "the launcher's child, not the consumer's"
    ours = {"PATH", "LANG", "HOME", "LC_CTYPE"}
    assert [name for name in seen["variables"] if not name.startswith("VP_") and name not in ours] == []
    assert log(home, done) == "to the log\nand errors too\n"


def test_in_a_target_path_that_is_where_it_works(home: Home, perform: Perform) -> None:
    (home.targets / "repo").mkdir()
    done = perform("jobs:describe", constraints={"target_path": str(home.targets / "repo")})
    assert told(home, done)["cwd"] == told(home, done)["target_path"] == str(home.targets / "repo")


@pytest.mark.parametrize(
    ("name", "objective", "failure_code", "words"),
    [
        ("jobs:returns", "3", "executor_error", "returned int"),
        ("jobs:raises", "x", "executor_error", "KeyError: 'no such thing'"),
        ("jobs:fails", '["refused", "I will not."]', "refused", "I will not."),
        ("jobs:fails", '["made_up", "whatever"]', "exit_nonzero", "status 1"),
        ("jobs:leaves", "3", "exit_nonzero", "status 3"),
        ("jobs:leaves_at_once", "x", "exit_nonzero", "status 3"),
        ("jobs:crashes", "x", "exit_nonzero", "signal 11"),
        ("jobs:absent", "x", "executor_unavailable", "has no attribute 'absent'"),
        ("jobs:NOT_CALLABLE", "x", "executor_unavailable", "cannot be called"),
        ("broken:anything", "x", "executor_unavailable", "a_module_that_nobody_has"),
    ],
)
def test_how_it_fails_is_told(perform: Perform, name: str, objective: str, failure_code: str, words: str) -> None:
    done = perform(name, objective)
    assert (done["status"], done["failure"]["code"]) == ("failed", failure_code)
    assert words in done["failure"]["message"]


def test_the_traceback_is_in_the_log(home: Home, perform: Perform) -> None:
    done = perform("jobs:raises")
    assert "Traceback" in log(home, done)
    assert "Traceback" in done["failure"]["log_tail"]


@pytest.mark.parametrize(
    ("objective", "result"), [("None", None), ("'short'", "short"), ("'x' * 10_000_000", "x" * 3_999 + "…")]
)
def test_what_it_returns_is_the_result_within_limits(perform: Perform, objective: str, result: str | None) -> None:
    done = perform("jobs:returns", objective)
    assert (done["status"], done["result"]) == ("completed", result)


def test_a_method_by_its_path_will_do(perform: Perform) -> None:
    assert perform("jobs:Group.member")["result"] == "a member"


def test_leaving_with_zero_is_success(perform: Perform) -> None:
    assert perform("jobs:leaves", "0")["status"] == "completed"


def test_what_it_leaves_running_is_ended(perform: Perform) -> None:
    done = perform("jobs:leaves_a_daemon")
    assert done["status"] == "completed"
    assert alive_with_environment("VP_MISSION_ID", done["mission_id"]) == []


@pytest.mark.parametrize(
    ("name", "partial"), [("jobs:waits", ["began", "partial.txt"]), ("jobs:will_not_listen", ["began"])]
)
def test_a_cancel_is_an_event_and_then_a_kill(home: Home, code: Path, name: str, partial: list[str]) -> None:
    configure(home, code, name)
    home.consumer()
    mission = ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="x"))["mission"]
    began = home.workspace(mission["mission_id"]) / "work_products" / "began"
    until(began.exists, "the callable began")
    ok(tools.vp_cancel_mission(mission_id=mission["mission_id"]))
    assert ended(mission["mission_id"])["status"] == "cancelled"
    read = ok(tools.vp_read_result_artifacts(mission_id=mission["mission_id"]))
    assert [artifact["path"] for artifact in read["artifacts"]] == partial
    assert alive_with_environment("VP_MISSION_ID", mission["mission_id"]) == []


@pytest.mark.parametrize(("name", "words"), [("nowhere_module:f", "nowhere_module"), ("nobody", "entry point")])
def test_a_callable_that_cannot_be_there_is_refused_at_dispatch(home: Home, code: Path, name: str, words: str) -> None:
    configure(home, code, name)
    error = refused(tools.vp_dispatch_mission(vp_id=GENERAL, objective="x"), "executor_unavailable")
    assert words in error["message"]
    (vp, *_) = ok(tools.vp_list_vps())["vps"]
    assert not vp["available"]["ok"]
