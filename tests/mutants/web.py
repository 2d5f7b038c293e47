"""Mutants of the web face: its gate, its streams, its downloads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.mutants import mutant


@mutant
def answers_any_host_and_origin() -> None:
    """A gate that does not look at Host and Origin."""
    from vp_queue.mcp import access

    access.why_foreign = lambda headers, hosts: None


@mutant
def takes_any_token() -> None:
    """A gate that takes any bearer token for the right one."""
    from vp_queue.mcp import access

    access.bears = lambda headers, token: True


@mutant
def takes_any_cookie() -> None:
    """Sessions whose MAC is not compared."""
    from vp_queue.web import sessions

    class Believing(sessions.Sessions):
        def _mac(self, text: str) -> str:
            return "0" * 64

    from vp_queue.web import app

    app.Sessions = Believing  # type: ignore[misc]


@mutant
def takes_changes_without_csrf_token() -> None:
    """A gate that asks for no CSRF token."""
    from vp_queue.web import access

    access.Gate._forged = lambda self, request, body: None  # type: ignore[method-assign]


@mutant
def forgets_what_read_only_means() -> None:
    """A gate that lets changes through a server that only shows."""
    from vp_queue.web import access

    access.NOT_CHANGES = _Everything()  # type: ignore[misc,assignment]


class _Everything(frozenset[str]):
    def __contains__(self, path: object) -> bool:
        return True


@mutant
def starts_a_stream_anew_from_the_ring() -> None:
    """A stream that goes on with what the ring still holds, however far it had got."""
    from vp_queue.web import streams

    after = streams.Ring.after

    def skipping(self: Any, seq: int, wanted: Any) -> Any:
        return after(self, max(seq, self.base), wanted)

    async def from_the_ring(self: Any, asked: Any, cursor: int) -> Any:
        return skipping(self._ring, cursor, lambda event: True) if self._ring else (b"", cursor)

    streams.Feed._after = from_the_ring  # type: ignore[method-assign]


@mutant
def sends_before_it_knows() -> None:
    """A download whose last piece does not wait until the whole was compared with its hash."""
    from vp_queue.web import files

    def unverified(file: Any, span: Any) -> Iterator[bytes]:
        at = 0
        for piece in file.pieces():
            yield piece[max(0, span.first - at) : max(0, span.last + 1 - at)]
            at += len(piece)

    files._verified = unverified


@mutant
def pages_that_escape_nothing() -> None:
    """Templates that take every text for HTML."""
    _other_pages(autoescape=False)


@mutant
def pages_that_clean_nothing() -> None:
    """Templates that escape, and let control characters and bidirectional overrides through."""
    _other_pages(finalize=None)


def _other_pages(**changed: Any) -> None:
    from vp_queue.web import pages

    environment = pages._environment().overlay(**changed)
    pages._environment = lambda: environment  # type: ignore[assignment]


@mutant
def markdown_as_it_comes() -> None:
    """Markdown with its own HTML, as it was rendered."""
    import markdown_it
    from markupsafe import Markup

    from vp_queue.web import previews

    previews.markdown = lambda text: Markup(markdown_it.MarkdownIt("commonmark").render(text))
