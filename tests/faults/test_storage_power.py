"""The power goes: the ledger opens, its invariants hold, and what was acknowledged is there.

Twice, because each way sees what the other does not. Under real load, with all processes stopped for the moment
of the copy: then nothing moves between copying the file and copying its log, and the copy is what a crash of
the machine at that instant leaves if every write reached the disk. And from a recording of one dispatcher's
writes and syncs: then a write that was not synced may be missing or torn, as on a disk that keeps no order.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cysqlite
import pytest

from tests import dispatcher, oracle, power
from tests.disks import needs_strace
from tests.harness import CODER, GENERAL, ROOT, Home, close_ledger, ended, ok, until
from vp_queue import missions, tools
from vp_queue.ledger import database, fleet
from vp_queue.ledger.locks import write_lock_holder

COPIES = [40, pytest.param(400, marks=pytest.mark.slow)]
CRASHES = [60, pytest.param(2_000, marks=pytest.mark.slow)]
LONGEST_PAUSE_SECONDS = 0.03
SCRIPT = "echo made > $VP_WORK_PRODUCTS/made"


def usable(copy: Path, workspaces: Path, acknowledged: list[str]) -> None:
    """Assert that a crashed ledger opens, holds what it must, and takes a write."""
    database.open_ledger(copy)
    with database.write_transaction() as tx:
        fleet.pause(tx, CODER, "after the crash")
    close_ledger()
    oracle.check(copy, workspaces, acknowledged, live=False)


# --- under load, at an instant ------------------------------------------------------------------


@contextlib.contextmanager
def standing_still(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Within the block none of their threads runs: what they write stays as it is."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    until(lambda: all(map(stopped, processes)), "all are stopped")
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def stopped(process: subprocess.Popen[bytes]) -> bool:
    """Whether every thread is."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/stat")
    return all(task.read_bytes().rpartition(b")")[2].split()[0] == b"T" for task in tasks)


