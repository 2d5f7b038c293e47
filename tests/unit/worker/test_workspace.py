"""Workspaces of attempts, and the confined file access under them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from vp_queue.contracts import limits
from vp_queue.contracts.paths import check_relative_path
from vp_queue.errors import VpError
from vp_queue.worker import confined, workspace
from vp_queue.worker.workspace import Workspace, WorkspaceError, attempt_path, prepare, vp_folder, write_receipt

VP, MISSION = "vp.general.primary", "m-0mdq3v8k2f-7x0k3w9c2h1p"


def make(root: Path, attempt: int = 1, **changes: Any) -> Workspace:
    arguments: dict[str, Any] = {"briefing": "# Do it", "mission": {"mission_id": MISSION}, "files": {}} | changes
    return prepare(root, VP, MISSION, attempt, **arguments)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture(params=["openat2", "walk"])
def resolution(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of resolving a path must give the same answers."""
    if request.param == "walk":
        monkeypatch.setattr(confined, "_openat2", lambda parent, path, flags: None)
    else:
        with confined.closing(confined.open_trusted(Path("/"))) as top:
            opened = confined._openat2(top, "usr", os.O_RDONLY | os.O_DIRECTORY)
        if opened is None:
            pytest.skip("this kernel has no openat2: Linux 5.6 or newer has it")
        os.close(opened)
    return str(request.param)


# Paths


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "empty"),
        ("/etc/passwd", "absolute"),
        ("..", '".."'),
        ("../x", '".."'),
        ("a/../../x", '".."'),
        ("a/..", '".."'),
        (".", '"."'),
        ("./a", '"."'),
        ("a//b", "empty component"),
        ("a/", "empty component"),
        ("a\0b", "NUL"),
        ("a\nb", "control"),
        ("a\x1b[31m", "control"),
        ("a\x85b", "control"),
        ("a\u2028b", "control"),
        ("a\u202egpj.exe", "control"),
        ("a\ud800b", "surrogate"),
        ("a" * 4_097, "longer than 4096"),
        ("/".join(["é" * 100] * 25), "bytes"),
        ("é" * 128, "component"),
        ("/".join("a" * (limits.ARTIFACT_DEPTH + 1)), "too deep"),
    ],
)
def test_a_bad_relative_path_is_refused_by_name(path: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace(".", r"\.")):
        check_relative_path(path)


@pytest.mark.parametrize(
    "path", ["a", "a/b.txt", "…/日本.md", "..a", "a..", ".hidden", "a b", "back\\slash", "~/x", "-rf"]
)
def test_an_honest_relative_path_comes_back_unchanged(path: str) -> None:
    assert check_relative_path(path) == path


def test_the_folder_of_a_vp() -> None:
    assert vp_folder(VP) == "vp_general_primary_external"
    assert attempt_path(Path("/w"), VP, MISSION, 3) == Path(f"/w/vp_general_primary_external/{MISSION}/attempt-3")


@pytest.mark.parametrize("mission_id", ["..", "../m-0mdq3v8k2f", "m-0mdq3v8k2f/../../x", "m-0mdq3v8k2f\n", "", "m-1"])
def test_an_id_cannot_name_another_place(mission_id: str) -> None:
    with pytest.raises(ValueError, match="mission id"):
        attempt_path(Path("/w"), VP, mission_id, 1)


@pytest.mark.parametrize("vp_id", ["", "..", "a/b", "../a", "a\0", "a\n"])
def test_a_vp_id_cannot_name_another_place(vp_id: str) -> None:
    with pytest.raises(ValueError, match="VP id"):
        vp_folder(vp_id)


def test_attempts_are_numbered_from_one() -> None:
    with pytest.raises(ValueError, match="from 1"):
        attempt_path(Path("/w"), VP, MISSION, 0)


# Confined access


def test_a_folder_is_opened_beneath_another(tmp_path: Path, resolution: str) -> None:
    (tmp_path / "a/é/c").mkdir(parents=True)
    with (
        confined.closing(confined.open_trusted(tmp_path)) as top,
        confined.closing(confined.open_folder(top, "a/é/c")) as opened,
    ):
        assert confined.identity(os.fstat(opened)) == confined.identity((tmp_path / "a/é/c").stat())
        assert not os.get_inheritable(opened)


