"""``examples/coder_demo.py`` as a mission's program: what it delivers, and what it says where something is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "coder_demo.py"


class Run:
    """One run of the script, as the worker would start it."""

    def __init__(self, folder: Path, *, attempt: int = 1, **environment: str) -> None:
        self.target = folder / "target"
        self.products = folder / f"products-{attempt}"
        self.target.mkdir(exist_ok=True)
        self.products.mkdir()
        reader, writer = os.pipe()
        mission = {
            "VP_MISSION_ID": "m-0123456789-abc",
            "VP_ATTEMPT": str(attempt),
            "VP_WORK_PRODUCTS": str(self.products),
            "VP_REPORT_FD": str(writer),
        }
        self.done = subprocess.run(
            [sys.executable, str(SCRIPT)],
            cwd=self.target,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", **mission, **environment},
            pass_fds=(writer,),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.close(writer)
        with open(reader) as lines:
            self.reports: list[dict[str, Any]] = [json.loads(line) for line in lines]


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_it_delivers_tested_code_as_a_patch_and_a_report(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.done.returncode == 0, run.done.stdout
    assert "scripted stand-in" in run.done.stdout
    assert 'tests="10"' in (run.products / "report.xml").read_text()
    assert git(run.target, "status", "--porcelain") == ""
    assert [line.split(" ", 1)[1] for line in git(run.target, "log", "--oneline").splitlines()] == [
        "Roman numerals, with tests",
        "A beginning",
    ]
    fractions = [report["progress"] for report in run.reports]
    assert fractions == sorted(fractions)
    assert "changes.patch" in run.reports[-1]["result"]

    # The patch is one: on the beginning it gives the same tree.
    git(run.target, "switch", "--quiet", "main")
    git(run.target, "apply", str(run.products / "changes.patch"))
    git(run.target, "add", "--all")
    assert git(run.target, "write-tree") == git(run.target, "rev-parse", "mission/m-0123456789-abc.1^{tree}")


def test_in_a_repository_that_is_there_it_works_on_a_branch_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    git(tmp_path / "target", "init", "--quiet", "--initial-branch=trunk")
    (tmp_path / "target" / "mine.txt").write_text("mine")
    git(tmp_path / "target", "add", "mine.txt")
    git(tmp_path / "target", "-c", "user.name=me", "-c", "user.email=me@x", "commit", "--quiet", "-m", "mine")
    before = git(tmp_path / "target", "rev-parse", "trunk")
    run = Run(tmp_path)
    assert run.done.returncode == 0, run.done.stdout
    assert git(run.target, "rev-parse", "trunk") == before
    assert git(run.target, "branch", "--show-current").strip() == "mission/m-0123456789-abc.1"


@pytest.mark.parametrize("path", ["/nowhere"])
def test_without_git_it_says_so_and_fails(tmp_path: Path, path: str) -> None:
    run = Run(tmp_path, PATH=path)
    assert run.done.returncode == 1
    (report,) = run.reports
    assert report["failure"]["code"] == "executor_unavailable"
    assert "apt-get install git" in report["failure"]["message"]
