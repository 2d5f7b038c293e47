"""``python -m tests.dispatcher FILE SCRIPT [MUTANTS]``: dispatches one mission after the other until it is ended.

Each answer becomes a line of FILE at once: ``m-…`` of an acknowledged mission, or the JSON of a refusal. What
stands there was acknowledged, whatever happens to this process or the machine afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.harness import CODER, GENERAL, ROOT, Home, until

PAUSE_SECONDS = 0.02


def start(home: Home, file: Path, script: str = "true", *, mutants: str = "") -> subprocess.Popen[bytes]:
    """Start one; ends with the home."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.dispatcher", str(file), script, mutants],
        env=home.environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    home.processes.append(process)
    return process


def acknowledged(file: Path) -> list[str]:
    """The missions that were acknowledged so far."""
    return [line for line in _lines(file) if line.startswith("m-")]


def refusals(file: Path) -> list[dict[str, Any]]:
    """The errors that were answered so far."""
    return [json.loads(line) for line in _lines(file) if not line.startswith("m-")]


def _lines(file: Path) -> list[str]:
    # An answer that is being written has no line end yet.
    return file.read_text().split("\n")[:-1] if file.exists() else []


def goes_on(file: Path) -> None:
    """Return when a dispatch that began now was acknowledged."""
    before = len(acknowledged(file))
    until(lambda: len(acknowledged(file)) >= before + 2, f"dispatches succeed ({refusals(file)[-1:]})")


def main(file: str, script: str, names: str) -> None:
    """Dispatch, note, and again."""
    from tests import mutants
    from vp_queue import tools

    if names:
        mutants.apply(names)
    out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    number = 0
    while True:
        number += 1
        answer = tools.vp_dispatch_mission(
            vp_id=(GENERAL, CODER)[number % 2],
            objective="a command " * 20,
            mission_type="command",
            constraints={"command": ["sh", "-c", script]},
            max_attempts=3,
        )
        os.write(
            out, ((answer["mission"]["mission_id"] if answer["ok"] else json.dumps(answer["error"])) + "\n").encode()
        )
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
