"""Around one feed: writers that commit events, and readers of inboxes that may be killed at any moment.

Each runs in a process of its own, forked where everything is imported: what is killed is a reader at work.
"""

from __future__ import annotations

import json
import os
import random
import signal
from typing import Any

from tests import mutants
from tests.harness import GENERAL
from vp_queue import tools

HANDLED_AT_ONCE = 40


def write(count: int, guards: str) -> None:
    """Two events each, each committed by itself: a dispatch, its cancel.

    Args:
        guards: names of mutants to apply.
    """
    if guards:
        mutants.apply(guards)
    for _ in range(count):
        mission = _insist(
            tools.vp_dispatch_mission,
            vp_id=GENERAL,
            objective="x",
            source_session_id=f"s-{os.getpid()}",
        )["mission"]
        _insist(tools.vp_cancel_mission, mission_id=mission["mission_id"])


def read(reader: str, file: str, seed: int, acknowledge_first: bool) -> None:
    """Handle each page, then acknowledge it; or, as a careless reader would, the other way round."""
    draw = random.Random(seed)
    out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    handled: int | None = None
    while True:
        page = _insist(
            tools.vp_read_events,
            reader=reader,
            limit=draw.randint(1, HANDLED_AT_ONCE),
            acknowledge=handled,
            wait_seconds=0.5,
        )
        seqs = [event["seq"] for event in page["events"]]
        if acknowledge_first and seqs:
            _insist(tools.vp_read_events, reader=reader, acknowledge=page["last_seq"], limit=1)
            if draw.random() < 0.2:
                os.kill(os.getpid(), signal.SIGKILL)
        if seqs:
            os.write(out, (json.dumps({"seqs": seqs, "last_seq": page["last_seq"]}) + "\n").encode())
        handled = page["last_seq"]


def _insist(tool: tools.Tool, **arguments: Any) -> dict[str, Any]:
    while True:
        answer = tool(**arguments)
        if answer["ok"]:
            return answer
        if not answer["error"]["retryable"]:
            raise SystemExit(f"{tool} answered {answer['error']}")
