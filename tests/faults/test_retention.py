"""Pruning by real processes: killed at each boundary, beside dispatchers, after programs that left traps."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests import oracle
from tests.ended import DAY, acknowledged_up_to, backdate, left, many, mission, on_until_now, workspace
from tests.harness import BIN, GENERAL, Home, alive_with_environment, ended, exited, ok, refused, shell, until
from vp_queue import missions, tools
from vp_queue.contracts import Status
from vp_queue.ledger import database
from vp_queue.ledger.models import PrunedWorkspace

WORKSPACES = "AGENT_RUN_WORKSPACES"


def check(home: Home, acknowledged: list[str] | None = None) -> None:
    oracle.check(home.database, home.path / WORKSPACES, acknowledged)


def folders(home: Home) -> set[str]:
    return set(os.listdir(home.path / WORKSPACES / "vp_general_primary_external"))


def notes() -> int:
    with database.read_transaction():
        return PrunedWorkspace.select().count()


def three_old_and_one_young(home: Home) -> str:
    """Missions with their workspaces; returns the young one's id."""
    missions.ready()
    for age in (33, 32, 31, 1):
        young = mission(age * DAY, key=f"{age} days")
        inner = workspace(home, young) / "work_products"
        for name in ("one", "two"):
            (inner / name / "below").mkdir(parents=True)
            (inner / name / "below" / "file").write_text("x")
        acknowledged_up_to("simone", young)
    return young


# --- a death between any two steps --------------------------------------------------------------

# What is left of three old missions at each death: their rows, notes of folders, whole folders.
DEATHS = {
    "dies-before-the-rows-are-deleted": (3, 0, 3),
    "dies-before-a-folder-is-removed": (0, 3, 3),
    "dies-while-a-folder-is-removed": (0, 3, 3),
    "dies-before-the-note-is-deleted": (0, 3, 0),
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_death_at_any_boundary_leaves_nothing_that_the_next_sweep_does_not_find(home: Home, death: str) -> None:
    young = three_old_and_one_young(home)
    assert home.start("vp", "prune", mutants=death).wait(60) == -signal.SIGKILL
    assert (len(left()) - 1, notes(), len(folders(home)) - 1) == DEATHS[death]
    check(home, [young])
    on_until_now()
    keeper = home.keeper()
    until(lambda: (left() == {young} and notes() == 0) or exited(keeper), "the keeper finished it")
    assert folders(home) == {young}
    check(home, [young])


def test_without_a_note_of_the_folder_it_would_be_orphaned(home: Home) -> None:
    """The negative control."""
    young = three_old_and_one_young(home)
    assert home.start("vp", "prune", mutants="no-note-of-the-folder").wait(60) == 0
    assert home.start("vp", "prune").wait(60) == 0
    assert left() == {young}
    assert len(folders(home)) == 4


# --- a real keeper ------------------------------------------------------------------------------

TRAPS = """
cd work_products && ln -s "$1" link && ln "$1/precious" hard && ln -s ../../.. above && mkfifo fifo
mkdir -p deep/er closed/in && echo x > closed/in/file && chmod 500 closed/in && chmod 0 closed
truncate -s 1T sparse; touch "$(printf 'new\\nline')" "$(printf '\\377')"
rm -rf ../../attempt-0 && ln -s "$1" ../../attempt-0
"""


def test_the_keeper_removes_what_real_missions_left_and_nothing_else(home: Home) -> None:
    outside = home.targets / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    home.consumer()
    ids = [
        ok(
            tools.vp_dispatch_mission(
                vp_id=GENERAL,
                objective="traps",
                mission_type="command",
                constraints={"command": ["sh", "-c", TRAPS, "sh", str(outside)]},
            )
        )["mission"]["mission_id"]
        for _ in range(2)
    ]
    assert [ended(mission_id)["status"] for mission_id in ids] == ["completed"] * 2
    running = shell("sleep 600")["mission_id"]
    until(lambda: alive_with_environment("VP_MISSION_ID", running), "the program runs")
    backdate(ids[0], 31 * DAY)
    on_until_now()
    keeper = home.keeper()
    until(lambda: ids[0] not in folders(home) or exited(keeper), "its folder has gone")
    assert left() == {ids[1], running}
    assert folders(home) == {ids[1], running}
    assert (outside / "precious").read_text() == "precious"
    assert os.listdir(outside) == ["precious"]
    assert alive_with_environment("VP_MISSION_ID", running)
    until(lambda: notes() == 0, "the note has gone too")
    ok(tools.vp_cancel_mission(mission_id=running))
    ended(running)
    home.close()
    check(home, [ids[1], running])


def test_a_keeper_that_is_told_to_stop_in_the_midst_of_it_ends_soon(home: Home) -> None:
    missions.ready()
    many(600, 31 * DAY)
    on_until_now()
    keeper = home.keeper()
    until(lambda: len(left()) < 600 or exited(keeper), "it prunes")
    keeper.send_signal(signal.SIGTERM)
    assert keeper.wait(20) == 0
    assert left()
    assert home.start("vp", "prune").wait(60) == 0
    assert left() == set()
    check(home)


# --- beside dispatchers ---------------------------------------------------------------------------


def test_a_dispatcher_beside_a_large_prune_meets_no_busy_ledger(home: Home) -> None:
    missions.ready()
    old = set(many(600, 31 * DAY))
    prune = home.start("vp", "prune")
    until(lambda: not old <= left(), "it prunes")
    dispatched = []
    while len(dispatched) < 20:
        answer = ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="x"))
        dispatched.append(answer["mission"]["mission_id"])
    assert prune.wait(60) == 0
    assert left() == set(dispatched)
    check(home, dispatched)


