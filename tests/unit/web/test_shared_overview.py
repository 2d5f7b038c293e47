"""One overview for all who look at once: never one from before an event that has been told."""

from __future__ import annotations

import pytest

from tests.harness import GENERAL, Home, ok
from vp_queue import clock, missions_overview, tools
from vp_queue.web import shared_overview
from vp_queue.web.shared_overview import SharedOverview


@pytest.fixture
def shared(home: Home, monkeypatch: pytest.MonkeyPatch) -> SharedOverview:
    monkeypatch.setattr(shared_overview, "SECONDS", 3_600.0)
    return SharedOverview()


def test_it_is_made_once_while_nothing_happens(shared: SharedOverview) -> None:
    assert shared.get() is shared.get()


def test_an_event_makes_it_anew(shared: SharedOverview) -> None:
    before = shared.get()
    mission_id = ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="x"))["mission"]["mission_id"]
    after = shared.get()
    assert after is not before
    assert after.events[0].mission_id == mission_id


def test_an_event_that_comes_while_it_is_made_makes_it_anew(
    shared: SharedOverview, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = missions_overview.overview

    def made_too_early(**given: int) -> object:
        made = make(**given)
        ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="x"))
        return made

    with monkeypatch.context() as patch:
        patch.setattr(missions_overview, "overview", made_too_early)
        assert not shared.get().events
    assert len(shared.get().events) == 1


def test_what_changes_without_an_event_is_old_soon(shared: SharedOverview, monkeypatch: pytest.MonkeyPatch) -> None:
    before, now = shared.get(), clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now + 3_700)
    assert shared.get() is not before


def test_it_can_be_forgotten(shared: SharedOverview) -> None:
    before = shared.get()
    shared.forget()
    assert shared.get() is not before
