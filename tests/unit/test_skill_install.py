"""``vp skill install``: the skill comes where agents look, nobody's changes are lost, and no link leads it astray."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.cli.driver import Cli
from vp_queue import config
from vp_queue.errors import ConfigurationError, ValidationError
from vp_queue.operations import doctor, skill, supervision

PLACES = (".claude/skills/vp-orchestration", ".agents/skills/vp-orchestration")
OWN = skill.text()


@pytest.fixture
def vp(capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capsys)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def text_in(base: Path, place: str = PLACES[0]) -> str:
    return (base / place / "SKILL.md").read_text(encoding="utf-8")


def everything(base: Path) -> dict[str, tuple[str, int]]:
    """Each file with its content and when it was written."""
    return {
        str(path.relative_to(base)): (path.read_text(), path.stat().st_mtime_ns)
        for path in base.rglob("*")
        if path.is_file()
    }


def outdated(base: Path, place: str = PLACES[0]) -> None:
    """As a version before this one left it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(skill, "text", lambda: "# An older text\n")
        skill.install(base)
    assert text_in(base, place) == "# An older text\n"


def test_into_a_project(vp: Cli, project: Path) -> None:
    code, answer = vp.json("skill", "install", "--project", str(project))
    assert code == 0
    assert answer["files"] == [{"path": str(project / place / "SKILL.md"), "done": "made"} for place in PLACES]
    for place in PLACES:
        assert text_in(project, place) == OWN
        assert (project / place / "SKILL.md").stat().st_mode & 0o777 == 0o644
        checked = subprocess.run(["sha256sum", "-c", skill.CHECKSUM], cwd=project / place, capture_output=True)
        assert checked.returncode == 0


def test_into_the_users_home(vp: Cli, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project))
    code, out, _ = vp("skill", "install")
    assert code == 0
    assert [text_in(project, place) for place in PLACES] == [OWN, OWN]
    assert out.splitlines()[:2] == [f"made     {project / place}/SKILL.md" for place in PLACES]
    assert "vp prompt-rule" in out


def test_again_changes_nothing(vp: Cli, project: Path) -> None:
    skill.install(project)
    before = everything(project)
    _, answer = vp.json("skill", "install", "--project", str(project))
    assert [file["done"] for file in answer["files"]] == ["kept", "kept"]
    assert everything(project) == before


def test_an_older_versions_copy_is_brought_up_to_date(vp: Cli, project: Path) -> None:
    outdated(project)
    _, answer = vp.json("skill", "install", "--project", str(project))
    assert [file["done"] for file in answer["files"]] == ["updated", "updated"]
    assert [text_in(project, place) for place in PLACES] == [OWN, OWN]


@pytest.mark.parametrize("place", PLACES)
def test_what_somebody_changed_stays_and_nothing_else_is_written(vp: Cli, project: Path, place: str) -> None:
    outdated(project)
    (project / place / "SKILL.md").write_text("# An older text\nand mine\n")
    before = everything(project)
    code, out, err = vp("skill", "install", "--project", str(project))
    assert code == 2
    assert out == ""
    assert f"{project / place}/SKILL.md is not as vp-queue wrote it: it differs from line 1 on." in err
    assert "vp skill show | diff - " in err
    assert "Nothing was written" in err
    assert err.splitlines()[-1] == "Next: --force replaces it"
    assert everything(project) == before

    _, answer = vp.json("skill", "install", "--project", str(project), "--force")
    assert {file["path"]: file["done"] for file in answer["files"]} == {
        str(project / each / "SKILL.md"): "replaced" if each == place else "updated" for each in PLACES
    }
    assert text_in(project, place) == OWN


def test_a_skill_of_this_name_that_somebody_else_put_there_is_not_ours_to_replace(project: Path) -> None:
    """Without a checksum, or with one that fits another text, it counts as changed."""
    (project / PLACES[0]).mkdir(parents=True)
    (project / PLACES[0] / "SKILL.md").write_text("# Mine\n")
    with pytest.raises(ValidationError, match="line 1"):
        skill.install(project)
    (project / PLACES[0] / skill.CHECKSUM).write_text(f"{'0' * 64}  SKILL.md\n")
    with pytest.raises(ValidationError):
        skill.install(project)


