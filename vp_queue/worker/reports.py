"""Reads a program's reports: JSON lines on VP_REPORT_FD, bounded, and tolerant of nonsense.

Reports have a descriptor of their own, so that text which an agent echoes to its output can forge none.
A line that is too long or no JSON object is dropped and counted; it never ends a mission (an earlier
system died of a line over 64 KiB).
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from typing import Any, Final

from vp_queue.contracts import REPORTABLE_FAILURES, FailureCode, limits
from vp_queue.worker.redaction import redacted

READ_BYTES: Final = 65_536
READS_PER_TURN: Final = 16
_COUNTS: Final = ("input_tokens", "output_tokens", "turns")


@dataclass
class Reported:
    """What a program has reported so far; ``fresh`` is set when progress has news.

    Texts are redacted before they are cut, or the first half of a secret would stay.
    """

    fraction: float | None = None
    message: str | None = None
    result: str | None = None
    failure: tuple[FailureCode, str] | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    fresh: bool = False
    secrets: tuple[str, ...] = ()
    dropped: int = 0

    def progress(self, fraction: object, message: object) -> None:
        """Take over what is usable of a progress report; ``fraction`` is 0 to 1."""
        if isinstance(fraction, int | float) and not isinstance(fraction, bool) and abs(fraction) < math.inf:
            # Bounded before it is made a float: JSON's integers may be larger than any.
            self.fraction, self.fresh = float(min(1, max(0, fraction))), True
        if isinstance(message, str):
            self.message, self.fresh = self._text(message, limits.PROGRESS_MESSAGE_CHARS), True

    def tell_result(self, result: object) -> None:
        """Take over a result, if it is one."""
        if isinstance(result, str):
            self.result = self._text(result, limits.RESULT_CHARS)

    def tell_failure(self, failure: object) -> None:
        """Take over why the program says it failed: a code that programs may give, and a message."""
        if not isinstance(failure, dict):
            return
        code, message = failure.get("code"), failure.get("message")
        if isinstance(code, str) and code in REPORTABLE_FAILURES and isinstance(message, str):
            self.failure = FailureCode(code), self._text(message, limits.FAILURE_MESSAGE_CHARS)

    def _text(self, text: str, most_chars: int) -> str:
        return clean(redacted(text, self.secrets), most_chars)

    def add_usage(self, usage: object) -> None:
        """Take over the numbers of a usage report; each is the total so far."""
        if not isinstance(usage, dict):
            return
        for key in _COUNTS:
            value = usage.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limits.TOKENS:
                self.usage[key] = value
        cost = usage.get("cost_usd")
        if isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost <= limits.COST_USD:
            self.usage["cost_usd"] = float(cost)


def clean(text: str, most_chars: int) -> str:
    """Text the ledger can hold: no NUL, no lone surrogate, bounded."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    return text if len(text) <= most_chars else text[: most_chars - 1] + "…"


class ReportReader:
    """Splits what arrives on a non-blocking descriptor into lines and takes them in."""

    def __init__(self, descriptor: int, into: Reported) -> None:
        """
        Args:
            descriptor: the reading end of the report pipe, non-blocking; closed by the caller.
            into: where the reports go.
        """
        self.descriptor = descriptor
        self._into = into
        self._partial = b""
        self._skipping = False  # inside a line that is already known to be too long

    def read(self) -> bool:
        """Take in what has arrived. False at the end of the pipe."""
        for _ in range(READS_PER_TURN):
            try:
                data = os.read(self.descriptor, READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                self._line(self._partial)
                self._partial = b""
                return False
            self._feed(data)
        return True

    def _feed(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._line(line)
        if len(self._partial) > limits.REPORT_LINE_BYTES:
            self._partial, self._skipping = b"", True
            self._into.dropped += 1

    def _line(self, line: bytes) -> None:
        if self._skipping:
            self._skipping = False
            return
        if not line.strip():
            return
        try:
            report = json.loads(line) if len(line) <= limits.REPORT_LINE_BYTES else None
        except (ValueError, RecursionError):
            report = None
        if not isinstance(report, dict):
            self._into.dropped += 1
            return
        self._into.progress(report.get("progress"), report.get("message"))
        self._into.add_usage(report.get("usage"))
        self._into.tell_result(report.get("result"))
        self._into.tell_failure(report.get("failure"))
