"""What every command shares: answers as JSON or for people, and text that cannot play tricks on a terminal.

Objectives, results, messages, logs and file names come from missions and are not trusted: escape
sequences, control characters and bidirectional overrides go before anything is printed, and rich's
markup is never applied to them.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from vp_queue import clock, errors

if TYPE_CHECKING:
    from rich.console import Console

Command = TypeVar("Command", bound=Callable[..., Any])

NOT_COMPLETED: Final = 1
WAIT_TIMED_OUT: Final = 5
# Wider cells than this may be cut where the terminal is narrow.
WIDEST_FIXED_COLUMN: Final = 24
SLIMMEST_LAST_COLUMN: Final = 12

_ESCAPES: Final = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC: titles, links, clipboard
    r"|\x1b[PX^_].*?\x1b\\"  # DCS, SOS, PM, APC
    r"|[\x1b\x9b]\[?[0-?]*[ -/]*[@-~]",  # CSI and the short ones
    re.DOTALL,
)
# Directional embeddings, overrides and isolates ("Trojan Source"), and marks that only reorder.
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_HIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
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


def failure(error: Mapping[str, Any], as_json: bool) -> int:
    """Print an error object; returns the exit code of its class."""
    if as_json:
        print_json({"ok": False, "error": error})
    else:
        field = error["details"].get("field")
        about = f" (argument: {field})" if field and field not in error["message"] else ""
        click.echo(f"Error: {clean(error['message'])}{about}", err=True)
        if error["retryable"]:
            click.echo(f"Trying again in {error.get('retry_after_seconds') or 1:g} s can help.", err=True)
    return exit_code(error["code"])


def exit_code(code: str) -> int:
    """The CLI's exit code for an error code, as its class has it."""
    return errors.by_code(code).exit_code


# --- text ---------------------------------------------------------------------------------------


def clean(text: object) -> str:
    """Text that may stand on a terminal; line breaks and tabs stay."""
    plain = _ESCAPES.sub("", str(text).replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(
        c for c in plain if c in "\n\t" or (unicodedata.category(c) not in _HIDDEN_CATEGORIES and c not in _BIDI)
    )


def line(text: object, width: int = 200) -> str:
    """Clean text on one line, shortened."""
    flat = " ".join(clean(text).split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


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


def duration(seconds: float | None) -> str:
    """Seconds for people: 3.2s, 4m10s, 2h05m, 3d04h."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    whole = int(seconds)
    for size, unit, below, small in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // below:02d}{small}"
    return f"{whole}s"


def size(count: int) -> str:
    """Bytes for people."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


# --- tables -------------------------------------------------------------------------------------


def console() -> Console:
    """rich's console with markup, emoji codes and guessing of numbers off."""
    from rich.console import Console

    return Console(file=sys.stdout, markup=False, emoji=False, highlight=False)


def table(columns: Iterable[str], rows: Iterable[Iterable[object]], *, last_column_folds: bool = False) -> None:
    """Print a table; cells are cleaned, a status gets its colour. The last column gives way in width.

    Args:
        last_column_folds: break its lines rather than shorten it.
    """
    from rich.table import Table
    from rich.text import Text

    names = list(columns)
    plain = clean if last_column_folds else line
    cells = [[plain(cell) for cell in row] for row in rows]
    grid = Table(box=None, pad_edge=False, header_style="bold")
    widths = [max(len(name), *(len(row[index]) for row in cells), 0) for index, name in enumerate(names)]
    fixed = [min(width, WIDEST_FIXED_COLUMN) for width in widths[:-1]]
    # Told outright: left to itself, rich takes whole columns away for one long cell in the last.
    left = max(SLIMMEST_LAST_COLUMN, console().width - sum(fixed) - 2 * len(fixed))
    for name, width in zip(names[:-1], fixed, strict=True):
        grid.add_column(name, no_wrap=True, overflow="ellipsis", min_width=width)
    grid.add_column(
        names[-1],
        no_wrap=not last_column_folds,
        overflow="fold" if last_column_folds else "ellipsis",
        max_width=left,
    )
    for row in cells:
        grid.add_row(*(Text(cell, style=STATUS_STYLES.get(cell, "")) for cell in row))
    console().print(grid)


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, leaving out what is not known."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value not in (None, "", [], {}):
            text = clean(value)
            grid.add_row(name, Text(text, style=STATUS_STYLES.get(text, "")))
    console().print(grid)