# --- the watermark --------------------------------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tmpfs; run: sudo make test")
TMPFS_BYTES = 32 * 1024**2


@pytest.fixture
def small_disk(home: Home) -> Path:
    """VP_HOME on a disk of 32 MiB; a VP_HOME that was there is hidden below it."""
    text = (home.path / "vp_queue.toml").read_text()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES},mode=0700", "tmpfs", home.path], check=True)
    (home.path / "vp_queue.toml").write_text(text)
    return home.path


@pytest.fixture(autouse=True)
def unmounted(home: Home) -> object:
    yield
    home.close()
    database.close_thread_connection()
    if os.path.ismount(home.path):
        subprocess.run(["umount", "--lazy", home.path], check=True)


def fill(folder: Path, leave_bytes: int) -> Path:
    """Take room until so much is left."""
    about = os.statvfs(folder)
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, about.f_bavail * about.f_frsize - leave_bytes)
    return ballast


def dispatch(key: str | None = None) -> dict[str, object]:
    return tools.vp_dispatch_mission(vp_id=GENERAL, objective="x", idempotency_key=key)


@needs_root
@pytest.mark.root
def test_a_dispatch_is_refused_before_the_disk_is_full_and_taken_again_when_there_is_room(
    home: Home, small_disk: Path
) -> None:
    accepted = [str(ok(dispatch("poem"))["mission"]["mission_id"])]
    failed = mission(1 * DAY, Status.FAILED)
    ballast = fill(small_disk, 1024**2)  # of 32; the watermark is 5 %
    refusals = [
        refused(dispatch(), "limit_exceeded"),
        refused(dispatch("another"), "limit_exceeded"),
        refused(tools.vp_retry_mission(mission_id=failed), "limit_exceeded"),
    ]
    for error in refusals:
        assert error["details"]["required_bytes"] == TMPFS_BYTES // 20
        assert error["details"]["free_bytes"] <= 1024**2
        assert error["details"]["path"] == str(small_disk)
        assert "vp prune" in error["message"]
        assert not error["retryable"]
    replay = ok(dispatch("poem"))
    assert (replay["created"], replay["mission"]["mission_id"]) == (False, accepted[0])
    assert len(left()) == 2
    # What was accepted still has room to run.
    home.consumer()
    assert ended(accepted[0])["status"] == "completed"
    ballast.unlink()
    accepted.append(str(ok(dispatch())["mission"]["mission_id"]))
    assert ended(accepted[1])["status"] == "completed"
    home.close()
    check(home, accepted)


@needs_root
@pytest.mark.root
def test_without_the_watermark_it_would_be_taken(home: Home, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    from tests import mutants
    from vp_queue import missions_space

    missions.ready()
    fill(small_disk, 1024**2)
    monkeypatch.setattr(missions_space, "check", missions_space.check)
    mutants.apply("no-watermark")
    assert ok(dispatch())["created"]


@needs_root
@pytest.mark.root
def test_a_prune_on_a_disk_full_to_the_last_byte_says_so_and_a_little_room_lets_it_make_more(
    home: Home, small_disk: Path
) -> None:
    missions.ready()
    for age in range(20):
        (workspace(home, mission((31 + age) * DAY)) / "large").write_bytes(b"x" * 500_000)
    ballast = fill(small_disk, 0)
    # Not by home.start, whose log would stand on the same disk.
    prune = [BIN / "vp", "prune"]
    ran = subprocess.run(prune, env=home.environment, capture_output=True, text=True)
    assert (ran.returncode, "free some space" in ran.stderr) == (75, True), ran
    assert len(left()) == 20
    os.truncate(ballast, ballast.stat().st_size - 2 * 1024**2)
    ran = subprocess.run(prune, env=home.environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran
    assert left() == set()
    ok(dispatch())
    check(home)
