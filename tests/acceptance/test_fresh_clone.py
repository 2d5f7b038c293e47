"""The first five minutes: a clone, an empty home, a bare environment, and the README's two commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETUP_SECONDS = 600


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fresh") / "vp-queue"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An empty home, a temporary folder, the system's PATH with this Python in it as ``python3``, nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    for name in ("bin", "home", "t"):
        (folder / name).mkdir()
    # Not the venv's: the one it was made from, as a machine has it before anything is set up.
    (folder / "bin" / "python3").symlink_to(Path(sys.base_prefix, "bin", "python3"))
    made = {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "t"),
        "LANG": "C.UTF-8",
    }
    # Where packages come from is the machine's business, as its own pip.conf would be.
    settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "SSL_CERT_FILE"}
    return {**made, **settings}


def make(clone: Path, environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        ["make", *arguments],
        cwd=clone,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SETUP_SECONDS,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed; run: apt-get install make")
def test_both_commands_set_themselves_up_from_nothing(clone: Path, environment: dict[str, str]) -> None:
    told = make(clone, environment, "demo")
    assert "Setting up .venv" in told
    assert "127 MB" in told
    for words in ("vp.general.primary: completed", "vp.coder.primary: completed", "poem.md", "changes.patch"):
        assert words in told
    assert list(Path(environment["TMPDIR"]).glob("vp-demo-*")) == []

    # The second time everything is there: nothing is set up or fetched again.
    again = make(clone, environment, "demo")
    assert "Setting up" not in again
    assert "127 MB" not in again
    assert "changes.patch" in again

    # `make test` needs no further set-up: pytest finds every test, and runs one tier without trouble.
    collected = make(clone, environment, "test", "ARGS=--collect-only -q")
    assert "tests/acceptance/test_demo.py" in collected
    assert "error" not in collected.lower().splitlines()[-1]
    assert "passed" in make(clone, environment, "test", "ARGS=-q tests/unit/test_config_options.py")
    assert subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True).stdout == b""
