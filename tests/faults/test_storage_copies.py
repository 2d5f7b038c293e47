"""`vp backup` under load and `vp restore` onto whatever is left, with real processes."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cysqlite
import pytest

from tests import dispatcher, mutants, oracle
from tests.disks import disk, fill, needs_root, needs_strace
from tests.harness import (
    BIN,
    GENERAL,
    ROOT,
    Home,
    alive_with_environment,
    close_ledger,
    ended,
    events,
    ok,
    shell,
    status,
    until,
)
from vp_queue import tools
from vp_queue.errors import LedgerUnavailable
from vp_queue.ledger import backup, database, fleet

WRITER = """
import sys, cysqlite
connection = cysqlite.connect(sys.argv[1], timeout=5)
for line in sys.stdin:
    connection.execute("INSERT OR REPLACE INTO vp_inbox VALUES (?, 0, 0)", (line,))
    print("written", flush=True)
"""

CRASHES = """
import os, signal, sys
from vp_queue import tools
for _ in range(int(sys.argv[1])):
    answer = tools.vp_dispatch_mission(vp_id="vp.general.primary", objective="a command", mission_type="command",
                                       constraints={"command": ["true"]})
    print(answer["mission"]["mission_id"], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def left_by_a_crash(home: Home, count: int) -> list[str]:
    """Missions that stand in the log only: who dispatched them was killed."""
    argv = [sys.executable, "-c", CRASHES, str(count)]
    done = subprocess.run(argv, env=home.environment, stdout=subprocess.PIPE, text=True)
    assert Path(f"{home.database}-wal").stat().st_size
    return done.stdout.split()


def vp(home: Home, *args: str, mutant: str = "") -> tuple[int, dict[str, Any]]:
    """The real program with --json."""
    program = [sys.executable, "-m", "tests.mutants", mutant, "vp"] if mutant else [str(BIN / "vp")]
    environment = {**home.environment, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*program, *args, "--json"], env=environment, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def missions_of(file: Path) -> list[str]:
    """The missions in a ledger's file, read by plain SQLite."""
    connection = cysqlite.connect(str(file))
    try:
        return [mission_id for (mission_id,) in connection.execute("SELECT id FROM vp_mission ORDER BY id").fetchall()]
    finally:
        connection.close()


# --- backup -------------------------------------------------------------------------------------


def test_a_backup_under_load_holds_all_that_was_acknowledged_before_it(home: Home, tmp_path: Path) -> None:
    home.consumer()
    home.keeper()
    files = [tmp_path / "one", tmp_path / "two"]
    for file in files:
        dispatcher.start(home, file)
        dispatcher.goes_on(file)
    for number in range(3):
        acknowledged = [mission_id for file in files for mission_id in dispatcher.acknowledged(file)]
        code, answer = vp(home, "backup", str(tmp_path / f"{number}.db"))
        assert code == 0, answer
        copy = Path(answer["file"])
        assert set(acknowledged) <= set(missions_of(copy))
        assert answer["missions"] == len(missions_of(copy)) >= len(acknowledged)
        assert answer["newest_event"]["seq"] >= len(acknowledged)
        assert answer["size_bytes"] == copy.stat().st_size
        assert copy.stat().st_mode & 0o777 == 0o600
        oracle.check(copy, home.path / "AGENT_RUN_WORKSPACES", acknowledged, live=False)
    assert sorted(path.name for path in tmp_path.glob("*.db*")) == ["0.db", "1.db", "2.db"]  # and nothing beside them
    home.close()
    oracle.check(
        home.database, home.path / "AGENT_RUN_WORKSPACES", [m for f in files for m in dispatcher.acknowledged(f)]
    )


def begun_anew(home: Home, file: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a copy began from its start while another process wrote after each of its first steps."""
    monkeypatch.setattr(backup, "STEP_PAGES", 4)
    remaining: list[int] = []
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(home.database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdin is not None
    assert writer.stdout is not None

    def written_between(left: int, total: int, done: bool) -> None:
        remaining.append(left)
        if len(remaining) <= 5 and writer.stdin is not None and writer.stdout is not None:
            writer.stdin.write(f"{len(remaining)}\n")
            writer.stdin.flush()
            assert writer.stdout.readline() == "written\n"

    monkeypatch.setattr(backup, "_let_signals_in", written_between)
    backup.write(home.database, file, replace=False)
    writer.communicate()
    # A step that copied fewer pages than the one before left more to do: it began anew.
    return sum(later >= sooner for sooner, later in itertools.pairwise(remaining))


def test_writers_do_not_make_a_backup_begin_anew(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mission_id = shell("true")["mission_id"]
    assert begun_anew(home, tmp_path / "copy.db", monkeypatch) == 0
    mutants.apply("copies-without-a-snapshot")
    assert begun_anew(home, tmp_path / "loose.db", monkeypatch) > 0  # the negative control
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [mission_id])


@pytest.fixture(autouse=True)
def guards_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant applied in this process ends with its test."""
    monkeypatch.setattr(database, "as_it_is", database.as_it_is)


@pytest.mark.root
@needs_root
def test_a_backup_that_finds_no_room_leaves_nothing(home: Home, tmp_path: Path) -> None:
    mission_id = shell("true")["mission_id"]
    with disk(tmp_path / "disk", 1 << 20) as room:
        fill(room)
        os.truncate(room / "filler", (1 << 20) - (1 << 16))  # some, but not enough
        code, answer = vp(home, "backup", str(room / "copy.db"))
        assert (code, answer["error"]["code"]) == (2, "validation_error")
        assert "No space left" in answer["error"]["message"]
        assert os.listdir(room) == ["filler"]
        vp(home, "backup", str(room / "copy.db"), mutant="writes-the-backup-in-place")
        assert "copy.db" in os.listdir(room)  # the negative control: half a file under a good name
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [mission_id])


@needs_strace
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_backup_that_is_interrupted_leaves_nothing(home: Home, tmp_path: Path, end: signal.Signals) -> None:
    for _ in range(3):
        shell("true")
    close_ledger()
    (tmp_path / "backups").mkdir()
    # strace stops it at the first sync of the copy: in the midst, whatever the machine's speed.
    argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync"]
    inject = f"inject=fdatasync,fsync:signal={end.name}:when=2+"
    done = subprocess.run(
        [*argv, "-e", inject, BIN / "vp", "backup", str(tmp_path / "backups" / "copy.db")],
        env=home.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 130, done.stderr
    assert os.listdir(tmp_path / "backups") == []
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")


# --- restore ------------------------------------------------------------------------------------


def header_gone(ledger: Path) -> None:
    """Corrupt, with a log beside it that has frames."""
    with ledger.open("r+b") as file:
        file.write(b"\xff" * 100)


def cut_short(ledger: Path) -> None:
    os.truncate(ledger, 9_000)


def emptied(ledger: Path) -> None:
    os.truncate(ledger, 0)


def removed(ledger: Path) -> None:
    ledger.unlink()


def all_removed(ledger: Path) -> None:
    for path in ledger.parent.glob(f"{ledger.name}*"):
        path.unlink()


def left_alone(ledger: Path) -> None:
    pass


SPOILED = [
    *(header_gone, removed, left_alone),
    *(pytest.param(spoil, marks=pytest.mark.slow) for spoil in (cut_short, emptied, all_removed)),
]


@pytest.mark.parametrize("spoil", SPOILED)
def test_whatever_became_of_the_ledger_a_restore_brings_all_missions_back(
    home: Home, tmp_path: Path, spoil: Any
) -> None:
    kept = left_by_a_crash(home, 3)
    assert vp(home, "backup", str(tmp_path / "b.db"))[0] == 0
    later = left_by_a_crash(home, 1)  # a restored ledger must not get it from there
    spoil(home.database)
    code, answer = vp(home, "restore", str(tmp_path / "b.db"))
    assert code == 0, answer
    assert (answer["missions"], answer["ledger"]) == (3, str(home.database))
    assert missions_of(home.database) == sorted(kept)
    assert home.database.stat().st_mode & 0o777 == 0o600
    if spoil is left_alone:
        assert missions_of(Path(answer["kept"])) == sorted(kept + later)
    assert (answer["kept"] is None) == (spoil is all_removed)
    home.consumer()
    for mission_id in kept:
        assert ended(mission_id)["status"] == "completed"
    seqs = [event["seq"] for event in ok(tools.vp_read_events(reader="r", limit=1000))["events"]]
    assert seqs[0] == 1
    assert seqs[-1] > 1_000_000  # no number that was given to something now forgotten is given again
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", kept)


def test_a_log_that_is_left_behind_is_applied_to_the_new_ledger(home: Home, tmp_path: Path) -> None:
    """The negative control: why the old log is moved before the new file comes."""
    kept = left_by_a_crash(home, 1)
    vp(home, "backup", str(tmp_path / "b.db"))
    left_by_a_crash(home, 20)
    removed(home.database)
    code, _ = vp(home, "restore", str(tmp_path / "b.db"), mutant="leaves-the-log")
    assert code == 0
    with pytest.raises((AssertionError, cysqlite.Error)):
        has_exactly(home, kept)


def has_exactly(home: Home, missions: list[str]) -> None:
    """The ledger is sound and holds these missions."""
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", missions)
    assert missions_of(home.database) == sorted(missions)


def test_a_mission_that_ran_when_the_backup_was_made_is_rescued(home: Home, tmp_path: Path) -> None:
    consumer = home.consumer()
    keeper = home.keeper()
    running = shell("echo $VP_ATTEMPT >> ../starts; test $VP_ATTEMPT = 2 || sleep 600", max_attempts=2)["mission_id"]
    until(lambda: alive_with_environment("VP_MISSION_ID", running), "the program runs")
    assert vp(home, "backup", str(tmp_path / "b.db"))[0] == 0
    code, answer = vp(home, "restore", str(tmp_path / "b.db"))
    assert (code, answer["error"]["code"]) == (75, "ledger_busy")
    assert set(answer["error"]["details"]["pids"]) == {consumer.pid, keeper.pid, os.getpid()}
    for process in (consumer, keeper):
        process.terminate()
        process.wait()
    close_ledger()
    assert vp(home, "restore", str(tmp_path / "b.db"))[0] == 0
    home.consumer()
    home.keeper()
    assert ended(running)["status"] == "completed"
    assert "mission.retrying" in events(running)
    assert (home.workspace(running).parent / "starts").read_text().split() == ["1", "2"]
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [running])


@pytest.fixture
def ran_since_its_backup(home: Home, tmp_path: Path) -> str:
    """A mission that was queued when ``b.db`` was made, and has completed since; nothing runs any more."""
    mission_id = shell("echo $$ > $VP_WORK_PRODUCTS/pid")["mission_id"]
    assert vp(home, "backup", str(tmp_path / "b.db"))[0] == 0
    consumer = home.consumer()
    assert ended(mission_id)["status"] == "completed"
    consumer.terminate()
    consumer.wait()
    close_ledger()
    return mission_id


def test_what_ran_since_the_backup_runs_again_and_keeps_what_it_made(
    home: Home, tmp_path: Path, ran_since_its_backup: str
) -> None:
    first = (home.workspace(ran_since_its_backup) / "work_products" / "pid").read_text()
    (moved,) = vp(home, "restore", str(tmp_path / "b.db"))[1]["moved"]
    assert (Path(moved) / "work_products" / "pid").read_text() == first
    home.consumer()
    assert ended(ran_since_its_backup)["status"] == "completed"
    assert (home.workspace(ran_since_its_backup) / "work_products" / "pid").read_text() != first
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [ran_since_its_backup])


