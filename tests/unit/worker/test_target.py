"""Where a mission may work: constraints.target_path against allowed roots and vp-queue's own folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import open_descriptors
from vp_queue.errors import TargetPathDenied
from vp_queue.worker import confined, target
from vp_queue.worker.target import open_target, resolve_target


@dataclass(frozen=True)
class Place:
    """/allowed is a root, with vp-queue's home inside it: the hardest arrangement."""

    base: Path
    allowed: Path
    project: Path
    home: Path
    workspaces: Path

    def resolve(self, path: Path | str) -> Path:
        return resolve_target(str(path), [self.allowed], [self.home, self.workspaces])

    def open(self, path: Path | str, expected: str | None = None) -> int:
        return open_target(str(path), [self.allowed], [self.home, self.workspaces], expected)

    def denied(self, path: Path | str) -> str:
        """The rule that denies a path, at dispatch and at start alike."""
        with pytest.raises(TargetPathDenied) as early:
            self.resolve(path)
        with pytest.raises(TargetPathDenied) as late:
            self.open(path)
        assert early.value.details["field"] == "constraints.target_path"
        assert late.value.details == early.value.details
        return str(early.value.details["rule"])


@pytest.fixture(params=["openat2", "walk"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "walk":
        monkeypatch.setattr(confined, "_openat2", lambda parent, path, flags: None)
    base = tmp_path.resolve()
    made = Place(base, base / "srv/a", base / "srv/a/group/project", base / "srv/a/own/home", base / "srv/a/own/ws")
    for folder in (
        made.project,
        made.home / "run",
        made.workspaces / "vp/m-1/attempt-1",
        base / "srv/ab",
        base / "else",
    ):
        folder.mkdir(parents=True)
    return made


def test_a_folder_under_an_allowed_root_is_opened(place: Place) -> None:
    assert place.resolve(place.project) == place.project
    with confined.closing(place.open(place.project, str(place.project))) as folder:
        assert confined.identity(os.fstat(folder)) == confined.identity(place.project.stat())
        assert not os.get_inheritable(folder)


def test_the_root_itself_is_allowed_when_nothing_forbidden_is_in_it(place: Place) -> None:
    assert resolve_target(str(place.base / "srv/ab"), [place.base / "srv/ab"], [place.home]) == place.base / "srv/ab"
    os.close(open_target(str(place.base / "srv/ab"), [place.base / "srv/ab"], [place.home]))


def test_outside_and_prefix_twins_are_denied_with_the_remedy(place: Place) -> None:
    assert place.denied("/") == "outside"
    assert place.denied(place.base / "else") == "outside"
    assert place.denied(place.base / "srv") == "outside"
    assert place.denied(place.base / "srv/ab") == "outside"
    with pytest.raises(TargetPathDenied, match=r"allowed_target_roots .*vp_queue\.toml"):
        place.resolve(place.base / "else")


def test_no_roots_allow_nothing(place: Place) -> None:
    with pytest.raises(TargetPathDenied, match="outside"):
        resolve_target(str(place.project), [], [])


def test_dots_are_resolved_before_the_verdict(place: Place) -> None:
    assert place.denied(f"{place.project}/../../../ab") == "outside"
    assert place.denied(f"{place.allowed}/..") == "outside"
    assert place.resolve(f"{place.project}/../project") == place.project


@pytest.mark.parametrize("path", ["relative", "~", "~/x", "./x", "..", ""])
def test_only_absolute_paths_are_resolved(place: Place, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.allowed)
    monkeypatch.setenv("HOME", str(place.project))
    assert place.denied(path) == ("text" if path == "" else "relative")


@pytest.mark.parametrize("path", ["/a\0b", "/a\ud800", "/" + "a" * 5_000])
def test_text_that_is_no_path_is_denied(place: Place, path: str) -> None:
    assert place.denied(path) == "text"


def test_a_link_is_judged_by_where_it_leads(place: Place) -> None:
    (place.allowed / "out").symlink_to(place.base / "else")
    (place.allowed / "in").symlink_to(place.project)
    (place.base / "else/back").symlink_to(place.project)
    assert place.denied(place.allowed / "out") == "outside"
    assert place.denied(place.allowed / "out/..") == "outside"
    assert place.resolve(place.allowed / "in") == place.project
    assert place.resolve(place.base / "else/back") == place.project
    os.close(place.open(place.allowed / "in", str(place.project)))


def test_an_allowed_root_may_itself_be_a_link(place: Place) -> None:
    (place.base / "projects").symlink_to(place.allowed / "group")
    roots = [place.base / "projects", place.base / "not-there"]
    os.close(open_target(str(place.base / "projects/project"), roots, [place.home]))


def test_vp_queues_own_folders_are_denied_in_every_relation(place: Place) -> None:
    assert place.denied(place.home) == "forbidden"
    assert place.denied(place.home / "run") == "forbidden"
    assert place.denied(place.home.parent) == "forbidden"
    assert place.denied(place.allowed) == "forbidden"
    assert place.denied(place.workspaces) == "forbidden"
    assert place.denied(place.workspaces / "vp/m-1/attempt-1") == "forbidden"


def test_own_folders_reached_or_named_by_a_link_are_denied(place: Place) -> None:
    (place.allowed / "group/innocent").symlink_to(place.home / "run")
    (place.base / "home-link").symlink_to(place.home)
    assert place.denied(place.allowed / "group/innocent") == "forbidden"
    with pytest.raises(TargetPathDenied, match="VP_HOME"):
        resolve_target(str(place.home), [place.allowed], [place.base / "home-link"])


def test_own_folders_that_do_not_exist_yet_are_guarded_by_path(place: Place) -> None:
    later = place.project / "later/home"
    for check in (resolve_target, open_target):
        with pytest.raises(TargetPathDenied, match="VP_HOME"):
            check(str(place.project), [place.allowed], [later])


def test_a_missing_path_or_a_file_is_denied(place: Place) -> None:
    (place.project / "file").write_text("x")
    (place.project / "loop").symlink_to("loop")
    assert place.denied(place.project / "missing") == "missing"
    assert place.denied(place.project / "loop") == "missing"
    assert place.denied(place.project / "file") == "not_a_folder"


def test_what_exists_outside_is_not_told(place: Place) -> None:
    assert place.denied(place.base / "else/missing") == place.denied(place.base / "else") == "outside"


@pytest.mark.parametrize("where", ["last", "middle"])
@pytest.mark.parametrize("leads_to", ["outside", "inside"])
def test_a_target_exchanged_since_dispatch_is_denied(place: Place, where: str, leads_to: str) -> None:
    recorded = str(place.resolve(place.project))
    other = place.base / "else" if leads_to == "outside" else place.allowed / "other"
    (other / "project").mkdir(parents=True)
    if where == "last":
        place.project.rename(place.allowed / "gone")
        place.project.symlink_to(other)
    else:
        place.project.parent.rename(place.allowed / "gone")
        place.project.parent.symlink_to(other)
    with pytest.raises(TargetPathDenied, match="changed since dispatch"):
        place.open(place.project, recorded)


@pytest.mark.parametrize("where", ["last", "middle"])
def test_a_swap_between_check_and_open_is_denied(place: Place, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The swap happens at the worst instant: after every check by path, before the folder is opened."""
    (place.base / "else/project").mkdir()
    open_resolved = target._open_resolved

    def swapped_first(target_path: str, resolved: str) -> int:
        victim = place.project if where == "last" else place.project.parent
        victim.rename(place.allowed / "gone")
        victim.symlink_to(place.base / "else" / ("project" if where == "last" else ""))
        return open_resolved(target_path, resolved)

    monkeypatch.setattr(target, "_open_resolved", swapped_first)
    with pytest.raises(TargetPathDenied) as caught:
        place.open(place.project)
    assert caught.value.details["rule"] == "changed"


def test_the_verdict_is_about_the_descriptor(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if opening were led astray, the opened folder itself is judged, by path and by identity."""
    monkeypatch.setattr(target, "_open_resolved", lambda *_: os.open(place.home, os.O_RDONLY))
    with pytest.raises(TargetPathDenied) as by_path:
        place.open(place.project)
    assert by_path.value.details["rule"] == "changed"
    monkeypatch.setattr(target, "_descriptor_path", lambda folder: None)
    with pytest.raises(TargetPathDenied) as by_identity:
        place.open(place.project)
    assert by_identity.value.details["rule"] == "forbidden"
    monkeypatch.setattr(target, "_open_resolved", lambda *_: os.open(place.base / "else", os.O_RDONLY))
    with pytest.raises(TargetPathDenied) as outside:
        place.open(place.project)
    assert outside.value.details["rule"] == "outside"


def test_a_folder_deleted_after_it_was_opened_is_denied(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def deleted(target_path: str, resolved: str) -> int:
        folder = os.open(resolved, os.O_RDONLY)
        os.rmdir(resolved)
        return folder

    monkeypatch.setattr(target, "_open_resolved", deleted)
    with pytest.raises(TargetPathDenied):
        place.open(place.project)


def test_a_link_to_a_name_that_is_not_utf8_is_answered(place: Place) -> None:
    raw = os.fsencode(place.project) + b"/\xff"
    os.mkdir(raw)
    (place.project / "named").symlink_to(os.fsdecode(raw))
    with confined.closing(place.open(place.project / "named")) as folder:
        assert confined.identity(os.fstat(folder)) == confined.identity(os.stat(raw))


def test_control_characters_do_not_reach_the_message(place: Place) -> None:
    with pytest.raises(TargetPathDenied) as caught:
        place.resolve("/etc\x1b[2J\n")
    assert caught.value.message.isprintable()


def test_no_descriptor_is_left_open(place: Place) -> None:
    before = open_descriptors()
    os.close(place.open(place.project))
    for path in (place.home, place.base / "else", place.project / "missing"):
        place.denied(path)
    assert open_descriptors() <= before
