"""``[retention]`` and ``min_free_bytes``: what is inherited, what is refused, and at which line."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from vp_queue import config
from vp_queue.config import Settings
from vp_queue.config_retention import DEFAULT, Retention
from vp_queue.errors import ConfigurationError

GENERAL, CODER = "vp.general.primary", "vp.coder.primary"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "vp_queue.toml"


def load(file: Path, text: str) -> Settings:
    file.write_text(text)
    return config.load({}, home=file.parent)


def test_without_a_word_in_the_file_the_defaults_hold(file: Path) -> None:
    settings = load(file, "")
    assert settings.retention == DEFAULT
    assert all(profile.retention == DEFAULT for profile in settings.vps.values())
    assert settings.min_free_bytes is None


def test_a_vp_overrides_single_keys_of_what_all_have(file: Path) -> None:
    settings = load(
        file,
        f'[retention]\nmax_age_days = 10\nmax_missions = 7\n[vp."{CODER}".retention]\nmax_age_days = 0.5\n',
    )
    assert settings.retention == Retention(max_age_days=10, max_missions=7)
    assert settings.vps[GENERAL].retention == settings.retention
    assert settings.vps[CODER].retention == Retention(max_age_days=0.5, max_missions=7)


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("max_age_days = 120", 120),  # whoever keeps everything longer means the failed ones too
        ("max_age_days = 0", 0),
        ("max_age_days = 1", 90),
        ("max_age_days = 1\nfailed_max_age_days = 1", 1),
        ("failed_max_age_days = 0", 0),
    ],
)
def test_failed_missions_are_never_kept_shorter(file: Path, text: str, failed: float) -> None:
    assert load(file, f"[retention]\n{text}\n").retention.failed_max_age_days == failed


def test_zero_means_any_age_and_even_then_a_dead_reader_holds_nothing_for_ever() -> None:
    forever = Retention(max_age_days=0, failed_max_age_days=0)
    assert forever.max_age(failed=False) is forever.max_age(failed=True) is None
    assert forever.unacknowledged_max_age(failed=False) == timedelta(days=60)
    assert forever.unacknowledged_max_age(failed=True) == timedelta(days=180)
    assert Retention(max_age_days=2).unacknowledged_max_age(failed=False) == timedelta(days=4)


REFUSED = {
    "an unknown key": ("[retention]\nmax_age = 3", 2, "retention.max_age", "did you mean max_age_days?"),
    "a negative age": ("[retention]\n\nmax_age_days = -1", 3, "retention.max_age_days", "greater than or equal to 0"),
    "an age in words": ('[retention]\nmax_age_days = "30d"', 2, "retention.max_age_days", "valid number"),
    "true as an age": ("[retention]\nmax_age_days = true", 2, "retention.max_age_days", "valid number"),
    "no number at all": ("[retention]\nmax_age_days = nan", 2, "retention.max_age_days", "finite"),
    "half a mission": ("[retention]\nmax_missions = 1.5", 2, "retention.max_missions", "integer"),
    "bytes in words": ('[retention]\nmax_bytes = "10G"', 2, "retention.max_bytes", "integer"),
    "no table": ("retention = 30", 1, "retention", "give a table"),
    "a misspelt table": ("[retentoin]\nmax_age_days = 3", 1, "retentoin", "did you mean retention?"),
    "failed ones kept shorter": (
        "[retention]\nmax_age_days = 30\nfailed_max_age_days = 7",
        3,
        "retention.failed_max_age_days",
        "give 30 or more, or 0",
    ),
    "failed ones not for ever": (
        "[retention]\nmax_age_days = 0\nfailed_max_age_days = 7",
        3,
        "retention.failed_max_age_days",
        "others: give 0",
    ),
    "a VP's failed ones kept shorter than all are": (
        f'[retention]\nmax_age_days = 30\n[vp."{CODER}".retention]\nfailed_max_age_days = 7',
        4,
        f'vp."{CODER}".retention.failed_max_age_days',
        "give 30 or more",
    ),
    "an unknown key of a VP": (
        f'[vp."{CODER}"]\ntitle = "C"\n[vp."{CODER}".retention]\nmax_byte = 1',
        4,
        f'vp."{CODER}".retention.max_byte',
        "did you mean max_bytes?",
    ),
    "a VP's that is no table": (f'[vp."{CODER}"]\nretention = []', 2, f'vp."{CODER}".retention', "give a table"),
    "a negative watermark": ("min_free_bytes = -1", 1, "min_free_bytes", "greater than or equal to 0"),
    "a watermark in words": ('min_free_bytes = "1G"', 1, "min_free_bytes", "integer"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_mistake_is_told_with_file_key_and_line(file: Path, what: str) -> None:
    text, line, key, problem = REFUSED[what]
    with pytest.raises(ConfigurationError) as refused:
        load(file, text)
    error = refused.value
    assert error.message.startswith(f"{file}:{line}: {key}: ")
    assert problem in error.message
    assert error.details == {"file": str(file), "key": key, "line": line}


def test_retention_is_no_part_of_what_a_consumer_must_be_restarted_for(file: Path) -> None:
    before = load(file, "").vps[CODER].digest
    assert load(file, f'[vp."{CODER}".retention]\nmax_age_days = 3\n').vps[CODER].digest == before
