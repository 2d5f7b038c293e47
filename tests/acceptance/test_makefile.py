"""What the Makefile does where something cannot be had: the demonstration model, npm."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness import ROOT

# Stands in for the environment's Python: pip finds no package, pytest tells what it was called with.
PYTHON = """#!/bin/sh
case "$*" in
  *"pip"*"install"*) echo "pip: no matching distribution" >&2; exit 1 ;;
  *pytest*) echo "pytest ran: $*" ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The Makefile with an environment that is set up already, all but the model."""
    requirements = ("requirements/dev.txt", "requirements/hosts.txt", "vp_queue/operations/local_model.txt")
    packages = ("tests/hosts/package.json", "tests/hosts/package-lock.json")
    for name in ("Makefile", "pyproject.toml", *requirements, *packages):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o700)
    (tmp_path / ".venv/.installed").write_text("")
    return tmp_path


def make(clone: Path, target: str, **extra: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | extra
    return subprocess.run(
        [shutil.which("make") or "make", target], cwd=clone, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("target", ["test", "faults"])
def test_without_the_model_the_tests_run_all_the_same(clone: Path, target: str) -> None:
    done = make(clone, target)
    assert done.returncode == 0, done.stderr
    assert "pytest ran: -m pytest" in done.stdout
    assert "no matching distribution" in done.stderr, "the reason is told"
    assert "To try again: make .venv/.local-model" in done.stderr, "and the command"


def test_the_demonstration_does_need_it(clone: Path) -> None:
    done = make(clone, "demo")
    assert done.returncode != 0
    assert "no matching distribution" in done.stderr


def test_without_npm_the_agent_hosts_are_not_installed_and_it_says_why(clone: Path) -> None:
    (clone / "no-npm").mkdir()
    done = make(clone, "hosts", PATH=str(clone / "no-npm"))
    assert done.returncode != 0
    assert "no 'npm' here" in done.stderr
    assert "apt-get install npm" in done.stderr, "and the command"
    assert not (clone / ".venv/.hosts").exists()
