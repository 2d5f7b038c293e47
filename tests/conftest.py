"""Fixtures: every test gets a VP_HOME of its own, and nothing of the user's."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.harness import Home, home_at


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test may touch the user's own ledger, whatever it forgets to set."""
    for name in ("VP_CONFIG", "VP_DATABASE_URL", "VP_WORKSPACES_ROOT", "VP_LEASE_SECONDS", "VP_ARTIFACTS_URL", "VP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VP_HOME", str(tmp_path / "home"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A VP_HOME in which both VPs run commands; processes started on it end with the test."""
    with home_at(tmp_path) as made:
        monkeypatch.setenv("VP_HOME", str(made.path))
        yield made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where ``VP_TEST_NO_SKIPS`` is set, as in CI, a test that would be skipped fails with its reason."""
    report = yield
    if report.skipped and os.environ.get("VP_TEST_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and nothing may be skipped here: {report.longrepr}"
    return report
