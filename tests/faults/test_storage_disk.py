"""Disks that are full, broken or read-only: an answer says so, no success is false, and all goes on afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import dispatcher, oracle
from tests.disks import disk, fill, needs_root, needs_strace, read_only
from tests.harness import BIN, GENERAL, ROOT, Home, close_ledger, ended, home_at, ok, refused, shell, status, until
from vp_queue import missions, tools
from vp_queue.contracts import TERMINAL

pytestmark = [pytest.mark.root, needs_root]

MIB = 1 << 20
REFUSALS_OF_A_FULL_DISK = {"ledger_unavailable", "limit_exceeded"}
WORKS = "echo made > $VP_WORK_PRODUCTS/made"


def vp(home: Home, *args: str) -> tuple[int, dict[str, Any]]:
    """The real console script with --json."""
    done = subprocess.run([BIN / "vp", *args, "--json"], env=home.environment, capture_output=True, text=True)
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


def fills_up(home: Home, room: Path, files: list[Path], *, mutants: str = "") -> Path:
    """Dispatchers at work while the disk fills; returns the filler when each was refused, or has lost a mission."""
    for file in files:
        dispatcher.start(home, file, WORKS, mutants=mutants)
        dispatcher.goes_on(file)
    filler = fill(room)
    for file in files:
        # The log is written over from its beginning for a while; then it would have to grow.
        until(lambda file=file: len(dispatcher.refusals(file)) >= 20 or lost(file), "the disk is too full to dispatch")
    return filler


def lost(file: Path) -> bool:
    """Whether the mission that was acknowledged last does not exist."""
    return not tools.vp_get_mission(mission_id=dispatcher.acknowledged(file)[-1])["ok"]


def test_a_full_disk_refuses_and_afterwards_all_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with disk(tmp_path / "disk", 12 * MIB) as room, home_at(room / "vp") as home:
        monkeypatch.setenv("VP_HOME", str(home.path))
        consumer, keeper = home.consumer(), home.keeper()
        until(missions.keepers, "the keeper registered")
        files = [tmp_path / "one", tmp_path / "two"]
        filler = fills_up(home, room, files)
        code, answer = vp(home, "dispatch", GENERAL, "x")
        assert (code, answer["error"]["code"]) in ((75, "ledger_unavailable"), (4, "limit_exceeded")), answer
        ok(tools.vp_list_missions(limit=5))
        filler.unlink()
        for file in files:
            dispatcher.goes_on(file)
        for process in home.processes[2:]:
            process.terminate()
            process.wait()
        assert consumer.poll() is None
        assert keeper.poll() is None
        acknowledged = [mission_id for file in files for mission_id in dispatcher.acknowledged(file)]
        home.consumer("vp.coder.primary")
        until(lambda: {status(each) for each in acknowledged} <= set(TERMINAL), "all have ended", 120)
        codes = {error["code"] for file in files for error in dispatcher.refusals(file)}
        assert codes <= REFUSALS_OF_A_FULL_DISK
        assert ended(shell(WORKS)["mission_id"])["status"] == "completed"
        home.close()
        oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", acknowledged)
        close_ledger()


def test_who_believes_a_full_disk_loses_what_it_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the above."""
    with disk(tmp_path / "disk", 4 * MIB) as room, home_at(room / "vp") as home:
        monkeypatch.setenv("VP_HOME", str(home.path))
        file = tmp_path / "one"
        filler = fills_up(home, room, [file], mutants="believes-the-disk")
        filler.unlink()
        home.close()
        acknowledged = dispatcher.acknowledged(file)
        with pytest.raises(AssertionError, match="is lost"):
            oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", acknowledged)
        close_ledger()