def test_a_folder_that_is_left_is_in_the_way(home: Home, tmp_path: Path, ran_since_its_backup: str) -> None:
    """The negative control."""
    assert vp(home, "restore", str(tmp_path / "b.db"), mutant="leaves-the-workspaces")[0] == 0
    home.consumer()
    assert ended(ran_since_its_backup)["failure"]["code"] == "executor_error"


def test_who_asks_nobody_restores_under_a_running_consumer(home: Home, tmp_path: Path) -> None:
    """The negative control: the question who has the ledger open is what keeps the above from happening."""
    home.consumer()
    shell("true")
    vp(home, "backup", str(tmp_path / "b.db"))
    assert vp(home, "restore", str(tmp_path / "b.db"), mutant="asks-nobody")[0] == 0


@pytest.mark.slow
def test_a_supervised_ledger_is_not_restored(home: Home, tmp_path: Path) -> None:
    mission_id = shell("true")["mission_id"]
    vp(home, "backup", str(tmp_path / "b.db"))
    close_ledger()
    vp(home, "up", "--detach")
    try:
        code, answer = vp(home, "restore", str(tmp_path / "b.db"), "--force")
    finally:
        vp(home, "down")
    assert (code, answer["error"]["code"]) == (75, "ledger_busy")
    assert "vp down" in answer["error"]["message"]
    assert vp(home, "restore", str(tmp_path / "b.db"))[0] == 0
    assert status(mission_id) == "queued"
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [mission_id])


@pytest.mark.slow
def test_a_write_that_meets_a_restore_is_no_false_success(home: Home, tmp_path: Path) -> None:
    """With --force a process may have the old ledger open: in the midst of a write, or between two."""
    kept = shell("true")["mission_id"]
    vp(home, "backup", str(tmp_path / "b.db"))
    assert vp(home, "restore", str(tmp_path / "b.db"))[1]["error"]["code"] == "ledger_busy"
    assert vp(home, "restore", str(tmp_path / "b.db"), "--force")[0] == 0
    acknowledged = [kept, shell("true")["mission_id"]]  # connected anew
    with pytest.raises(LedgerUnavailable, match="may be lost"):
        pause_while(lambda: vp(home, "restore", str(tmp_path / "b.db"), "--force"))
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [kept])
    assert acknowledged[1] not in missions_of(home.database)


def pause_while(restoring: Callable[[], tuple[int, Any]]) -> None:
    """Write, and have the ledger replaced before the commit; a restore waits for a writer as all do, then goes on."""
    with database.write_transaction() as tx:
        fleet.pause(tx, GENERAL)
        assert restoring()[0] == 0
