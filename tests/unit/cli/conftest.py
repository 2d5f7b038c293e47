"""Fixtures for the tests of ``vp``."""

from __future__ import annotations

import pytest

from tests.harness import Home
from tests.unit.cli.driver import Cli


@pytest.fixture
def cli(home: Home, capsys: pytest.CaptureFixture[str]) -> Cli:
    """``vp`` in this process, on a VP_HOME of its own."""
    return Cli(capsys)
