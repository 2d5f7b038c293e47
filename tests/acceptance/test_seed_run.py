"""The handoff document's validation run, on the real thing: ``vp up``, both VPs, then ``vp down``."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.harness import BIN, CODER, GENERAL, Home, alive_with_environment, ended, ok, refused, shell, status, until
from vp_queue import tools


def vp(home: Home, *arguments: str, expect: int = 0) -> dict[str, Any]:
    """Run the CLI; its JSON answer."""
    done = subprocess.run(
        [str(BIN / "vp"), *arguments, "--json"],
        env=home.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == expect, (done.stdout, done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture
def up(home: Home) -> Iterator[Home]:
    vp(home, "up", "--detach")
    try:
        yield home
    finally:
        vp(home, "down")
        oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")


def test_a_poem_by_the_generalist_and_a_change_in_an_allowed_path_by_codie(up: Home) -> None:
    poem = ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="Write a short poem about the sea"))["mission"]
    done = ended(poem["mission_id"])
    assert done["status"] == "completed"
    assert done["workspace"] == f"workspace://{GENERAL}/{poem['mission_id']}"
    (artifact,) = ok(tools.vp_read_result_artifacts(mission_id=poem["mission_id"]))["artifacts"]
    assert (artifact["path"], artifact["content"]) == ("poem.md", "Roses are red\n")
    assert (up.workspace(poem["mission_id"]) / "work_products" / "poem.md").exists()

    project = up.targets / "project"
    project.mkdir()
    change = shell(
        "echo 'print(1)' > main.py && cp main.py $VP_WORK_PRODUCTS/",
        vp_id=CODER,
        constraints={"target_path": str(project)},
    )
    assert ended(change["mission_id"])["status"] == "completed"
    assert (project / "main.py").read_text() == "print(1)\n"
    (artifact,) = ok(tools.vp_read_result_artifacts(mission_id=change["mission_id"]))["artifacts"]
    assert (artifact["path"], artifact["content"]) == ("main.py", "print(1)\n")
    assert (up.workspace(change["mission_id"], CODER) / "work_products" / "main.py").exists()


def denied_paths(home: Home) -> dict[str, Path | str]:
    twin = home.targets.with_name(home.targets.name + "-twin")
    twin.mkdir()
    outside = home.path.parent / "outside"
    outside.mkdir()
    link = home.targets / "link"
    link.symlink_to(outside)
    return {
        "outside": outside,
        "dot-dot": f"{home.targets}/../outside",
        "a symlink out": link,
        "a prefix twin": twin,
        "VP_HOME": home.path,
        "a parent of VP_HOME": home.path.parent,
        "the workspaces": home.path / "AGENT_RUN_WORKSPACES",
        "relative": "targets",
        "not there": home.targets / "missing",
        "the root": "/",
    }


def test_denied_paths_are_refused_at_dispatch_and_nothing_is_written(home: Home) -> None:
    tools.vp_list_vps()  # makes the workspaces root, so that it can be asked for
    for name, path in denied_paths(home).items():
        answer = tools.vp_dispatch_mission(
            vp_id=CODER,
            objective="escape",
            mission_type="command",
            constraints={"command": ["touch", "escaped"], "target_path": str(path)},
        )
        error = refused(answer, "target_path_denied", "constraints.target_path")
        assert error["message"], name
    assert sum(ok(tools.vp_list_missions())["counts"].values()) == 0
    assert list(home.path.parent.rglob("escaped")) == []


def test_a_path_swapped_for_a_link_after_dispatch_is_denied_at_start(home: Home) -> None:
    project, outside = home.targets / "project", home.path.parent / "outside"
    project.mkdir()
    outside.mkdir()
    mission = shell("touch escaped", vp_id=CODER, constraints={"target_path": str(project)})
    project.rmdir()
    project.symlink_to(outside)
    home.consumer(CODER)
    failed = ended(mission["mission_id"])
    assert (failed["status"], failed["failure"]["code"]) == ("failed", "target_path_denied")
    assert list(outside.iterdir()) == []


def test_vp_down_releases_what_runs_and_the_next_vp_up_runs_it_again(home: Home) -> None:
    vp(home, "up", "--detach")
    go = home.path / "go"
    mission_id = shell(f"echo x >> ../starts; test -e {go} || sleep 600")["mission_id"]
    until(lambda: alive_with_environment("VP_MISSION_ID", mission_id), "the program runs")
    vp(home, "down")
    assert alive_with_environment("VP_MISSION_ID", mission_id) == []
    assert alive_with_environment("VP_HOME", os.fspath(home.path)) == []
    mission = ok(tools.vp_get_mission(mission_id=mission_id))["mission"]
    assert (mission["status"], mission["attempts_charged"]) == ("queued", 0)
    go.touch()
    vp(home, "up", "--detach")
    try:
        done = ended(mission_id)
        assert (done["status"], done["attempt"], done["attempts_charged"]) == ("completed", 2, 1)
        assert (home.workspace(mission_id).parent / "starts").read_text() == "x\nx\n"
    finally:
        vp(home, "down")
    assert status(mission_id) == "completed"
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")


def test_the_cli_tells_the_same_as_the_tools(up: Home) -> None:
    answer = vp(up, "dispatch", GENERAL, "Write a poem", "--wait", "60")
    mission_id = answer["mission"]["mission_id"]
    assert answer["mission"]["status"] == "completed"
    assert vp(up, "get", mission_id) == tools.vp_get_mission(mission_id=mission_id)
    assert vp(up, "list")["missions"] == ok(tools.vp_list_missions())["missions"]
    assert vp(up, "artifacts", mission_id) == tools.vp_read_result_artifacts(mission_id=mission_id)
    assert vp(up, "cancel", mission_id)["changed"] is False
    assert vp(up, "get", "m-0000000000", expect=3)["error"]["code"] == "mission_not_found"
    assert vp(up, "retry", mission_id, expect=4)["error"]["code"] == "not_retryable_state"
    assert {row["vp_id"] for row in vp(up, "vps")["vps"]} == {GENERAL, CODER}
