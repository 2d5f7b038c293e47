"""What an artifact looks like on a page. Nothing of it is run, loaded or followed.

Text of any kind is escaped by the template. Markdown is the one thing that becomes HTML: its own HTML is off, and what
comes out is put through an allow-list of harmless elements, without images. Pictures are told by their first bytes and
come from an address of their own whose answer may do nothing.
"""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import markdown_it
import nh3
from markupsafe import Markup

from vp_queue import wording
from vp_queue.contracts.views import ArtifactView

PREVIEW_BYTES: Final = 256 * 1024
IMAGE_BYTES: Final = 16 * 1024 * 1024
IMAGE_HEAD_BYTES: Final = 12
MARKDOWN_BYTES: Final = 64 * 1024  # the worst of it takes seconds; longer ones are shown as they were written
LINES: Final = 4_000
PRETTY_CHARS: Final = 1024 * 1024  # of indented JSON
ROWS, COLUMNS, CELL_CHARS = 200, 40, 500
HEX_BYTES: Final = 512

NO_HTML: Final = Markup()

Kind = Literal["text", "markdown", "json", "diff", "table", "image", "hex"]
_TAGS: Final = frozenset(
    {
        *("a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p"),
        *("pre", "s", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"),
    }
)
_ATTRIBUTES: Final = {"a": {"href", "title"}, "ol": {"start"}}
_SCHEMES: Final = {"http", "https", "mailto"}


@dataclass(frozen=True)
class Preview:
    """A preview.

    Attributes:
        kind: how it is shown.
        lines: of text and hex: each line; of a diff: (class, line).
        rows: of a table, the first one its head.
        html: of Markdown, harmless.
        cut: less is shown than there is: ``shown_bytes`` of it.
    """

    kind: Kind
    lines: list[Any] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    html: Markup = NO_HTML
    cut: bool = False
    shown_bytes: int = 0


def preview(artifact: ArtifactView) -> Preview:
    """A preview of an artifact that was read with its content."""
    if artifact.encoding == "utf-8" and artifact.content is not None:
        return _of_text(artifact, artifact.content)
    head = base64.b64decode(artifact.content or "")
    if image_type(head) is not None:
        return Preview("image", shown_bytes=artifact.size)
    part = head[:HEX_BYTES]
    return Preview("hex", lines=_hex(part), cut=len(part) < artifact.size, shown_bytes=len(part))


def image_type(head: bytes) -> str | None:
    """The media type of a picture that browsers show, by its first bytes; SVG is a program, so it is none."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def markdown(text: str) -> Markup:
    """Markdown as harmless HTML: headings, lists, tables, code, links that leave no trace; no images, no HTML."""
    rendered = _MARKDOWN.render(wording.clean(text))
    # A link's address may hold what a cleaned text cannot, as character references; what comes out is cleaned again.
    harmless = nh3.clean(
        rendered,
        tags=set(_TAGS),
        attributes={name: set(names) for name, names in _ATTRIBUTES.items()},
        url_schemes=set(_SCHEMES),
        link_rel="noopener noreferrer nofollow ugc",
        url_relative="deny",
    )
    return Markup(wording.clean(harmless))


_MARKDOWN: Final = (
    markdown_it.MarkdownIt("commonmark", {"html": False, "linkify": False})
    .enable(["table", "strikethrough"])
    .disable("image")
)


def _of_text(artifact: ArtifactView, content: str) -> Preview:
    name, size = artifact.path.lower(), len(content.encode())
    kind = artifact.media_type.partition(";")[0]
    cut = artifact.truncated
    if kind == "text/markdown" and size <= MARKDOWN_BYTES:
        return Preview("markdown", html=markdown(content), cut=cut, shown_bytes=size)
    if name.endswith((".diff", ".patch")) or kind in ("text/x-diff", "text/x-patch"):
        lines, more = _lines(content)
        return Preview("diff", lines=_diff(lines), cut=cut or more, shown_bytes=size)
    if kind == "text/csv" or name.endswith(".tsv"):
        rows = _rows(content, "\t" if name.endswith(".tsv") else ",")
        if rows is not None:
            more = len(rows) > ROWS or any(len(row) > COLUMNS for row in rows)
            return Preview("table", rows=[_cells(row) for row in rows[:ROWS]], cut=cut or more, shown_bytes=size)
    if (kind == "application/json" or name.endswith(".json")) and not cut:
        pretty = _pretty(content)
        if pretty is not None:
            lines, more = pretty
            return Preview("json", lines=lines, cut=more, shown_bytes=size)
    lines, more = _lines(content)
    return Preview("text", lines=lines, cut=cut or more, shown_bytes=size)


def _lines(text: str) -> tuple[list[str], bool]:
    """The first lines, and whether there are more."""
    found = text.split("\n", LINES)
    if found[-1] == "" and len(found) > 1:
        found.pop()
    return found[:LINES], len(found) > LINES


def _pretty(text: str) -> tuple[list[str], bool] | None:
    """The first lines of JSON, indented, and whether there are more; None: it is none.

    Deep nesting indents each line by as much as it is deep, so that the whole may be a thousand times as long as what
    was written. Only so much is made as is shown.
    """
    made, breaks, chars = [], 0, 0
    try:
        for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(json.loads(text)):
            made.append(piece)
            breaks += piece.count("\n")
            chars += len(piece)
            if breaks > LINES or chars > PRETTY_CHARS:
                return _lines("".join(made))[0], True
    except (ValueError, RecursionError):
        return None
    return _lines("".join(made))


def _diff(lines: list[str]) -> list[tuple[str, str]]:
    return [(_diff_kind(line), line) for line in lines]


def _diff_kind(line: str) -> str:
    if line.startswith(("+++ ", "--- ", "diff ", "index ", "rename ", "new file", "deleted file")):
        return "file"
    return {"+": "add", "-": "del", "@": "hunk"}.get(line[:1], "")


def _rows(text: str, delimiter: str) -> list[list[str]] | None:
    """The first rows of a table and one more; None: it is none."""
    try:
        rows = list(itertools.islice(csv.reader(io.StringIO(text), delimiter=delimiter), ROWS + 1))
    except csv.Error:
        return None
    return rows if rows and len(rows[0]) > 1 else None


def _cells(row: list[str]) -> list[str]:
    return [cell if len(cell) <= CELL_CHARS else cell[:CELL_CHARS] + "…" for cell in row[:COLUMNS]]


def _hex(data: bytes) -> list[str]:
    return [
        f"{at:08x}  {data[at : at + 16].hex(' '):<47}  {_printable(data[at : at + 16])}"
        for at in range(0, len(data), 16)
    ]


def _printable(data: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
