"""Blots secret values out of text and of a stream of bytes. Standard library only: the launcher uses it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

REDACTED: Final = "[redacted]"


def redacted(text: str, secrets: Sequence[str]) -> str:
    """The text with every secret value replaced.

    Args:
        secrets: longest first, so that one which contains another is blotted out whole.
    """
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return text


class Redactor:
    """Redacts a stream whose chunks may cut a secret in two.

    Only bytes that could be the beginning of a secret are held back, so ordinary output is not delayed.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        """
        Args:
            secrets: the values to blot out, longest first.
        """
        self._values = [secret.encode("utf-8", "surrogateescape") for secret in secrets]
        self._pattern = re.compile(b"|".join(map(re.escape, self._values))) if self._values else None
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What of the stream so far may be shown now."""
        if self._pattern is None:
            return data
        text, position, shown = self._held + data, 0, []
        while True:
            hold = len(text) - self._overlap(text, position)
            match = self._pattern.search(text, position)
            if match is None or match.start() >= hold:
                break  # nothing certain is left: a match from here on may still grow into a longer one
            shown += [text[position : match.start()], REDACTED.encode()]
            position = match.end()
        self._held = text[hold:]
        return b"".join([*shown, text[position:hold]])

    def rest(self) -> bytes:
        """What was held back, at the end of the stream."""
        held, self._held = self._held, b""
        return self._pattern.sub(REDACTED.encode(), held) if self._pattern else held

    def _overlap(self, text: bytes, start: int) -> int:
        """How many bytes at the end of the text, from ``start`` on, begin a secret without completing it."""
        return max((_beginning(text, start, value) for value in self._values), default=0)


def _beginning(text: bytes, start: int, value: bytes) -> int:
    for length in range(min(len(text) - start, len(value) - 1), 0, -1):
        if text.endswith(value[:length]):
            return length
    return 0
