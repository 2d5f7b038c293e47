"""A piece of a log as text that may be shown: whole characters, none that play tricks."""

from __future__ import annotations

from vp_queue import wording
from vp_queue.missions_logs import LogPiece

UTF_8_BYTES = 4  # of a character, at most


def shown(piece: LogPiece) -> tuple[str, int]:
    """A piece of a log as text, and how many bytes at its end belong to a character that is not whole yet."""
    cut = 0
    if not piece.over:
        cut = next((n for n in range(1, UTF_8_BYTES) if _begins_long(piece.text[-n:], n)), 0)
    return wording.clean(piece.text[: len(piece.text) - cut].decode("utf-8", "replace")), cut


def _begins_long(tail: bytes, count: int) -> bool:
    """Whether so many bytes are the beginning of a character that takes more."""
    if len(tail) < count or any(byte & 0xC0 != 0x80 for byte in tail[1:]):
        return False
    lead = tail[0]
    return count < (4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2 if lead >= 0xC0 else 0)
