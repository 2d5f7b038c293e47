"""What every command shares: answers as JSON or for people, and text that cannot play tricks on a terminal.

What missions say goes through ``wording.clean`` before anything is printed, and rich's markup is never applied to it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from vp_queue import clock, errors
from vp_queue.wording import cells, clean, duration, excerpt, line, size

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "INDENT",
    "LONGEST_LINE",
    "NOT_COMPLETED",
    "SLIMMEST_WIDTH",
    "STATUS_STYLES",
    "USUAL_WIDTH",
    "WAIT_TIMED_OUT",
    "ToolFailed",
    "age",
    "can_redraw",
    "cells",
    "checked",
    "clean",
    "console",
    "disk_line",
    "duration",
    "excerpt",
    "exit_code",
    "failure",
    "headed",
    "instant",
    "json_option",
    "line",
    "line_width",
    "outcome_code",
    "print_json",
    "size",
    "width",
]

Command = TypeVar("Command", bound=Callable[..., Any])

NOT_COMPLETED: Final = 1
WAIT_TIMED_OUT: Final = 5
# Where neither a terminal nor COLUMNS says how wide a line is.
USUAL_WIDTH: Final = 80
SLIMMEST_WIDTH: Final = 20
LONGEST_LINE: Final = 400
INDENT: Final = "    "

STATUS_STYLES: Final = {
    "queued": "cyan",
    "running": "blue",
    "needs_input": "magenta",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "expired": "yellow",
}


class ToolFailed(Exception):
    """A tool answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.error = error


def json_option(command: Command) -> Command:
    """The ``--json`` every command has."""
    return click.option("--json", "as_json", is_flag=True, help="Print the tools' JSON instead of text.")(command)


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    """A tool's answer, if it is a success.

    Raises:
        ToolFailed: it is an error; ``main`` prints it and finds the exit code.
    """
    if not answer["ok"]:
        raise ToolFailed(answer["error"])
    return answer


def print_json(document: Mapping[str, Any]) -> None:
    """One document on one line, in ASCII: whatever the terminal's encoding, and no character to hide."""
    click.echo(json.dumps(document, ensure_ascii=True))


def failure(error: Mapping[str, Any], as_json: bool, command: click.Command | None = None) -> int:
    """Print an error object; returns the exit code of its class.

    Args:
        error: as the tools answer with it.
        as_json: print it as it is.
        command: whose options the message should speak of.
    """
    if as_json:
        print_json({"ok": False, "error": error})
    else:
        from vp_queue.cli import hints

        click.echo(f"Error: {clean(hints.worded(error, command))}", err=True)
        click.echo(f"Next: {clean(hints.next_step(error, command))}", err=True)
    return exit_code(error["code"])


def exit_code(code: str) -> int:
    """The CLI's exit code for an error code, as its class has it."""
    return errors.by_code(code).exit_code


def outcome_code(mission: dict[str, Any], timed_out: bool) -> int:
    """The exit code of waiting for a mission."""
    if timed_out:
        return WAIT_TIMED_OUT
    return 0 if mission["status"] == "completed" else NOT_COMPLETED


# --- text ---------------------------------------------------------------------------------------


def headed(head: str, text: object) -> str:
    """A line of a feed; where the terminal is too narrow for both, the text goes below its head."""
    limit = line_width()
    whole = line(f"{head} {text}", LONGEST_LINE)
    head = line(head, LONGEST_LINE)
    if cells(whole) <= limit or whole == head:
        return whole
    return f"{line(head, limit)}\n{INDENT}{line(text, max(SLIMMEST_WIDTH, limit - len(INDENT)))}"


def instant(text: str | None) -> str:
    """An answer's instant in local time, to the second."""
    if text is None:
        return "–"
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age(text: str | None) -> str:
    """How long ago an answer's instant was."""
    if text is None:
        return "–"
    return duration((clock.now() - datetime.fromisoformat(text)).total_seconds())


def disk_line(disk: dict[str, Any]) -> str:
    """What is free on a disk, and what that means."""
    free = f"{size(disk['free_bytes'])} free on the disk of {disk['path']}"
    if disk["low"]:
        return f"{free}: dispatches are refused, {size(disk['required_bytes'])} must be"
    if not disk["required_bytes"]:
        return f"{free}; dispatches are never refused for it (min_free_bytes = 0)"
    return f"{free}; dispatches are refused below {size(disk['required_bytes'])}"


# --- the terminal -------------------------------------------------------------------------------


def width() -> int:
    """The cells of a line: what COLUMNS says, else the terminal."""
    return max(SLIMMEST_WIDTH, shutil.get_terminal_size((USUAL_WIDTH, 24)).columns)


def line_width() -> int:
    """The same for the lines of a feed, which in a pipe are not broken unless COLUMNS says so."""
    return max(SLIMMEST_WIDTH, shutil.get_terminal_size((LONGEST_LINE, 24)).columns)


def can_redraw() -> bool:
    """Whether a line that was printed can be written over."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def console(*, resizes: bool = False) -> Console:
    """rich's console with markup, emoji codes and guessing of numbers off; under NO_COLOR not even bold.

    Args:
        resizes: its size is the terminal's whenever it is asked, rather than what it is now.
    """
    from rich.console import Console

    # Given both, rich overrules neither.
    size = None if resizes else shutil.get_terminal_size((USUAL_WIDTH, 24))
    return Console(
        file=sys.stdout,
        markup=False,
        emoji=False,
        highlight=False,
        width=None if size is None else width(),
        height=None if size is None else size.lines,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
    )