def test_a_full_disk_of_workspaces_completes_nothing_that_is_not_there(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disk(tmp_path / "workspaces", 4 * MIB) as room:
        root = room / "root"
        monkeypatch.setenv("VP_WORKSPACES_ROOT", str(root))
        home.consumer()
        running = shell(f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo more > $VP_WORK_PRODUCTS/late")
        running = running["mission_id"]
        until(lambda: status(running) == "running" and list(root.glob(f"*/{running}/*/run.log")), "it runs")
        filler = fill(room)
        (tmp_path / "go").touch()
        full = shell(WORKS)["mission_id"]
        assert ended(running)["failure"]["code"] == "exit_nonzero"  # its own words had no room in the log either
        assert "No space left" in ended(full)["failure"]["message"]
        filler.unlink()
        again = shell(WORKS)["mission_id"]
        assert ended(again)["status"] == "completed"
        home.close()
        oracle.check(home.database, root, [running, full, again])


# --- broken -------------------------------------------------------------------------------------

ONE_DISPATCH = """
import json, sys
from tests import mutants
from vp_queue import missions, tools
from vp_queue.contracts import TERMINAL
if sys.argv[1:]:
    mutants.apply(sys.argv[1])
tools.vp_list_missions()
print(json.dumps(tools.vp_dispatch_mission(vp_id="vp.general.primary", objective="x")), flush=True)
"""
# Which of the calls fails, after the program's own start. SQLite writes a page's frame in two calls.
BROKEN = [("pwrite64", 1), ("pwrite64", 4), ("fsync", 1)]
BROKEN_AT_LENGTH = [("pwrite64", number) for number in range(2, 30)] + [("fsync", number) for number in (2, 3)]


def dispatched_on_a_broken_disk(home: Home, call: str, number: int, *, mutants: str = "") -> dict[str, Any]:
    """What a dispatch answers whose ``number``-th write (or sync) fails with an I/O error, and all after it."""
    argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    inject = f"inject={call}:error=EIO:when={number}+"
    done = subprocess.run(
        [*argv, "-e", inject, sys.executable, "-c", ONE_DISPATCH, *([mutants] if mutants else [])],
        env={**home.environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@needs_strace
@pytest.mark.parametrize(
    ("call", "number"), [*BROKEN, *(pytest.param(*each, marks=pytest.mark.slow) for each in BROKEN_AT_LENGTH)]
)
def test_an_io_error_is_no_success(home: Home, call: str, number: int) -> None:
    before = [ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="before"))["mission"]["mission_id"]]
    answer = dispatched_on_a_broken_disk(home, call, number)
    if answer["ok"]:
        before.append(answer["mission"]["mission_id"])  # the broken call was never made
    else:
        error = refused(answer, "ledger_unavailable")
        assert "I/O error" in error["message"] or "cannot be opened" in error["message"]
    there = [mission["mission_id"] for mission in ok(tools.vp_list_missions())["missions"]]
    assert sorted(there) == sorted(before)
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", before)


@needs_strace
def test_who_believes_a_broken_disk_loses_what_it_acknowledged(home: Home) -> None:
    """The negative control of the above."""
    ok(tools.vp_list_missions())
    answer = dispatched_on_a_broken_disk(home, "pwrite64", 4, mutants="believes-the-disk")
    with pytest.raises(AssertionError, match="is lost"):
        oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [ok(answer)["mission"]["mission_id"]])


# --- read-only ----------------------------------------------------------------------------------


def test_on_a_read_only_disk_reads_go_on_and_writes_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with disk(tmp_path / "disk", 8 * MIB) as room, home_at(room / "vp") as home:
        monkeypatch.setenv("VP_HOME", str(home.path))
        mission_id = shell("true")["mission_id"]
        close_ledger()
        read_only(room, True)
        assert vp(home, "get", mission_id)[1]["mission"]["status"] == "queued"
        assert len(vp(home, "list")[1]["missions"]) == 1
        code, answer = vp(home, "dispatch", GENERAL, "x")
        assert (code, answer["error"]["code"]) == (75, "ledger_unavailable")
        assert "read-only" in answer["error"]["message"]
        checks = {check["name"]: check for check in vp(home, "doctor")[1]["checks"]}
        assert checks["file system"]["ok"] is False
        assert "read-only" in checks["file system"]["detail"]
        # Without the log's files SQLite cannot even read; that too is an answer.
        read_only(room, False)
        for suffix in ("-wal", "-shm"):
            Path(f"{home.database}{suffix}").unlink()
        read_only(room, True)
        for command in (("list",), ("dispatch", GENERAL, "x")):
            code, answer = vp(home, *command)
            assert (code, answer["error"]["code"]) == (75, "ledger_unavailable")
            assert "read-only" in answer["error"]["message"]
        read_only(room, False)
        assert vp(home, "dispatch", GENERAL, "x")[0] == 0
        oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [mission_id])
        close_ledger()


def test_a_driver_that_speaks_for_itself_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without the translation the caller learns of an internal error only."""
    with disk(tmp_path / "disk", 8 * MIB) as room, home_at(room / "vp") as home:
        monkeypatch.setenv("VP_HOME", str(home.path))
        shell("true")
        close_ledger()
        read_only(room, True)
        done = subprocess.run(
            [sys.executable, "-c", ONE_DISPATCH, "tells-the-drivers-words"],
            env={**home.environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert json.loads(done.stdout)["error"]["code"] == "internal_error"
        read_only(room, False)