@pytest.mark.parametrize("count", COPIES)
def test_a_copy_of_any_instant_under_load_is_a_sound_ledger(home: Home, tmp_path: Path, count: int) -> None:
    home.configure(concurrency=2)
    processes = [home.consumer(GENERAL), home.consumer(CODER), home.keeper()]
    until(missions.keepers, "the keeper registered")
    close_ledger()
    files = [tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    processes += [dispatcher.start(home, file, SCRIPT) for file in files]
    for file in files:
        dispatcher.goes_on(file)
    chance = random.Random(count)
    in_the_midst = 0
    copies: list[tuple[Path, list[str]]] = []
    for number in range(count):
        time.sleep(chance.uniform(0, LONGEST_PAUSE_SECONDS))  # the instant is the subject here
        folder = tmp_path / f"copy-{number}"
        folder.mkdir()
        with standing_still(processes):
            acknowledged = [mission_id for file in files for mission_id in dispatcher.acknowledged(file)]
            in_the_midst += write_lock_holder(home.database) is not None
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{home.database}{suffix}", folder / f"vp_state.db{suffix}")
        copies.append((folder / "vp_state.db", acknowledged))
    for process in processes[3:]:
        process.terminate()
        process.wait()
    everything = [mission_id for file in files for mission_id in dispatcher.acknowledged(file)]
    for mission_id in everything:
        assert ended(mission_id)["status"] == "completed"
    home.close()
    workspaces = home.path / "AGENT_RUN_WORKSPACES"
    without_log = shutil.copyfile(copies[-1][0], tmp_path / "without-log.db")
    with pytest.raises((AssertionError, cysqlite.Error)):  # the negative control: the log is left behind
        oracle.check(without_log, workspaces, copies[-1][1], live=False)
    for copy, acknowledged in copies:
        usable(copy, workspaces, acknowledged)
    print(f"{count} copies, {in_the_midst} in the midst of a write; 0 of {len(acknowledged)} missions lost")
    assert in_the_midst > 0
    oracle.check(home.database, workspaces, everything)


# --- from a recording, with writes that were never synced -----------------------------------------


def recording(home: Home, tmp_path: Path, dispatches: int, mutants: str) -> tuple[power.Disk, list[power.Call], Path]:
    """The ledger as it stood, and what one dispatcher then did to it."""
    ok(tools.vp_list_missions())
    close_ledger()
    paths = [str(home.database), f"{home.database}-wal"]
    disk = power.Disk({path: Path(path).read_bytes() for path in paths})
    acknowledgements, trace = tmp_path / "acknowledged", tmp_path / "trace"
    argv = ["strace", "-qq", "-y", "-xx", "-s", "70000", "-o", str(trace), "-e", f"trace={power.CALLS}"]
    process = subprocess.Popen(
        [*argv, sys.executable, "-m", "tests.dispatcher", str(acknowledgements), "true", f"checkpoints-often{mutants}"],
        env=home.environment,
        cwd=ROOT,
    )
    try:
        until(lambda: len(dispatcher.acknowledged(acknowledgements)) >= dispatches, "all are dispatched", 120)
    finally:
        traced = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
        subprocess.run(["kill", "-KILL", str(traced)], check=True)
        process.wait()
    return disk, list(power.recorded(trace)), acknowledgements


def crashes(home: Home, tmp_path: Path, count: int, mutants: str = "") -> Iterator[tuple[Path, list[str]]]:
    """Ledgers as crashes could leave them, each with what had been acknowledged by then."""
    disk, calls, acknowledgements = recording(home, tmp_path, 40 + count // 10, mutants)
    chance = random.Random(count)
    relevant = [call for call in calls if call.path.startswith((str(home.database), str(acknowledgements)))]
    instants = set(chance.sample(range(len(relevant)), min(count, len(relevant))))
    acknowledged: list[str] = []
    for number, call in enumerate(relevant):
        if not disk.play(call) and call.path == str(acknowledgements):
            acknowledged.append(call.data.decode().strip())
        if number in instants:
            folder = tmp_path / f"crash-{number}"
            folder.mkdir()
            for path, content in disk.after_a_crash(chance).items():
                (folder / Path(path).name).write_bytes(content)
            yield folder / "vp_state.db", list(acknowledged)
            shutil.rmtree(folder)


@pytest.mark.parametrize("count", CRASHES)
def survived(home: Home, tmp_path: Path, count: int, mutants: str = "") -> tuple[int, int]:
    """Try so many crashes; returns how many there were, and how many missions were acknowledged at the last."""
    tried, acknowledged = 0, []
    for copy, acknowledged in crashes(home, tmp_path, count, mutants):
        usable(copy, home.path, acknowledged)
        tried += 1
    return tried, len(acknowledged)


@needs_strace
@pytest.mark.parametrize("count", CRASHES)
def test_what_was_acknowledged_survives_a_disk_that_forgets_what_was_not_synced(
    home: Home, tmp_path: Path, count: int
) -> None:
    tried, acknowledged = survived(home, tmp_path, count)
    print(f"{tried} crashes; {acknowledged} missions were acknowledged by the last, and none was lost by any")
    assert tried == count
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")


@needs_strace
def test_without_a_sync_at_each_commit_acknowledged_missions_are_lost(home: Home, tmp_path: Path) -> None:
    """The negative control, with SQLite's usual setting for a log: nothing is corrupt, but the promise is broken."""
    with pytest.raises(AssertionError, match="is lost"):
        survived(home, tmp_path, 60, ",syncs-no-commit")


def test_the_recording_is_understood(tmp_path: Path) -> None:
    name = "".join(f"\\x{byte:02x}" for byte in b"/a/db")
    trace = tmp_path / "trace"
    trace.write_text(
        f'pwrite64(3<{name}>, "\\x61\\x62", 2, 512) = 2\n'
        f"ftruncate(3<{name}>, 1000) = 0\n"
        f"fsync(3<{name}>) = 0\n"
        f'pwrite64(3<{name}>, "\\x61", 1, 0) = -1 EIO (Input/output error)\n'
        f'write(4<{name}>, "\\x6d\\x2d", 2) = 2\n'
    )
    calls = list(power.recorded(trace))
    assert calls == [
        power.Call("pwrite64", "/a/db", b"ab", 512),
        power.Call("ftruncate", "/a/db", b"", 1000),
        power.Call("fsync", "/a/db", b"", 0),
        power.Call("write", "/a/db", b"m-", 2),
    ]
    disk = power.Disk({"/a/db": b""})
    states = set()
    for call in calls[:3]:
        assert disk.play(call)
        states |= {disk.after_a_crash(random.Random(seed))["/a/db"] for seed in range(20)}
    written, cut = bytes(512) + b"ab", bytes(512) + b"ab" + bytes(486)
    assert states == {b"", written, bytes(1000), cut}
    assert {disk.after_a_crash(random.Random(seed))["/a/db"] for seed in range(20)} == {cut}
    assert not disk.play(power.Call("fsync", "/elsewhere", b"", 0))
