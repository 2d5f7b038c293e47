"""Runs ``vp`` in this process, or on a terminal of its own."""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import termios
from collections.abc import Iterator
from typing import Any

import click
import pytest

from tests.harness import BIN, GENERAL
from vp_queue.cli.main import run, vp

UNKNOWN = "m-0000000000-00000000000"
MISSION_ID = re.compile(r"\bm-[0-9a-z]{10}-[0-9a-z]{11}\b")


class Cli:
    """Runs ``vp`` in this process and takes what it printed."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self._captured = captured

    def __call__(self, *args: str) -> tuple[int, str, str]:
        self._captured.readouterr()
        code = run(list(args))
        out, err = self._captured.readouterr()
        return code, out, err

    def json(self, *args: str) -> tuple[int, dict[str, Any]]:
        """The one document that ``--json`` prints."""
        code, out, _ = self(*args, "--json")
        assert out.count("\n") == 1, out
        return code, json.loads(out)

    def dispatched(self, *args: str, vp_id: str = GENERAL, objective: str = "an objective") -> str:
        code, answer = self.json("dispatch", vp_id, objective, *args)
        assert code == 0, answer
        mission_id: str = answer["mission"]["mission_id"]
        return mission_id


def on_terminal(*args: str, columns: int = 80, **environment: str) -> tuple[int, str]:
    """Run ``vp`` on a terminal of so many columns; returns its exit code and what stood there."""
    shown, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [str(BIN / "vp"), *args],
        env={**variables, "TERM": "xterm-256color", **environment},
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    printed = b""
    try:
        while piece := os.read(shown, 65_536):
            printed += piece
    except OSError:  # EIO: nobody has the terminal open any more
        pass
    finally:
        os.close(shown)
    return process.wait(), printed.decode().replace("\r\n", "\n")


def commands(group: click.Group = vp, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and subcommand there is, with the words that lead to it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
