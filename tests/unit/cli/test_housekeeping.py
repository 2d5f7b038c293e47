"""``vp prune`` and ``vp usage``: what they say is what there is, on 80 columns, and a dry run writes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.ended import DAY, HOUR, acknowledged_up_to, left, many, mission, workspace
from tests.harness import CODER, GENERAL, Home
from tests.unit.cli.driver import Cli, on_terminal
from vp_queue import missions
from vp_queue.contracts import Status
from vp_queue.ledger import database, retention
from vp_queue.operations import housekeeping


@pytest.fixture
def home(home: Home) -> Home:
    missions.ready()
    return home


def state_of(home: Home) -> dict[str, tuple[int, int]]:
    """Every file of VP_HOME with its size and time, but for SQLite's index of the log, which readers write too."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in home.path.rglob("*")
        if path.is_file() and not path.name.endswith("-shm")
    }


def test_a_dry_run_says_what_would_go_and_writes_nothing(cli: Cli, home: Home) -> None:
    old, failed = mission(31 * DAY), mission(91 * DAY, Status.FAILED)
    kept = mission(31 * DAY, Status.FAILED)
    workspace(home, old)
    before = state_of(home)
    code, answer = cli.json("prune", "--dry-run")
    assert code == 0
    assert {each["mission_id"]: each["reason"] for each in answer["missions"]} == {old: "age", failed: "age"}
    assert {(g["why"], g["missions"]) for g in answer["groups"]} == {
        ("over 30 days old", 1),
        ("failed, over 90 days old", 1),
    }
    assert answer["missions_total"] == 2
    assert answer["bytes_total"] > 10_000
    assert answer["complete"]
    assert answer["removed"] == {"workspaces": 0, "bytes": 0}
    _, shown, _ = cli("prune", "--dry-run")
    assert "Nothing was removed yet" in shown
    assert state_of(home) == before
    assert left() == {old, failed, kept}


def test_prune_removes_exactly_what_the_dry_run_said(cli: Cli, home: Home) -> None:
    home.configure(more=f'[retention]\nmax_bytes = 60000\n[vp."{CODER}".retention]\nmax_missions = 1\n')
    for age in range(5, 0, -1):
        workspace(home, mission(age * DAY))
        mission(age * DAY, vp_id=CODER)
    _, said = cli.json("prune", "--dry-run")
    _, done = cli.json("prune")
    assert {each["reason"] for each in said["missions"]} == {"count", "bytes"}
    for key in ("missions", "groups", "missions_total", "bytes_total"):
        assert done[key] == said[key]
    assert done["removed"]["bytes"] == said["bytes_total"]
    assert len(left()) == 10 - said["missions_total"]
    assert cli("prune")[1] == "There was nothing to remove.\n"


def test_the_scope_can_be_narrowed_and_the_age_lowered(cli: Cli, home: Home) -> None:
    mine = mission(8 * DAY, Status.FAILED)
    coders = mission(8 * DAY, vp_id=CODER)
    assert cli.json("prune", "--vp", GENERAL)[1]["missions_total"] == 0
    assert cli.json("prune", "--vp", GENERAL, "--older-than", "9d")[1]["missions_total"] == 0
    _, answer = cli.json("prune", "--vp", GENERAL, "--older-than", "1w")
    assert [group["why"] for group in answer["groups"]] == ["older than asked for"]
    assert left() == {coders}
    assert mine not in left()


@pytest.mark.parametrize("age", ["7", "d", "-1d", "1y", "nan d", "1e9d", "99999999d", "１d"])
def test_an_age_that_is_none_is_refused(cli: Cli, home: Home, age: str) -> None:
    code, answer = cli.json("prune", "--older-than", age)
    assert code == 2
    assert answer["error"]["code"] == "validation_error"


def test_a_vp_that_never_was_is_told_and_one_that_was_removed_is_pruned(cli: Cli, home: Home) -> None:
    code, answer = cli.json("prune", "--vp", "vp.never.primary")
    assert (code, answer["error"]["code"]) == (3, "unknown_vp")
    mission(31 * DAY, vp_id="vp.removed.primary")
    assert cli.json("prune", "--vp", "vp.removed.primary")[1]["missions_total"] == 1


def test_who_keeps_missions_from_going_is_named(cli: Cli, home: Home) -> None:
    mission(31 * DAY)
    acknowledged_up_to("simone\x1b[2J", None)
    code, shown, _ = cli("prune")
    assert code == 0
    assert "1 more are old enough, but stay until the reader simone acknowledges their end." in shown


