"""The examples do what they say: an executor in a package of its own, a callable, an orchestrator."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import oracle
from tests.harness import GENERAL, Home, ended, ok, until, worker_pids
from vp_queue import tools

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# The objective is the fifth line of the briefing.
POET = '#!/bin/sh\nprintf \'an old %s\\na mission jumps in\\n%s\' "$(sed -n 5p "$1" | cut -c 1-5)" "$LAST"\n'


@pytest.fixture
def with_plugin(home: Home, tmp_path: Path) -> dict[str, str]:
    """An environment in which the example package is installed, and a profile that names it."""
    source = shutil.copytree(EXAMPLES / "executor_package", tmp_path / "source")
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    pip += ["--no-build-isolation", "--no-index", "--target", str(target), str(source)]
    subprocess.run(pip, check=True, timeout=120)
    poet = tmp_path / "poet"
    poet.write_text(POET)
    poet.chmod(0o700)
    with (home.path / "vp_queue.toml").open("a") as file:
        file.write(
            '[vp."vp.poet.primary"]\nexecutor = "haiku"\nenv_allow = ["PATH", "LAST"]\n'
            f'[vp."vp.poet.primary".options]\npoet = "{poet}"\n'
        )
    return {"PYTHONPATH": str(target)}


def vp(
    home: Home, environment: dict[str, str], *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vp_queue.cli.main", *arguments]
    variables = {**home.environment, **environment}
    return subprocess.run(command, env=variables, input=stdin, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("last", "status", "code"), [("plop", "completed", None), ("plop\nplop", "failed", "refused")])
def test_an_executor_of_another_package_runs_and_judges(
    home: Home, with_plugin: dict[str, str], last: str, status: str, code: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(with_plugin["PYTHONPATH"])
    home.start("huey_consumer", "vp_queue.tasks.app.huey", VP_ID="vp.poet.primary", LAST=last, **with_plugin)
    until(lambda: worker_pids("vp.poet.primary"), "the poet's consumer registered")
    # Longer than what Linux takes for one argument (128 KiB): it must not come to the poet as one.
    objective = "queue" + "é" * 80_000
    dispatched = vp(home, with_plugin, "dispatch", "vp.poet.primary", "-", "--wait", "30", "--json", stdin=objective)
    assert dispatched.returncode == (0 if code is None else 1), dispatched.stdout + dispatched.stderr
    (mission,) = ok(tools.vp_list_missions(vp_id="vp.poet.primary"))["missions"]
    assert mission["status"] == status
    assert (mission["failure"] or {}).get("code") == code
    if code is None:
        assert mission["result"] == "an old queue"
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")


def test_without_the_package_the_profile_is_told_with_its_line(home: Home, with_plugin: dict[str, str]) -> None:
    without = vp(home, {}, "vps")
    assert without.returncode == 2
    assert "no executor is called 'haiku'" in without.stderr
    assert vp(home, with_plugin, "vps").returncode == 0


def test_the_callable_counts_words(home: Home) -> None:
    (home.path / "vp_queue.toml").write_text(
        f'[vp."{GENERAL}"]\nexecutor = "python"\n[vp."{GENERAL}".options]\n'
        f'callable = "word_counter:count"\npath = ["{EXAMPLES / "python_vp"}"]\narguments = {{most = 1}}\n'
    )
    home.consumer()
    done = ended(ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="to be or not to be"))["mission"]["mission_id"])
    assert done["result"] == "6 words, 4 different; see words.txt."
    read = ok(tools.vp_read_result_artifacts(mission_id=done["mission_id"]))
    assert [artifact["content"] for artifact in read["artifacts"]] == ["2 to\n"]


def test_simone_delegates_sees_it_through_and_acknowledges(home: Home) -> None:
    home.consumer()
    command = [sys.executable, str(EXAMPLES / "simone.py"), "Write a poem"]

    def simone() -> str:
        done = subprocess.run(command, env={**os.environ, **home.environment}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    first = simone()
    assert "\ndispatched: m-" in first
    assert "poem.md: 14 bytes" in first
    assert "events in the inbox, the last: mission.completed" in first
    second = simone()
    assert "was dispatched before: m-" in second
    assert "0 events in the inbox" in second
    assert len(ok(tools.vp_list_missions())["missions"]) == 1


def test_simone_ends_with_the_error_that_says_what_to_do(home: Home) -> None:
    command = [sys.executable, str(EXAMPLES / "simone.py"), "x", "vp.nobody"]
    done = subprocess.run(command, env={**os.environ, **home.environment}, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("unknown_vp: ")
