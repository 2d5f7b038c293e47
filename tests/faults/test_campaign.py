"""The fault campaign (see ``tests/faults/campaign``): a short one holds, and each removed guard is caught."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.campaign import plan
from tests.harness import ROOT


def campaign(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run one; its exit status, its figures and what it printed."""
    document = tmp_path / "figures.json"
    argv = [sys.executable, "-m", "tests.faults.campaign", "--json", str(document), *arguments]
    done = subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert document.exists(), done.stdout + done.stderr
    return done.returncode, json.loads(document.read_text()), done.stdout + done.stderr


def test_a_seed_replays_its_plan() -> None:
    assert plan.make(7, 60) == plan.make(7, 60)
    assert plan.make(7, 60) != plan.make(8, 60)
    made = plan.make(7, 600)
    assert {(fault.kind, fault.target) for fault in made.faults} == plan.FAULTS.keys()
    assert {spec.behaviour for each in made.missions for spec in each} == plan.BEHAVIOURS.keys()
    assert plan.Plan.of(json.loads(json.dumps(made.as_dict()))) == made


def test_the_promise_holds_in_a_short_campaign(tmp_path: Path) -> None:
    arguments = ("--seconds", "9", "--seed", "12", "--lease-seconds", "2", "--faults-per-second", "1.5")
    status, figures, printed = campaign(tmp_path, *arguments)
    assert status == 0, printed
    assert figures["anomalies"] == {}
    assert (figures["overlaps"], figures["lost"], figures["doubled_terminal_events"]) == (0, 0, 0)
    assert figures["faults"] >= 5
    assert figures["missions"] >= 10
    assert sum(figures["by_outcome"].values()) == figures["missions"]


def caught(tmp_path: Path, kind: str, *arguments: str) -> None:
    """A campaign without a guard, on three seeds at most: what it meets is the scheduler's choice."""
    for seed in ("3", "4", "5"):
        folder = tmp_path / seed
        folder.mkdir()
        status, figures, printed = campaign(folder, "--seed", seed, *arguments, "--folder", str(folder / "c"))
        if status == 1 and kind in figures["anomalies"]:
            return
    pytest.fail(f"no seed showed {kind}:\n{printed}")


def test_without_a_keeper_missions_are_lost(tmp_path: Path) -> None:
    arguments = ("--seconds", "4", "--mutants", "no-keeper", "--only", "kill:consumer", "--quiet-seconds", "3")
    caught(tmp_path, "lost", *arguments, "--faults-per-second", "4")


@pytest.mark.slow
def test_without_a_kill_before_the_requeue_programs_overlap(tmp_path: Path) -> None:
    arguments = ("--seconds", "20", "--mutants", "no-kill-before-requeue", "--only", "kill:consumer,stop:consumer")
    caught(tmp_path, "overlaps", *arguments, "--lease-seconds", "1")


@pytest.mark.slow
def test_a_dispatch_in_two_transactions_doubles_missions(tmp_path: Path) -> None:
    arguments = ("--seconds", "20", "--mutants", "dispatch-in-two-transactions", "--only", "kill:client")
    caught(tmp_path, "doubled", *arguments, "--faults-per-second", "4")
