"""What a workspace takes: as `du` counts, bounded, and without leaving it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import GENERAL, open_descriptors
from tests.unit.worker.test_removal import MISSION, a_deep_tree, names_from_hell
from vp_queue.worker.footprint import Footprint, mission_footprint


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "root"
    subprocess.run(["rm", "-rf", tmp_path / "root"], check=True)  # pytest would give in to a tree that deep


@pytest.fixture
def folder(root: Path) -> Path:
    made = root / "vp_general_primary_external" / MISSION
    (made / "attempt-1" / "work_products").mkdir(parents=True)
    (made / "attempt-2").mkdir()
    (made / "attempt-1" / "work_products" / "a").write_bytes(b"a" * 100_000)
    (made / "attempt-2" / "b").write_bytes(b"b" * 5_000)
    return made


def count(root: Path, most_entries: int = 10_000) -> Footprint:
    before = open_descriptors()
    found = mission_footprint(root, GENERAL, MISSION, most_entries)
    assert open_descriptors() <= before
    return found


def du(folder: Path) -> int:
    """What du says."""
    said = subprocess.run(["du", "-s", "-x", "--block-size=1", folder], capture_output=True, text=True, check=True)
    return int(said.stdout.split()[0])


def test_all_attempts_are_counted_as_du_counts(root: Path, folder: Path) -> None:
    expected = du(folder)
    assert expected > 100_000
    assert count(root) == Footprint(expected, 5, True)


def test_a_hard_link_counts_once_and_what_a_link_leads_to_not_at_all(root: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 1_000_000)
    os.link(folder / "attempt-1" / "work_products" / "a", folder / "attempt-2" / "same")
    (folder / "file").symlink_to(tmp_path / "large")
    (folder / "folder").symlink_to(tmp_path)
    (folder / "loop").symlink_to(".")
    expected = du(folder)
    assert expected < 200_000
    assert count(root).bytes == expected


def test_a_sparse_terabyte_is_what_it_takes(root: Path, folder: Path) -> None:
    before = du(folder)
    with (folder / "sparse").open("wb") as file:
        file.truncate(2**40)
    assert count(root).bytes == du(folder) < before + 100_000


def test_odd_names_count_and_a_tree_too_deep_for_a_path_is_counted_as_far_as_paths_go(
    root: Path, folder: Path, tmp_path: Path
) -> None:
    names_from_hell(folder, tmp_path)
    assert count(root) == Footprint(du(folder), 5 + 9 * 3, True)
    a_deep_tree(folder / "attempt-2", tmp_path)
    found = count(root)
    assert not found.complete
    assert 400 < found.entries < 1_200


def test_the_count_is_bounded_in_entries_and_by_its_caller(root: Path, folder: Path) -> None:
    for number in range(1_000):
        (folder / str(number)).touch()
    assert count(root, most_entries=100) == Footprint(count(root, 100).bytes, 100, False)
    until = time.monotonic()
    cut_short = mission_footprint(root, GENERAL, MISSION, go_on=lambda: time.monotonic() < until)
    assert cut_short.entries == 0
    assert not cut_short.complete


def test_nothing_there_is_nothing_and_a_link_in_its_place_is_not_followed(root: Path, tmp_path: Path) -> None:
    assert count(root) == Footprint()
    (tmp_path / "outside").mkdir()
    (root / "vp_general_primary_external").mkdir(parents=True)
    (root / "vp_general_primary_external" / MISSION).symlink_to(tmp_path / "outside")
    assert count(root) == Footprint(complete=False)
    with pytest.raises(ValueError, match="not a mission id"):
        mission_footprint(root, GENERAL, "../../etc")
