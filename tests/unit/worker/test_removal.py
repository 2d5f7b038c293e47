"""A mission's folder goes whatever its programs made of it, and nothing beside it is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import GENERAL, open_descriptors
from tests.mutants import retention as mutants
from vp_queue.worker import removal
from vp_queue.worker.removal import remove_mission_folder

MISSION = "m-0000000000-00000000000"
ROOT = Path(__file__).resolve().parents[3]
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, or drops root's rights; run: sudo make test")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "root").mkdir()
    yield tmp_path / "root"
    subprocess.run(["rm", "-rf", tmp_path / "root"], check=True)  # pytest would give in to a tree that deep


@pytest.fixture
def folder(root: Path) -> Path:
    """A mission's folder, with an attempt in it."""
    made = root / "vp_general_primary_external" / MISSION
    (made / "attempt-1" / "work_products").mkdir(parents=True)
    (made / "attempt-1" / "work_products" / "a.txt").write_text("a")
    return made


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """What must survive: a folder with a file, elsewhere and beside the mission's own."""
    made = tmp_path / "outside"
    made.mkdir()
    (made / "precious").write_text("precious")
    yield made
    assert (made / "precious").read_text() == "precious"
    assert os.listdir(made) == ["precious"]


def remove(root: Path) -> None:
    before = open_descriptors()
    assert remove_mission_folder(root, GENERAL, MISSION)
    assert open_descriptors() <= before


def links(folder: Path, outside: Path) -> None:
    (folder / "to-a-folder").symlink_to(outside)
    (folder / "attempt-1" / "to-a-file").symlink_to(outside / "precious")
    (folder / "attempt-1" / "above").symlink_to("../..")
    (folder / "attempt-1" / "nowhere").symlink_to("/nonexistent")
    os.link(outside / "precious", folder / "attempt-1" / "hard")


def special_files(folder: Path, outside: Path) -> None:
    os.mkfifo(folder / "fifo")
    os.mknod(folder / "attempt-1" / "socket", stat.S_IFSOCK | 0o600)


def closed_folders(folder: Path, outside: Path) -> None:
    for mode in (0o000, 0o111, 0o444, 0o555):
        (folder / f"{mode:o}" / "in" / "in").mkdir(parents=True)
        (folder / f"{mode:o}" / "in" / "file").write_text("x")
        (folder / f"{mode:o}" / "in").chmod(mode)
        (folder / f"{mode:o}").chmod(mode)
    folder.chmod(0o555)


def names_from_hell(folder: Path, outside: Path) -> None:
    top = os.fsencode(folder)
    for name in (b"\xff\xfe", b"new\nline", b"\x1b[2J", b"-rf", b"*", b" ", b"..x", b"n" * 255, "日本".encode()):
        os.mkdir(top + b"/" + name)
        (folder / os.fsdecode(name) / "file").write_text("x")
        os.mkdir(top + b"/" + name + b"/" + name)


def a_deep_tree(folder: Path, outside: Path) -> None:
    """Deeper than any path can be long, and than there are descriptors."""
    here = os.open(folder, os.O_RDONLY)
    for depth in range(1_200):
        os.mkdir("d" * 9, dir_fd=here)
        if depth % 100 == 0:
            os.symlink(outside, "link", dir_fd=here)
        below = os.open("d" * 9, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def a_wide_folder(folder: Path, outside: Path) -> None:
    for number in range(2 * removal.NAMES_AT_ONCE + 5):
        (folder / "attempt-1" / str(number)).touch()


def what_an_earlier_removal_left(folder: Path, outside: Path) -> None:
    (folder / ".vp-0123456789ab-0" / "in").mkdir(parents=True)
    (folder / ".vp-0123456789ab-1").symlink_to(outside)


HOSTILE = [
    links,
    special_files,
    closed_folders,
    names_from_hell,
    a_deep_tree,
    a_wide_folder,
    what_an_earlier_removal_left,
]


@pytest.mark.parametrize("spoil", HOSTILE)
def test_it_goes_whatever_is_in_it(
    root: Path, folder: Path, outside: Path, spoil: Callable[[Path, Path], None]
) -> None:
    neighbour = folder.parent / "m-0000000000-00000000001"
    neighbour.mkdir()
    spoil(folder, outside)
    remove(root)
    assert os.listdir(folder.parent) == [neighbour.name]


AS_NOBODY = """
import os, sys
from pathlib import Path
from vp_queue.worker.removal import remove_mission_folder
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    print(remove_mission_folder(Path(sys.argv[1]), "vp.general.primary", sys.argv[2]))
except OSError as error:
    print(error.strerror, error.filename)
"""


def removed_by_nobody(root: Path) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(root), MISSION], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return ran.stdout.strip()


@pytest.fixture
def nobodys() -> Iterator[Path]:
    """A workspaces root of another user, in a folder that this user may enter."""
    made = Path("/tmp") / f"vp-queue-removal-{os.getpid()}"
    (made / "vp_general_primary_external" / MISSION / "attempt-1").mkdir(parents=True)
    yield made
    shutil.rmtree(made)


def give_away(folder: Path) -> None:
    os.chown(folder, NOBODY, NOBODY)
    for path in folder.rglob("*"):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


