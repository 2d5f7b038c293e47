"""What came of telling a sink one event."""

from __future__ import annotations

from dataclasses import dataclass

from vp_queue.worker.reports import clean


@dataclass(frozen=True)
class Given:
    """The sink has taken it."""


@dataclass(frozen=True)
class Again:
    """It was not told, and may be later.

    Attributes:
        error: why.
        wait_seconds: what the receiver asks for, if it does.
    """

    error: str
    wait_seconds: float | None = None


@dataclass(frozen=True)
class Refused:
    """It will not be told however often it is tried.

    Attributes:
        error: why.
    """

    error: str


Outcome = Given | Again | Refused


def shown(text: str, most_chars: int = 200) -> str:
    """A stranger's words on one bounded line that the ledger can hold."""
    return clean(" ".join(text[: 20 * most_chars].split()), most_chars)