def test_a_copy_without_a_checksum_that_is_this_versions_gets_one(project: Path) -> None:
    """As after a crash between the two files."""
    skill.install(project)
    (project / PLACES[1] / skill.CHECKSUM).unlink()
    assert [file["done"] for file in skill.install(project)["files"]] == ["kept", "kept"]
    assert [copy.recorded for copy in skill.copies(project)] == [True, True]


@pytest.mark.parametrize("link", [".claude", ".claude/skills", ".claude/skills/vp-orchestration"])
def test_a_link_that_leads_out_is_refused_and_not_followed(project: Path, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (project / link).parent.mkdir(parents=True, exist_ok=True)
    (project / link).symlink_to(outside)
    with pytest.raises(ValidationError, match="leads out of"):
        skill.install(project, force=True)
    assert list(outside.iterdir()) == []
    assert not (project / ".agents").exists()


def test_a_link_in_a_circle_is_refused(project: Path) -> None:
    (project / ".claude").symlink_to(".claude")
    with pytest.raises((ValidationError, ConfigurationError)):
        skill.install(project)


def test_a_link_within_the_project_is_followed(project: Path) -> None:
    (project / ".agents").mkdir()
    (project / ".claude").symlink_to(".agents")
    assert [file["done"] for file in skill.install(project)["files"]] == ["made"]
    assert text_in(project, PLACES[0]) == text_in(project, PLACES[1]) == OWN


def test_a_link_in_the_files_own_place_is_replaced_by_force_and_what_it_leads_to_is_not(
    project: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.md").write_text("mine")
    (project / PLACES[0]).mkdir(parents=True)
    (project / PLACES[0] / "SKILL.md").symlink_to(tmp_path / "mine.md")
    with pytest.raises(ValidationError, match="no regular file"):
        skill.install(project)
    skill.install(project, force=True)
    assert text_in(project) == OWN
    assert (tmp_path / "mine.md").read_text() == "mine"


def test_a_link_put_there_after_the_look_is_not_followed(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    look = skill.copies

    def copies(base: Path) -> list[skill.Copy]:
        found = look(base)
        (base / ".claude").symlink_to(outside)
        return found

    monkeypatch.setattr(skill, "copies", copies)
    with pytest.raises(ConfigurationError, match="cannot put the skill"):
        skill.install(project)
    assert list(outside.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_copy_and_no_rest(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outdated(project)

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(ConfigurationError, match="No space left on device"):
        skill.install(project)
    assert {path.name for path in (project / PLACES[0]).iterdir()} == {"SKILL.md", skill.CHECKSUM}
    assert text_in(project) == "# An older text\n"


def test_a_file_where_a_folder_should_be_is_told(vp: Cli, project: Path) -> None:
    (project / ".claude").write_text("")
    code, answer = vp.json("skill", "install", "--project", str(project))
    assert code == 2
    assert answer["error"]["code"] == "configuration_error"
    assert "Not a directory" in answer["error"]["message"]


def test_doctor_speaks_of_copies_of_another_version_only(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project))

    def lines() -> list[tuple[bool | None, str | None]]:
        settings = config.load()
        checks = doctor.examine(settings, supervision.report(settings))
        return [(check["ok"], check["fix"]) for check in checks if check["name"] == "skill"]

    assert lines() == []
    outdated(project)
    assert lines() == [(None, "Run: vp skill install")] * 2
    skill.install(project)
    assert lines() == [(True, None)] * 2
    (project / PLACES[0] / "SKILL.md").write_text("mine")
    assert lines() == [(True, None)]


def test_show_and_prompt_rule_print_what_they_name(vp: Cli) -> None:
    assert vp("skill", "show") == (0, OWN, "")
    assert vp.json("skill", "show")[1]["text"] == OWN
    code, rule, _ = vp("prompt-rule")
    assert code == 0
    assert vp.json("prompt-rule") == (0, {"ok": True, "rule": rule})