@needs_root
@pytest.mark.root
def test_folders_that_were_closed_go_without_being_root(nobodys: Path) -> None:
    folder = nobodys / "vp_general_primary_external" / MISSION
    closed_folders(folder, nobodys)
    give_away(nobodys)
    assert removed_by_nobody(nobodys) == "True"
    assert not folder.exists()


@needs_root
@pytest.mark.root
def test_what_belongs_to_another_user_stays_and_is_named_and_the_rest_goes(nobodys: Path) -> None:
    folder = nobodys / "vp_general_primary_external" / MISSION
    for name in ("before", "roots", "then"):
        (folder / "attempt-1" / name).mkdir()
        (folder / "attempt-1" / name / "file").touch()
    give_away(nobodys)
    os.chown(folder / "attempt-1" / "roots", 0, 0)
    assert removed_by_nobody(nobodys) == "Permission denied roots"
    assert [path.parent.name for path in folder.rglob("file")] == ["roots"]


@needs_root
@pytest.mark.root
@pytest.mark.parametrize("where", ["attempt-1/mounted", "attempt-1"])
def test_a_mount_stays_with_everything_in_it(root: Path, folder: Path, outside: Path, where: str) -> None:
    shutil.rmtree(folder / "attempt-1")
    (folder / where).mkdir(parents=True)
    subprocess.run(["mount", "--bind", outside, folder / where], check=True)
    try:
        for _ in range(2):
            with pytest.raises(OSError, match="busy"):
                remove_mission_folder(root, GENERAL, MISSION)
            assert list(folder.rglob("precious"))
    finally:
        (mounted,) = {path.parent for path in folder.rglob("precious")}
        subprocess.run(["umount", mounted], check=True)
    remove(root)
    assert not folder.exists()


def test_a_missions_folder_that_is_a_link_goes_as_a_link(root: Path, folder: Path, outside: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(outside)
    remove(root)
    assert not folder.is_symlink()


def test_a_vps_folder_that_is_a_link_is_not_entered(root: Path, outside: Path) -> None:
    (outside / MISSION).mkdir()
    (root / "vp_general_primary_external").symlink_to(outside)
    with pytest.raises(OSError, match=r"symbolic link|Not a directory"):
        remove_mission_folder(root, GENERAL, MISSION)
    (outside / MISSION).rmdir()


@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_folder_exchanged_for_a_link_meanwhile_leads_nowhere(
    root: Path, folder: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    """At the worst moment: it was seen as a folder, and is not yet opened."""
    opens, really_open = [0], os.open

    def exchanging(path: str, flags: int, *args: int, dir_fd: int | None = None) -> int:
        if dir_fd is not None and flags & os.O_PATH and flags & os.O_NOFOLLOW and path not in (".", MISSION):
            opens[0] += 1
            if opens[0] == which:
                os.rename(path, folder.parent / "aside", src_dir_fd=dir_fd)
                os.symlink(outside, path, dir_fd=dir_fd)
        return really_open(path, flags, *args, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", exchanging)
    for _ in range(2):
        with contextlib.suppress(OSError):  # the first time it may be told as a problem
            remove_mission_folder(root, GENERAL, MISSION)
    assert (folder.parent / "aside").exists()
    assert not folder.exists()


def test_a_remover_that_trusts_paths_would_be_led_outside(
    root: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("precious")
    (folder / "attempt-1" / "link").symlink_to(victim)
    monkeypatch.setattr(removal._Removal, "_is_folder", removal._Removal._is_folder)
    monkeypatch.setattr(removal._Removal, "_opened", removal._Removal._opened)
    mutants.follows_links()
    with contextlib.suppress(OSError):  # of the link itself, when its work is done
        remove_mission_folder(root, GENERAL, MISSION)
    assert not (victim / "precious").exists()


def test_it_can_be_stopped_and_begun_again(root: Path, folder: Path) -> None:
    a_wide_folder(folder, root)
    calls: list[int] = []

    def twice() -> bool:
        calls.append(1)
        return len(calls) % 2 == 1

    rounds = 0
    while not remove_mission_folder(root, GENERAL, MISSION, twice):
        rounds += 1
    assert rounds > 3
    assert not folder.exists()


def test_two_at_once_do_no_harm(root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of one is followed by a whole removal of the other."""
    unlink, busy = os.unlink, [False]

    def after_another(*args: object, **kwargs: object) -> None:
        if not busy[0]:
            busy[0] = True
            remove_mission_folder(root, GENERAL, MISSION)
        unlink(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "unlink", after_another)
    remove(root)
    assert not folder.exists()


def test_what_is_not_there_has_gone(root: Path) -> None:
    remove(root)
    (root / "vp_general_primary_external").mkdir()
    remove(root)


def test_without_a_workspaces_root_nothing_is_taken_for_gone(tmp_path: Path) -> None:
    """Its disk may just not be mounted."""
    with pytest.raises(FileNotFoundError):
        remove_mission_folder(tmp_path / "none", GENERAL, MISSION)


@pytest.mark.parametrize("name", ["..", "", "m-0000000000/../..", "attempt-1", "M-0000000000"])
def test_an_id_that_could_name_another_place_is_refused(root: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        remove_mission_folder(root, GENERAL, name)
    with pytest.raises(ValueError, match="not a"):
        remove_mission_folder(root, "../x", MISSION)
