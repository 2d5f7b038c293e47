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
        text = self._pattern.sub(REDACTED.encode(), self._held + data)
        keep = max((_overlap(text, value) for value in self._values), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> bytes:
        """What was held back, at the end of the stream."""
        held, self._held = self._held, b""
        return held


def _overlap(text: bytes, value: bytes) -> int:
    """How many bytes at the end of the text begin the value."""
    for length in range(min(len(text), len(value) - 1), 0, -1):
        if text.endswith(value[:length]):
            return length
    return 0
