"""What a dispatch may cost, counted rather than timed: statements, looks at the disk, searches for programs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness import GENERAL, Home, ok
from vp_queue import clock, config, tools
from vp_queue.executors import registry
from vp_queue.executors.base import Availability
from vp_queue.ledger import database


def dispatch(**more: Any) -> dict[str, Any]:
    answer: dict[str, Any] = ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="x", **more))["mission"]
    return answer


@pytest.fixture
def settled(home: Home) -> Home:
    """A home whose file is old enough for its time stamp to be believed."""
    file = home.path / "vp_queue.toml"
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns - 10**9))
    return home


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[tuple[Any, ...]]:
    """The arguments of each call of a function from now on."""
    calls: list[tuple[Any, ...]] = []
    original: Callable[..., Any] = getattr(owner, name)

    def call(*args: Any, **given: Any) -> Any:
        calls.append(args)
        return original(*args, **given)

    monkeypatch.setattr(owner, name, call)
    return calls


def statements(act: Callable[[], object]) -> list[str]:
    """The first two words of each statement that SQLite runs in this thread meanwhile."""
    ran: list[str] = []
    connection = database.current().db.connection()
    connection.trace(lambda event, sid, sql, ns: ran.append(" ".join(sql.split()[:3])), 1, False)
    try:
        act()
    finally:
        connection.trace(None, 0)
    return list(dict.fromkeys(ran))  # each trigger is told as its statement once more


def test_a_dispatch_is_three_inserts_and_a_count_and_nothing_else_under_the_write_lock(settled: Home) -> None:
    dispatch()
    assert statements(dispatch) == [
        "BEGIN immediate",
        "INSERT INTO task",
        'INSERT INTO "vp_mission"',
        'INSERT INTO "vp_event"',
        "INSERT INTO vp_tally",
        "COMMIT",
    ]


def test_a_dispatch_with_a_key_looks_for_it_before_and_under_the_lock(home: Home) -> None:
    dispatch()
    ran = statements(lambda: dispatch(idempotency_key="k"))
    assert ran[ran.index("BEGIN immediate") :].count('INSERT INTO "vp_idempotency_key"') == 1


def test_the_program_is_not_searched_for_at_each_dispatch(settled: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatch()
    searches = counted(monkeypatch, shutil, "which")
    dispatch()
    assert searches == []


def test_a_program_that_vanished_is_noticed_within_a_second(settled: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    dispatch()
    monkeypatch.setenv("PATH", "/nowhere")

    class Later(clock.SystemClock):
        def monotonic(self) -> float:
            return super().monotonic() + registry.YES_SECONDS

    with clock.use(Later()):
        refused = tools.vp_dispatch_mission(vp_id=GENERAL, objective="x")
    assert refused["error"]["code"] == "executor_unavailable"


def test_a_program_that_was_missing_is_found_at_once_when_it_comes(
    settled: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", "/nowhere")
    assert not tools.vp_dispatch_mission(vp_id=GENERAL, objective="x")["ok"]
    monkeypatch.setenv("PATH", path)
    dispatch()


def test_a_yes_is_remembered_for_the_very_profile_only() -> None:
    first, second = {"argv": ["true"]}, {"argv": ["no-such-program-anywhere"]}
    assert registry.lately_available("command", first).ok
    assert not registry.lately_available("command", second).ok
    assert registry.lately_available("command", dict(first)) == Availability(True)


def test_what_is_remembered_is_bounded() -> None:
    for _ in range(3 * registry.YES_KEPT):
        registry.lately_available("command", {"argv": ["true"]})
    assert len(registry._lately) <= registry.YES_KEPT


def test_settings_that_did_not_change_cost_one_look_at_the_file(settled: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config.load()
    reads = counted(monkeypatch, config, "_read")
    looks = counted(monkeypatch, os, "stat")
    assert config.load() is settings
    assert (len(looks), reads) == (1, [])
