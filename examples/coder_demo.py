"""A scripted stand-in for a coding agent. There is no model behind it: it always writes the same code.

It shows what a coding VP does within a mission, and what it leaves: it works in the mission's target path,
commits to a git repository, runs the tests, reports its progress, and delivers ``report.xml`` (the tests'
verdict) and ``changes.patch``. Its profile:

    [vp."vp.coder.primary"]
    executor = "command"
    allowed_target_roots = ["~/projects"]
    [vp."vp.coder.primary".options]
    argv = ["python3", "/path/to/coder_demo.py"]

Wanted: git, and pytest in the Python that runs it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

README = "# Numerals\n\nRoman numerals, written by a script that stands in for a coding agent.\n"

MODULE = '''"""Roman numerals."""

STEPS = [
    (1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"),
    (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"),
]


def roman(number: int) -> str:
    """The Roman numeral of 1 to 3999."""
    if not 1 <= number <= 3999:
        raise ValueError(f"there is no Roman numeral for {number}")
    text = ""
    for value, letters in STEPS:
        text += letters * (number // value)
        number %= value
    return text
'''

TEST = """import pytest

from numerals import roman


@pytest.mark.parametrize(
    ("number", "text"),
    [(1, "I"), (4, "IV"), (9, "IX"), (14, "XIV"), (1990, "MCMXC"), (2026, "MMXXVI"), (3999, "MMMCMXCIX")],
)
def test_roman(number, text):
    assert roman(number) == text


@pytest.mark.parametrize("number", [0, -1, 4000])
def test_what_has_no_numeral(number):
    with pytest.raises(ValueError, match="no Roman numeral"):
        roman(number)
"""


def main() -> int:
    """Carry out the mission; returns the exit status."""
    print("This is a scripted stand-in for a coding agent: no model, always the same code.", flush=True)
    problem = missing()
    if problem is not None:
        return failed("executor_unavailable", problem)
    products = Path(os.environ["VP_WORK_PRODUCTS"])
    here = Path.cwd()
    start(here)

    report(progress=0.3, message="writing numerals.py and its test")
    (here / "numerals.py").write_text(MODULE, encoding="utf-8")
    (here / "test_numerals.py").write_text(TEST, encoding="utf-8")

    report(progress=0.6, message="running pytest")
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={products / 'report.xml'}"]
    verdict = subprocess.run(tests, cwd=here, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, check=False)
    if verdict.returncode != 0:
        return failed("executor_error", f"pytest ended with status {verdict.returncode}; see report.xml")

    report(progress=0.9, message="committing, and writing changes.patch")
    git(here, "add", "--all")
    git(here, "commit", "--quiet", "--message", "Roman numerals, with tests")
    (products / "changes.patch").write_text(git(here, "format-patch", "-1", "--stdout"), encoding="utf-8")
    branch = git(here, "branch", "--show-current").strip()
    report(progress=1.0, result=f"roman() in numerals.py, tested and committed on {branch}; see changes.patch.")
    return 0


def missing() -> str | None:
    """What this machine lacks, and how to get it."""
    if shutil.which("git") is None:
        return "git is not on PATH. On Debian and Ubuntu: apt-get install git"
    if importlib.util.find_spec("pytest") is None:
        return f"{sys.executable} has no pytest. Run: {sys.executable} -m pip install pytest"
    return None


def start(here: Path) -> None:
    """Make a repository with a first commit where there is none, and a branch to work on."""
    report(progress=0.1, message="preparing the git repository")
    if not (here / ".git").exists():
        git(here, "init", "--quiet", "--initial-branch=main")
        (here / "README.md").write_text(README, encoding="utf-8")
        git(here, "add", "README.md")
        git(here, "commit", "--quiet", "--message", "A beginning")
    git(here, "switch", "--quiet", "--create", f"mission/{os.environ['VP_MISSION_ID']}.{os.environ['VP_ATTEMPT']}")


def git(here: Path, *arguments: str) -> str:
    """Run git as nobody in particular, whatever this user's own configuration says."""
    identity = ["-c", "user.name=vp-queue demo", "-c", "user.email=demo@localhost", "-c", "commit.gpgsign=false"]
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=here, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def report(**told: object) -> None:
    """Tell the worker something: one JSON line on the report descriptor."""
    os.write(int(os.environ["VP_REPORT_FD"]), json.dumps(told).encode() + b"\n")


def failed(code: str, message: str) -> int:
    """Say why this mission failed; returns the exit status."""
    print(message, file=sys.stderr)
    report(failure={"code": code, "message": message})
    return 1


if __name__ == "__main__":
    sys.exit(main())