def test_a_folder_that_stays_is_named_with_the_reason(cli: Cli, home: Home) -> None:
    mission_id = mission(31 * DAY)
    with database.write_transaction() as tx:
        retention.delete_missions(tx, [mission_id], housekeeping.policy_of(_settings(), GENERAL))
        retention.folder_stays(tx, mission_id, "Permission denied: a\x1b[2Jfile")
    for command in ("usage", "prune"):
        _, shown, _ = cli(command)
        assert f"{mission_id}: Permission denied: afile" in shown.replace("\n", "")
        _, answer = cli.json(command)
        assert answer["left"]["workspaces"] == 1
        assert answer["left"]["stuck"][0]["path"].endswith(mission_id)


def _settings() -> object:
    from vp_queue import config

    return config.load()


def test_usage_counts_each_vp_and_what_could_go(cli: Cli, home: Home) -> None:
    live, old = mission(1 * HOUR, Status.RUNNING), mission(31 * DAY, size=2**30)
    for mission_id in (live, mission(1 * DAY), old):
        workspace(home, mission_id)
    mission(1 * HOUR, Status.QUEUED, vp_id=CODER)
    code, answer = cli.json("usage")
    assert code == 0
    general, coder = answer["vps"]
    assert (general["vp_id"], general["live"]["missions"], general["ended"]["missions"]) == (GENERAL, 1, 2)
    assert 10_000 < general["live"]["bytes"] < 50_000
    assert 2**30 + 10_000 < general["ended"]["bytes"] < 2**30 + 50_000
    assert general["prunable"] == {"missions": 1, "bytes": 2**30}
    assert (coder["live"], coder["ended"]["missions"]) == ({"missions": 1, "bytes": 0}, 0)
    assert answer["complete"]
    assert answer["ledger"]["bytes"] > 0
    assert set(answer["huey"]) == {"task", "schedule", "kv"}
    (disk,) = answer["disks"]
    assert disk["required_bytes"] <= 2**30
    assert not disk["low"]


def test_usage_that_could_not_count_everything_says_so(cli: Cli, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        workspace(home, mission(1 * DAY))
    monkeypatch.setattr(housekeeping, "COUNTED_ENTRIES", 4)
    assert not cli.json("usage")[1]["complete"]
    assert "there may be more on disk" in cli("usage")[1]
    assert "it may be more" in cli("prune", "--dry-run", "--older-than", "2h")[1]


def test_both_fit_80_columns_and_progress_leaves_no_trace(cli: Cli, home: Home) -> None:
    home.configure(more='[vp."vp.a-rather-long-name-of-a-vp.primary"]\nexecutor = "command"\n')
    for vp_id in (GENERAL, CODER, "vp.a-rather-long-name-of-a-vp.primary"):
        many(60, 31 * DAY, vp_id=vp_id)
        mission(91 * DAY, Status.FAILED, vp_id=vp_id, size=10**12)
    for command in (["usage"], ["prune", "--dry-run"], ["prune"]):
        code, shown = on_terminal(*command)
        assert code == 0, shown
        lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line.rpartition("\r")[2]) for line in shown.splitlines()]
        assert max(map(len, lines)) <= 80, lines
    assert "missions, " in shown
    assert left() == set()


# --- the watermark, in every place that tells of it ---------------------------------------------


def test_a_refused_dispatch_doctor_status_and_usage_agree(cli: Cli, home: Home, tmp_path: Path) -> None:
    def found() -> tuple[object, ...]:
        code, answer = cli.json("dispatch", GENERAL, "x")
        checks = {check["name"]: check["ok"] for check in cli.json("doctor")[1]["checks"]}
        lows = [cli.json(command)[1]["disks"][0]["low"] for command in ("status", "usage")]
        return code, answer.get("error", {}).get("code"), checks["disk space"], lows

    text = (home.path / "vp_queue.toml").read_text()
    for watermark, expected in (
        (2**60, (4, "limit_exceeded", False, [True, True])),
        (0, (0, None, None, [False, False])),
        (1, (0, None, True, [False, False])),
    ):
        (home.path / "vp_queue.toml").write_text(f"min_free_bytes = {watermark}\n{text}")
        assert found() == expected
    (home.path / "vp_queue.toml").write_text(f"min_free_bytes = {2**60}\n{text}")
    _, _, printed = cli("dispatch", GENERAL, "x")
    assert "Next: vp usage, then vp prune --dry-run" in printed
    assert "dispatches are refused" in cli("status")[1].replace("\n             ", " ")


def test_the_key_of_a_pruned_mission_is_told_with_what_to_do(cli: Cli, home: Home) -> None:
    mission(31 * DAY, key="poem")
    cli("prune")
    code, _, printed = cli("dispatch", GENERAL, "x", "--key", "poem")
    assert code == 4
    assert "was pruned" in printed
    assert "Next: the same again, with another key" in printed