@pytest.mark.parametrize("path", ["../", "..", "a/../..", "/etc", "", ".", "a//b"])
def test_no_path_leads_out(tmp_path: Path, resolution: str, path: str) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    with confined.closing(confined.open_trusted(tmp_path)) as top, pytest.raises(OSError, match="lead out"):
        confined.open_folder(top, path)


@pytest.mark.parametrize("path", ["link", "link/b", "a/inner", "a/inner/c"])
def test_a_link_anywhere_in_the_way_is_refused(tmp_path: Path, resolution: str, path: str) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "a/inner").symlink_to("b")
    refused = pytest.raises(OSError, match=r"symbolic links|Not a directory")
    with confined.closing(confined.open_trusted(tmp_path)) as top, refused:
        confined.open_folder(top, path)


def test_magic_links_of_proc_are_refused(resolution: str) -> None:
    refused = pytest.raises(OSError, match=r"symbolic links|Not a directory")
    with confined.closing(confined.open_trusted(Path("/proc"))) as proc, refused:
        confined.open_folder(proc, f"{os.getpid()}/root")


def test_a_file_is_never_written_over_nor_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    (tmp_path / "dangling").symlink_to("elsewhere")
    with confined.closing(confined.open_trusted(tmp_path)) as top:
        for name in ("there", "dangling"):
            with pytest.raises(FileExistsError):
                confined.create_file(top, name, b"theirs")
    assert (tmp_path / "there").read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()


def test_a_kernel_without_openat2_is_answered_by_the_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(confined, "_OPENAT2", 100_000)  # ENOSYS
    with confined.closing(confined.open_trusted(tmp_path)) as top:
        assert confined._openat2(top, "a", os.O_RDONLY) is None
        os.close(confined.open_folder(top, "a"))


def test_ancestry_ends_at_the_root(tmp_path: Path) -> None:
    with confined.closing(confined.open_trusted(tmp_path)) as folder:
        found = confined.ancestry(folder)
    assert found[0] == confined.identity(tmp_path.stat())
    assert found[-1] == confined.identity(Path("/").stat())
    assert len(found) == len(tmp_path.resolve().parts)


# Preparing


def test_prepare_lays_out_the_attempt(tmp_path: Path) -> None:
    root = tmp_path / "new" / "root"
    made = make(root, briefing="# Ünïcode", mission={"objective": "é"}, files={"src/deep/a.py": "1", "b.txt": ""})
    assert made.path == attempt_path(root, VP, MISSION, 1)
    assert made.mission_file.read_text(encoding="utf-8") == "# Ünïcode"
    assert json.loads((made.path / "mission.json").read_text(encoding="utf-8")) == {"objective": "é"}
    assert "\n  " in (made.path / "mission.json").read_text(encoding="utf-8")
    assert (made.path / "src/deep/a.py").read_text() == "1"
    assert (made.path / "b.txt").read_text() == ""
    assert made.work_products.is_dir()
    assert list(made.work_products.iterdir()) == []
    assert (made.log.name, made.receipt.name) == ("run.log", "mission_receipt.json")
    assert not made.log.exists()


def test_everything_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = make(tmp_path / "root", files={"src/a": "1"})
    finally:
        os.umask(before)
    folders = [made.path, made.path.parent, made.path.parent.parent, tmp_path / "root", made.work_products]
    assert {mode(folder) for folder in [*folders, made.path / "src"]} == {0o700}
    assert {mode(file) for file in (made.mission_file, made.path / "mission.json", made.path / "src/a")} == {0o600}


def test_an_attempts_folder_is_never_used_twice(tmp_path: Path) -> None:
    first = make(tmp_path)
    (first.work_products / "kept").write_text("mine")
    with pytest.raises(WorkspaceError, match="exists already") as caught:
        make(tmp_path)
    assert isinstance(caught.value, VpError)
    assert (first.work_products / "kept").read_text() == "mine"
    assert make(tmp_path, attempt=2).path.name == "attempt-2"


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_link_planted_in_the_way_is_refused(tmp_path: Path, level: int, resolution: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    way = attempt_path(tmp_path / "root", VP, MISSION, 1)
    planted = [way.parent.parent, way.parent, way][level]
    planted.parent.mkdir(parents=True)
    planted.symlink_to(outside)
    with pytest.raises(WorkspaceError):
        make(tmp_path / "root")
    assert list(outside.iterdir()) == []


def test_the_root_itself_may_be_a_link_of_the_operator(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to("disk")
    made = make(tmp_path / "root")
    write_receipt(made, {})
    assert made.receipt.exists()


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "a\0b", "", "./MISSION.md", "x\ud800"])
def test_files_cannot_leave_the_workspace(tmp_path: Path, name: str) -> None:
    with pytest.raises(WorkspaceError, match=r"constraints\.files"):
        make(tmp_path / "root", files={name: "x"})
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    "name", ["MISSION.md", "mission.json", "run.log", "mission_receipt.json", "mission.MD", "run.log/x"]
)
def test_files_never_take_the_workers_own_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(WorkspaceError, match="choose another name"):
        make(tmp_path, files={name: "x"})


