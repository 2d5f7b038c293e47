"""Text for people, on a terminal or a page, that cannot play tricks on its reader.

Objectives, results, messages, logs and file names come from missions and are not trusted: escape sequences, control
characters and bidirectional overrides go before anything is shown.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_ESCAPES: Final = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC: titles, links, clipboard
    # DCS, SOS, PM, APC. Each ends before the next escape: else a log of openings alone takes minutes.
    r"|\x1b[PX^_][^\x1b]*\x1b\\"
    r"|[\x1b\x9b]\[?[0-?]*[ -/]*[@-~]"  # CSI and the short ones
)
# Directional embeddings, overrides and isolates ("Trojan Source"), and marks that only reorder.
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_HIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})


def clean(text: object) -> str:
    """Text that may stand on a terminal; line breaks and tabs stay."""
    given = str(text)
    if given.isprintable():  # holds none of all that; most texts of a page are such
        return given
    plain = _ESCAPES.sub("", given.replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(
        c for c in plain if c in "\n\t" or (unicodedata.category(c) not in _HIDDEN_CATEGORIES and c not in _BIDI)
    )


def cells(text: str) -> int:
    """How many cells of a terminal a text takes: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def line(text: object, width: int = 200) -> str:
    """Clean text on one line, shortened to so many cells."""
    # What cannot be shown anyway is not measured: an objective may have 100,000 characters.
    flat = " ".join(clean(str(text)[: 50 * width]).split())
    if cells(flat) <= width:
        return flat
    if flat.isascii():
        return flat[: width - 1] + "…"
    from rich.cells import set_cell_size

    return set_cell_size(flat, width - 1).rstrip(" ") + "…"


def excerpt(text: str, chars: int) -> str:
    """The beginning of a text, and how much was left out."""
    left = len(text) - chars
    return text if left <= 0 else f"{text[:chars].rstrip()} … ({left:,} more characters; --json has them all)"


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
