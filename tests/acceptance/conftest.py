"""Fixtures of the acceptance tests."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests import oracle
from tests.browser import Dashboard, Watched, chromium, looking
from tests.harness import CODER, GENERAL, Home, home_at, ok
from tests.model_server import KEY, Ask, ModelServer, configure
from tests.web_server import serving
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. For one module: while it runs, its thread has an event loop that other tests would trip over."""
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def installation(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """An installation with both VPs at work, a keeper and the web face, shared by a module's tests."""
    with pytest.MonkeyPatch.context() as patch, home_at(tmp_path_factory.mktemp("dashboard")) as home:
        patch.setenv("VP_HOME", str(home.path))
        home.keeper()
        with serving(home) as server:
            home.consumer(GENERAL)
            home.consumer(CODER)
            yield Dashboard(home, server)
        home.close()
        oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", rescued=True)


@pytest.fixture
def dashboard(installation: Dashboard, monkeypatch: pytest.MonkeyPatch) -> Dashboard:
    """The installation, whose tools are this test's."""
    monkeypatch.setenv("VP_HOME", str(installation.home.path))
    return installation


@pytest.fixture
def watched(browser: Browser, dashboard: Dashboard) -> Iterator[Watched]:
    """A page of somebody who is logged in."""
    with looking(browser, dashboard.server) as opened:
        yield opened