@pytest.mark.parametrize("files", [{"a": "1", "a/b": "2"}, {"a/b": "2", "a": "1"}, {"work_products": "x"}])
def test_files_that_contradict_each_other_are_an_error(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(WorkspaceError, match=r"choose another name|to be a folder"):
        make(tmp_path, files=files)


def test_a_name_of_the_worker_is_free_deeper_down(tmp_path: Path) -> None:
    made = make(tmp_path, files={"docs/MISSION.md": "x", "work_products/seed.txt": "y"})
    assert (made.path / "docs/MISSION.md").read_text() == "x"
    assert (made.work_products / "seed.txt").read_text() == "y"


# The receipt


def test_the_receipt_is_written_whole_and_private(tmp_path: Path) -> None:
    made = make(tmp_path)
    write_receipt(made, {"status": "completed"})
    write_receipt(made, {"status": "completed", "näme": 1})
    assert json.loads(made.receipt.read_text(encoding="utf-8")) == {"status": "completed", "näme": 1}
    assert mode(made.receipt) == 0o600
    assert sorted(path.name for path in made.path.iterdir()) == [
        "MISSION.md",
        "mission.json",
        "mission_receipt.json",
        "work_products",
    ]


def test_a_failed_write_leaves_the_old_receipt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path)
    write_receipt(made, {"version": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(WorkspaceError, match="No space left"):
            write_receipt(made, {"version": 2})
    assert json.loads(made.receipt.read_text()) == {"version": 1}
    assert not [path for path in made.path.iterdir() if path.name.startswith(".")]


def test_the_content_is_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path)
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def recording(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), made.receipt.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    write_receipt(made, {})
    (first, named), *folders = synced
    assert Path(first).name.startswith(".mission_receipt")
    assert not named
    mission, vp, root = made.path.parents[:3]
    assert folders == [(str(folder.resolve()), True) for folder in (made.path, mission, vp, root)]


def test_a_link_under_the_receipts_name_is_replaced_not_followed(tmp_path: Path) -> None:
    made = make(tmp_path / "root")
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    made.receipt.symlink_to(victim)
    write_receipt(made, {"ok": True})
    assert victim.read_text() == "untouched"
    assert not made.receipt.is_symlink()
    assert json.loads(made.receipt.read_text()) == {"ok": True}


def test_a_folder_under_the_receipts_name_is_moved_aside(tmp_path: Path) -> None:
    made = make(tmp_path)
    (made.receipt / "full").mkdir(parents=True)
    write_receipt(made, {"ok": True})
    assert json.loads(made.receipt.read_text()) == {"ok": True}
    assert [path for path in made.path.iterdir() if "displaced" in path.name]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_workspace_exchanged_for_a_link_gets_no_receipt(tmp_path: Path, level: int, resolution: str) -> None:
    made = make(tmp_path / "root")
    folder = [made.path, *made.path.parents][level]
    moved = tmp_path / "moved"
    folder.rename(moved)
    folder.symlink_to(moved)
    with pytest.raises(WorkspaceError, match="stands where a folder belongs"):
        write_receipt(made, {})
    assert not list(moved.rglob("*receipt*"))


def test_a_workspace_made_read_only_still_gets_its_receipt(tmp_path: Path) -> None:
    made = make(tmp_path)
    made.path.chmod(0o500)
    write_receipt(made, {})
    assert made.receipt.exists()


def test_a_lone_surrogate_in_a_report_does_not_lose_the_receipt(tmp_path: Path) -> None:
    made = make(tmp_path)
    write_receipt(made, {"result": "x\ud800"})
    assert json.loads(made.receipt.read_text()) == {"result": "x\ud800"}


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    made = make(tmp_path, files={"a/b/c": "x"})
    write_receipt(made, {})
    with pytest.raises(workspace.WorkspaceError):
        make(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
