"""Tables and lists of fields, fitted to the terminal: what identifies stays whole, the rest gives way.

All widths are cells, not characters: 日 takes two. They are decided here and told to rich outright, which
left to itself takes whole columns away for one long cell in the last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vp_queue.cli import output
from vp_queue.cli.output import STATUS_STYLES, cells, clean

if TYPE_CHECKING:
    from rich.table import Table

GAP: Final = 2
# The last column is given this much before others are shortened, and this much before others are broken.
COMFORTABLE: Final = 40
SLIM: Final = 16
MISSION_ID: Final = 24  # is broken after everything else
SLIMMEST: Final = 6
LONGEST_CELL: Final = 1_000

_LONG_WORD: Final = re.compile(r"\S{9,}")
_FOLDERS: Final = re.compile(r"[^/]*/|[^/]+")
_PARTS: Final = re.compile(r"[^._-]*[._-]|[^._-]+")
_PADDING: Final = re.compile(r" +((?:\x1b\[[0-9;]*m)*)$", re.MULTILINE)


@dataclass(frozen=True)
class Column:
    """A column that is not simply kept whole.

    Attributes:
        name: its heading.
        least: the cells it may be narrowed to, to the last column's good; None: it stays whole.
        folds: broken over lines where it is narrow, rather than shortened.
        optional: left out where the terminal is narrow.
    """

    name: str
    least: int | None = None
    folds: bool = False
    optional: bool = False


def table(
    columns: Iterable[str | Column], rows: Iterable[Iterable[object]], *, last_column_folds: bool = False
) -> None:
    """Print a table; cells are cleaned, a status gets its colour. The last column has the width that is left.

    Args:
        columns: headings, or :class:`Column`.
        rows: cells in the order of the columns.
        last_column_folds: break its lines rather than shorten it.
    """
    heads = [column if isinstance(column, Column) else Column(column) for column in columns]
    body = [[_cell(cell, last_column_folds and at == len(heads) - 1) for at, cell in enumerate(row)] for row in rows]
    natural = [
        max(cells(part) for text in (head.name, *(row[at] for row in body)) for part in text.split("\n"))
        for at, head in enumerate(heads)
    ]
    kept = _kept(heads, natural, output.width())
    heads, natural = [heads[at] for at in kept], [natural[at] for at in kept]
    _print(heads, [[row[at] for at in kept] for row in body], natural, last_column_folds)


def _cell(value: object, folds: bool) -> str:
    return clean(value).expandtabs(4).strip("\n") if folds else output.line(value, LONGEST_CELL)


def _kept(heads: Sequence[Column], natural: Sequence[int], width: int) -> list[int]:
    """The columns that are shown: optional ones only where the last keeps a comfortable width."""
    kept = list(range(len(heads)))
    for at in [at for at in reversed(kept) if heads[at].optional]:
        needed = sum(natural[each] for each in kept[:-1]) + GAP * (len(kept) - 1)
        if needed + min(natural[-1], COMFORTABLE) > width:
            kept.remove(at)
    return kept


def fitted(heads: Sequence[Column], natural: Sequence[int], width: int) -> list[int]:
    """The widths that fit: the last column gives way, then what may be shortened, then whatever is widest."""
    widths = list(natural)
    excess = sum(widths) + GAP * (len(widths) - 1) - width
    last = len(widths) - 1

    def shrink(at: int, least: int) -> None:
        nonlocal excess
        taken = max(0, min(excess, widths[at] - least))
        widths[at] -= taken
        excess -= taken

    shrink(last, COMFORTABLE)
    for at in sorted(range(last), key=lambda each: -widths[each]):
        least = heads[at].least
        if least is not None:
            shrink(at, least)
    shrink(last, SLIM)
    by_width = sorted(range(len(widths)), key=lambda each: -widths[each])
    for at in by_width:
        shrink(at, MISSION_ID)
    for at in [last, *(each for each in by_width if heads[each].least is not None), *by_width]:
        shrink(at, SLIMMEST)
    return widths


def _print(heads: Sequence[Column], body: list[list[str]], natural: Sequence[int], last_column_folds: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    widths = fitted(heads, natural, output.width())
    # What may not be shortened is broken, if it really does not fit: an id can then still be read.
    cut = [head.least is not None and not head.folds for head in heads[:-1]] + [not last_column_folds]
    for head, width, is_cut in zip(heads, widths, cut, strict=True):
        grid.add_column(head.name, width=width, no_wrap=is_cut, overflow="ellipsis" if is_cut else "fold")
    for row in body:
        shown = [cell if is_cut else broken(cell, width) for cell, width, is_cut in zip(row, widths, cut, strict=True)]
        grid.add_row(*(Text(text, style=STATUS_STYLES.get(cell, "")) for text, cell in zip(shown, row, strict=True)))
    _show(grid)


def broken(text: str, width: int) -> str:
    """A text whose long words, ids and paths, are broken after a separator rather than just anywhere."""
    return _LONG_WORD.sub(lambda found: _broken_word(found[0], width), text)


def _broken_word(word: str, width: int) -> str:
    if cells(word) <= width:
        return word
    lines = [""]
    for part in _FOLDERS.findall(word):
        for piece in [part] if cells(part) <= width else _PARTS.findall(part):
            if lines[-1] and cells(lines[-1] + piece) > width:
                lines.append("")
            lines[-1] += piece
    return "\n".join(lines)


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, leaving out what is not known."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    known = [(name, _cell(value, True)) for name, value in pairs if value not in (None, "", [], {})]
    left = output.width() - GAP - max((cells(name) for name, _ in known), default=0)
    for name, text in known:
        grid.add_row(name, Text(broken(text, left), style=STATUS_STYLES.get(text, "")))
    _show(grid)


def _show(grid: Table) -> None:
    """Print it without the blanks that rich puts at the end of each line."""
    console = output.console()
    with console.capture() as captured:
        console.print(grid)
    console.file.write(_PADDING.sub(r"\1", captured.get()))
