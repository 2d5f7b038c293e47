"""What a Python callable is given to carry out a mission: :class:`MissionContext`.

It lives in the attempt's own process. Everything it tells the worker goes as JSON lines through the report
descriptor, like any program's reports.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from vp_queue.contracts.limits import REPORT_LINE_BYTES

MESSAGE_CHARS: Final = 4_000


class MissionFailed(Exception):
    """Raised by a callable to fail its mission for a reason it knows."""

    def __init__(self, code: str, message: str) -> None:
        """
        Args:
            code: ``auth``, ``rate_limited``, ``context_exceeded``, ``refused``, ``crashed``,
                ``executor_error``, ``executor_unavailable`` or ``output_limit``.
            message: what happened, and what to do about it.
        """
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True)
class MissionContext:
    """One attempt at a mission, as its callable sees it. Paths are on this host.

    Attributes:
        mission_id, vp_id: whose work this is.
        attempt: 1 for the first.
        objective: what to do, in the orchestrator's words: text from outside, not to be trusted.
        guidance: what to do otherwise, if this mission retries another.
        constraints, budget, metadata: as dispatched.
        arguments: the profile's ``options.arguments``.
        workspace: this attempt's folder; its files stay when the mission has ended.
        work_products: what is left here becomes the mission's artifacts.
        target_path: the folder to work in, if the mission names one; then it is the working directory.
        cancelled: set when the attempt is to end (SIGTERM); return soon, or be killed after the grace.
    """

    mission_id: str
    vp_id: str
    attempt: int
    objective: str
    guidance: str | None
    constraints: Mapping[str, Any]
    budget: Mapping[str, Any]
    metadata: Mapping[str, str]
    arguments: Mapping[str, Any]
    workspace: Path
    work_products: Path
    target_path: Path | None
    cancelled: threading.Event = field(default_factory=threading.Event)

    def report(
        self, *, fraction: float | None = None, message: str | None = None, usage: Mapping[str, Any] | None = None
    ) -> None:
        """Tell progress, or usage so far.

        Args:
            fraction: 0 to 1.
            message: a short text, up to 500 characters.
            usage: ``input_tokens``, ``output_tokens``, ``turns``, ``cost_usd``; each the total so far.
        """
        if message is not None:
            message = message[:MESSAGE_CHARS]  # of which the worker, once it has redacted it, keeps the beginning
        told = {"progress": fraction, "message": message, "usage": dict(usage) if usage is not None else None}
        send_report({key: value for key, value in told.items() if value is not None})


def send_report(report: Mapping[str, Any]) -> None:
    """Write one report for the worker; the descriptor's number stands in VP_REPORT_FD.

    Raises:
        ValueError: it is longer than the worker reads; it would be dropped.
    """
    # Each character as itself: six bytes for an escape would make a report of half the length too long. A lone
    # surrogate has no other form than its escape, which is JSON's as well.
    text = json.dumps(report, ensure_ascii=False).encode(errors="backslashreplace")
    if len(text) > REPORT_LINE_BYTES:
        raise ValueError(f"a report is longer than {REPORT_LINE_BYTES} bytes")
    line = memoryview(text + b"\n")
    with _reporting:  # longer than a pipe takes at once: another thread's line must not come between
        while line:
            line = line[os.write(int(os.environ["VP_REPORT_FD"]), line) :]


_reporting = threading.Lock()
