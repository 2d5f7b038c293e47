"""Shows a test which threads of its process wait for a mission."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vp_queue import missions, tools


def watch_waits(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The missions for which a thread waits, kept up to date until the test ends."""
    waiting: set[str] = set()

    def watched(request: Any, keep_waiting: Any = None) -> Any:
        waiting.add(request.mission_id)
        try:
            return missions.wait(request, keep_waiting)
        finally:
            waiting.discard(request.mission_id)

    definition = tools.DEFINITIONS["vp_wait_mission"]
    monkeypatch.setitem(tools.DEFINITIONS, definition.name, replace(definition, _use_case=watched))
    return waiting
