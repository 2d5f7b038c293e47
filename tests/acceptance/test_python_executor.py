"""Executor ``python``: a callable carries out the mission, in a process of the launcher's."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.harness import GENERAL, ROOT, Home, alive_with_environment, ended, ok, refused, until
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


def shows_itself(mission):
    (mission.work_products / "cmdline").write_bytes(open("/proc/self/cmdline", "rb").read())
    return sys.stdin.read()


def tells_at_length(mission):
    mission.report(message="\N{GRINNING FACE}" * 100_000)
    return "\N{GRINNING FACE}" * 100_000


def tells_hostile_text(mission):
    return "\\ud800\\0" * 4_000


def spins(mission):
    (mission.work_products / "began").write_text("")
    while not mission.cancelled.wait(0):
        pass
    return "stopped"


def forks_and_spins(mission):
    import multiprocessing

    helper = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    helper.start()
    helper.terminate()
    helper.join(30)
    return f"{helper.exitcode} {mission.cancelled.is_set()}"


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
        ("jobs:leaves", "3", "executor_error", "left by sys.exit(3)"),
        ("jobs:leaves", "0", "executor_error", "left by sys.exit(0)"),
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


def test_options_are_on_no_command_line_where_every_user_could_read_them(home: Home, perform: Perform) -> None:
    secret = "the-profiles-own-words"
    done = perform("jobs:shows_itself", more=f'arguments = {{greeting = "{secret}"}}')
    assert (done["status"], done["result"]) == ("completed", ""), "nor are they left on its standard input"
    shown = (home.workspace(done["mission_id"]) / "work_products" / "cmdline").read_bytes()
    assert b"vp_queue.executors.child" in shown
    assert [word for word in (secret, "shows_itself", "arguments") if word.encode() in shown] == []


def test_options_of_any_allowed_size_reach_it(perform: Perform) -> None:
    done = perform("jobs:returns", "str(len(mission.arguments['text']))", f'arguments = {{text = "{"x" * 99_000}"}}')
    assert (done["status"], done["result"]) == ("completed", "99000")


def test_a_long_result_is_cut_never_lost_whatever_its_characters_are(perform: Perform) -> None:
    done = perform("jobs:tells_at_length")
    assert done["result"] == "\N{GRINNING FACE}" * 3_999 + "…"
    assert done["progress"]["message"] == "\N{GRINNING FACE}" * 499 + "…"


def test_a_result_of_characters_that_must_be_escaped_arrives(perform: Perform) -> None:
    assert perform("jobs:tells_hostile_text")["result"] == "?\N{REPLACEMENT CHARACTER}" * 1_999 + "?…"


def test_a_process_it_forks_dies_of_sigterm_and_cancels_nobody_else(perform: Perform) -> None:
    assert perform("jobs:forks_and_spins")["result"] == "-15 False"


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


SIGNALLED = """
import os, signal, sys, threading
from vp_queue.executors.child import set_at_sigterm

event = threading.Event()
{install}(event)
print("ready", flush=True)
while not event.wait(0):
    pass
"""
AS_A_HANDLER = "(lambda event: signal.signal(signal.SIGTERM, lambda *_: event.set()))"


def hung(install: str, rounds: int) -> int:
    """How many of so many processes that look at their event all the time did not end at SIGTERM."""
    count = 0
    for _ in range(rounds):
        argv = [sys.executable, "-c", SIGNALLED.format(install=install)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.terminate()
            try:
                process.wait(10 if install == "set_at_sigterm" else 1)
            except subprocess.TimeoutExpired:
                process.kill()
                count += 1
    return count


def test_a_callable_that_looks_at_its_event_all_the_time_is_not_locked_out_by_the_signal() -> None:
    assert hung("set_at_sigterm", 12) == 0


@pytest.mark.slow
def test_a_handler_that_sets_the_event_itself_does_hang() -> None:
    """The negative control: 38 of 60 hung."""
    assert hung(AS_A_HANDLER, 12) > 0


def test_a_package_installed_in_editable_mode_is_found(home: Home, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such an installation is a finder on sys.meta_path, and no folder on sys.path."""

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            return spec_from_file_location(name, code / "jobs.py") if name == "editable_jobs" else None

    configure(home, code, "editable_jobs:describe")
    refused(tools.vp_dispatch_mission(vp_id=GENERAL, objective="x"), "executor_unavailable")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="x"))
    assert "editable_jobs" not in sys.modules, "it is looked for, not imported"
