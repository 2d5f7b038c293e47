"""The benchmarks run, leave nothing behind, and say what they are for. How fast this machine is, is not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness import alive_with_environment

BENCH = Path(__file__).resolve().parents[2] / "bench"


def run(script: str, *arguments: str, folder: Path, status: int | None = 0) -> str:
    environment = {**os.environ, "TMPDIR": str(folder)}
    argv = [sys.executable, str(BENCH / script), *arguments]
    ended = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert ended.returncode == status or status is None, ended.stderr
    assert ended.stderr.startswith(("All ", "NOT MET: ", "not measured: ")), "the verdict"
    assert list(folder.iterdir()) == []  # its temporary folder is gone
    assert alive_with_environment("TMPDIR", str(folder)) == []
    assert (ended.returncode == 1) == ("--strict" in arguments and not ended.stderr.startswith("All "))
    return ended.stdout


def document(text: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(text)
    assert {"cpu", "cpus", "kernel", "python", "sqlite", "file_system"} <= parsed["facts"].keys()
    assert all(goal.keys() == {"name", "wanted", "value", "met"} for goal in parsed["goals"])
    return parsed


def test_dispatch(tmp_path: Path) -> None:
    told = document(run("dispatch.py", "--missions", "20", "--starts", "2", "--skip-idle", "--json", folder=tmp_path))
    assert told["facts"]["fsync_per_second"] > 0
    assert told["dispatch"].keys() == {"1", "8"}
    for figures in told["dispatch"].values():
        for kind in ("ceiling", "ours"):
            assert figures[kind]["errors"] == 0
            assert figures[kind]["samples"] >= 20
            assert 0 < figures[kind]["p50_ms"] <= figures[kind]["p99_ms"] <= figures[kind]["max_ms"]
        assert figures["ratio"] > 0
    assert {"bare", "ours", "call", "beyond", "after_idle_beyond_ms"} == told["start"].keys()
    assert told["start"]["ours"]["samples"] == 2
    by_name = {goal["name"]: goal for goal in told["goals"]}
    assert by_name["dispatch errors"]["met"] is True
    assert by_name["the same after a long idle time, p50"]["met"] is None
    assert by_name["the same after a long idle time, worst"]["met"] is None


def test_a_goal_that_is_missed_or_was_not_measured_shows_in_the_exit_status(tmp_path: Path) -> None:
    options = ["--missions", "20", "--starts", "1", "--skip-idle", "--json", "--strict"]
    told = document(run("dispatch.py", *options, folder=tmp_path, status=1))
    assert [goal["name"] for goal in told["goals"] if goal["met"] is None], "those of a long idle time"
    told = document(run("cli.py", "--runs", "1", "--missions", "3", "--json", "--strict", folder=tmp_path, status=None))
    assert None not in [goal["met"] for goal in told["goals"]]


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("dispatch.py", ["--missions", "20", "--starts", "1", "--idle-seconds", "0.1", "--idle-samples", "1"]),
        ("cli.py", ["--runs", "1", "--missions", "3", "--imports", "2"]),
        ("overview.py", ["--runs", "1", "--missions", "300"]),
    ],
)
def test_its_table_fits_80_columns(script: str, arguments: list[str], tmp_path: Path) -> None:
    text = run(script, *arguments, folder=tmp_path)
    assert max(map(len, text.splitlines())) <= 80
    assert "goal" in text
    assert "not measured" not in text


def test_rescue(tmp_path: Path) -> None:
    told = document(run("rescue.py", "--kills", "2", "--cancels", "2", "--json", folder=tmp_path))
    assert (told["rescued"]["samples"], told["runs_again"]["samples"], told["cancelled"]["samples"]) == (2, 1, 2)
    assert told["alive_when_rescued"] == 0
    assert len(told["goals"]) == 4
    assert all(goal["value"] is not None for goal in told["goals"])


def test_command_line(tmp_path: Path) -> None:
    told = document(run("cli.py", "--runs", "2", "--missions", "3", "--imports", "4", "--json", folder=tmp_path))
    assert told["commands"].keys() == {"python -I -c pass", "vp --help", "vp list --json"}
    assert told["commands"]["python -I -c pass"]["times_bare"] == 1
    assert [len(row) for row in told["imports"]] == [3] * 4
    assert len(told["goals"]) == 2


def test_fifty_streams_of_events_miss_nothing(tmp_path: Path) -> None:
    told = document(run("sse.py", "--seconds", "3", "--json", "--strict", folder=tmp_path))
    assert told["sse"]["events"] >= 30
