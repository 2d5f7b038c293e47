"""Somebody else keeps the write lock: answers stay bounded and honest, reads go on, nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import oracle
from tests.harness import BIN, GENERAL, ROOT, Home, alive_with_environment, ended, ok, refused, shell, status, until
from vp_queue import tools
from vp_queue.contracts import limits
from vp_queue.ledger.locks import write_lock_holder

OUTSIDER = """
import sys, cysqlite
connection = cysqlite.connect(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""
STOPPED = """
import os, signal
from vp_queue import missions
from vp_queue.ledger import database, fleet
settings = missions.ready()
with database.write_transaction() as tx:
    fleet.pause(tx, "vp.coder.primary", "never")
    os.kill(os.getpid(), signal.SIGSTOP)
"""
# Longer than a write waits (8 s). In the long mode as long as the promise says, and longer than half a lease.
LOCKED_SECONDS = [10.0, pytest.param(30.0, marks=pytest.mark.slow)]


@contextlib.contextmanager
def locked_by_an_outsider(path: Path) -> Iterator[None]:
    """Another program, which knows nothing of vp-queue, holds the write lock within the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", OUTSIDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    try:
        yield
    finally:
        process.communicate()


def dispatching(home: Home, *, mutants: str = "") -> subprocess.Popen[str]:
    """A `vp dispatch` under way."""
    program = [sys.executable, "-m", "tests.mutants", mutants, "vp"] if mutants else [str(BIN / "vp")]
    return subprocess.Popen(
        [*program, "dispatch", GENERAL, "an objective", "--json"],
        env={**home.environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("seconds", LOCKED_SECONDS)
def test_a_lock_held_by_an_outsider_is_answered_in_time_and_loses_nothing(home: Home, seconds: float) -> None:
    home.consumer()
    home.keeper()
    starts = "echo start >> ../log; sleep 3; echo end >> ../log"
    running = shell(starts, max_attempts=3)["mission_id"]
    until(lambda: alive_with_environment("VP_MISSION_ID", running), "the program runs")
    with locked_by_an_outsider(home.database):
        release_at = time.monotonic() + seconds
        honest, patient = dispatching(home), dispatching(home, mutants="waits-for-ever")
        began = time.monotonic()
        error = refused(tools.vp_dispatch_mission(vp_id=GENERAL, objective="x"), "ledger_busy")
        assert time.monotonic() - began < 10
        assert error["retryable"]
        assert error["retry_after_seconds"] > 0
        # Reads go on.
        assert len(ok(tools.vp_list_missions())["missions"]) == 1
        assert status(running) == "running"
        refused(json.loads(honest.communicate(timeout=20)[0]), "ledger_busy")
        assert honest.returncode == 75
        assert patient.poll() is None, "the negative control should still wait"
        time.sleep(max(0.0, release_at - time.monotonic()))
    acknowledged = [ok(json.loads(patient.communicate(timeout=60)[0]))["mission"]["mission_id"], running]
    acknowledged.append(shell("true")["mission_id"])
    for mission_id in acknowledged:
        assert ended(mission_id)["status"] == "completed"
    log = (home.workspace(running).parent / "log").read_text().split()
    assert log[-2:] == ["start", "end"]  # it ended once; a worker that could not keep its lease gave it up first
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", acknowledged)


@pytest.fixture
def stopped_writer(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """A process of vp-queue that was stopped within its write transaction."""
    ok(tools.vp_list_vps())  # the ledger is there
    process = subprocess.Popen([sys.executable, "-c", STOPPED], env=home.environment)
    until(lambda: write_lock_holder(home.database) == process.pid, "it has the lock")
    until(lambda: b"State:\tT" in Path(f"/proc/{process.pid}/status").read_bytes(), "it is stopped")
    yield process
    process.kill()
    process.wait()


def write_lock_line(home: Home) -> dict[str, object]:
    """What `vp doctor` says of the write lock."""
    done = subprocess.run([BIN / "vp", "doctor", "--json"], env=home.environment, capture_output=True, text=True)
    return next(check for check in json.loads(done.stdout)["checks"] if check["name"] == "write lock")


@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL])
def test_a_writer_stopped_inside_its_transaction_is_named_and_holds_up_writes_only(
    home: Home, stopped_writer: subprocess.Popen[bytes], end: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WRITE_WAIT_SECONDS", 2.0)
    refused(tools.vp_dispatch_mission(vp_id=GENERAL, objective="x"), "ledger_busy")
    assert ok(tools.vp_list_missions())["missions"] == []
    line = write_lock_line(home)
    assert line["ok"] is False
    assert f"process {stopped_writer.pid} " in str(line["detail"])
    assert f"kill -CONT {stopped_writer.pid}" in str(line["fix"])
    os.kill(stopped_writer.pid, end)
    stopped_writer.wait(30)
    assert write_lock_line(home)["ok"] is True
    # What it was about to write is there or not there: as a whole.
    paused = {vp["vp_id"]: vp["paused"] for vp in ok(tools.vp_list_vps())["vps"]}
    told = [event["type"] for event in ok(tools.vp_read_events(reader="r"))["events"]]
    assert (paused["vp.coder.primary"], told) == ((True, ["vp.paused"]) if end == signal.SIGCONT else (False, []))
    mission_id = shell("true")["mission_id"]
    home.consumer()
    assert ended(mission_id)["status"] == "completed"
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [mission_id])


def test_the_lock_is_named_because_it_was_looked_for(
    home: Home, stopped_writer: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: a doctor that does not look into /proc/locks finds nothing."""
    from vp_queue import config
    from vp_queue.operations import doctor, supervision

    monkeypatch.setattr("vp_queue.ledger.locks.write_lock_holder", lambda path: None)
    settings = config.load()
    checks = {check["name"]: check for check in doctor.examine(settings, supervision.report(settings))}
    assert checks["write lock"]["ok"] is True
    os.kill(stopped_writer.pid, signal.SIGCONT)
    stopped_writer.wait(30)
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")
