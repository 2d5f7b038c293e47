"""Fixtures of the acceptance tests."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from typing import Any

import pytest

from tests import oracle
from tests.harness import GENERAL, Home, ok
from tests.model_server import KEY, Ask, ModelServer, configure
from vp_queue import missions, tools
from vp_queue.worker.consumer import MissionWorker


@pytest.fixture
def ask(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Configure the generalist for a server, dispatch, and run one attempt in this process."""
    monkeypatch.setenv("THE_KEY", KEY)
    made: list[MissionWorker] = []

    def run(server: ModelServer, options: str = "", *, profile: str = "", **arguments: Any) -> dict[str, Any]:
        configure(home, server, options, profile)
        settings = missions.ready()
        worker = MissionWorker(settings, settings.profile(GENERAL))
        made.append(worker)
        mission = ok(tools.vp_dispatch_mission(vp_id=GENERAL, **{"objective": "Say something.", **arguments}))[
            "mission"
        ]
        worker.run(mission["mission_id"], 1)
        done: dict[str, Any] = ok(tools.vp_get_mission(mission_id=mission["mission_id"]))["mission"]
        return done

    yield run
    for worker in made:
        worker.close()
        atexit.unregister(worker.close)
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")
