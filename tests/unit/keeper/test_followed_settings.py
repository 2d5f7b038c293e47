"""What the keeper goes by while its file is changed under it."""

from __future__ import annotations

import logging

import pytest

from tests.harness import Home
from vp_queue import config
from vp_queue.keeper.followed_settings import FollowedSettings

TABLE = "[retention]\nmax_age_days = 400\n"


@pytest.fixture
def followed(home: Home) -> FollowedSettings:
    home.configure(more=TABLE)
    return FollowedSettings(config.load(), "retention")


def days(followed: FollowedSettings) -> float | None:
    return followed.current().retention.max_age_days


def test_a_change_counts_at_once(home: Home, followed: FollowedSettings) -> None:
    assert days(followed) == 400
    home.configure(more=TABLE.replace("400", "500"))
    assert days(followed) == 500


@pytest.mark.parametrize("written", [None, "", "[retention"], ids=["gone", "empty", "half a line"])
def test_a_file_that_is_being_written_changes_nothing(
    home: Home, followed: FollowedSettings, written: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = config.load().config_path
    if written is None:
        path.unlink()
    else:
        path.write_text(written)
    with caplog.at_level(logging.WARNING, "vp_queue.keeper"):
        assert [days(followed), days(followed)] == [400, 400]
    assert caplog.text.count("goes on with the settings that were") == 1
    home.configure(more=TABLE.replace("400", "500"))
    assert days(followed) == 500
