"""Control groups: where a tree's are made, what limits it, and that they are removed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.harness import until
from vp_queue import clock
from vp_queue.worker import cgroups, procfs
from vp_queue.worker.cgroups import Cgroups
from vp_queue.worker.tree import TreeIdentity, end_tree, tree_is_dead

MISSION_ID = clock.new_mission_id()
MARKER = f"{MISSION_ID}.1"
GONE = 2**22 + 1  # above every pid
needs_version_1 = pytest.mark.skipif(
    not (path := cgroups.own_cgroup("pids")) or not os.access(path, os.W_OK),
    reason="no writable cgroup v1 with the pids controller; run: sudo make test (on a system that has version 1)",
)


@pytest.fixture
def groups() -> Iterator[Cgroups]:
    made = cgroups.create(MARKER, 3)
    yield made
    made.kill()
    made.remove()


def inside(groups: Cgroups, *argv: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program that put itself into the cgroups."""
    joins = [f"{groups.pids}/tasks"] if groups.pids else [f"{groups.tree}/cgroup.procs"]
    script = f'echo 0 > {joins[0]} && exec "$@"'
    return subprocess.run(["sh", "-c", script, "sh", *argv], capture_output=True, check=False)


@pytest.mark.skipif(cgroups.limit_in_force() is None, reason="no pids controller to write to; run: sudo make test")
def test_the_limit_holds_and_tells_that_it_did(groups: Cgroups) -> None:
    assert inside(groups, "true").returncode == 0
    assert not groups.refused()
    greedy = inside(groups, "sh", "-c", "sleep 0.1 & sleep 0.1 & sleep 0.1 & wait")
    assert greedy.returncode != 0
    assert groups.refused()
    until(groups.are_empty, "what it had started has ended")
    groups.remove()
    assert not any(os.path.exists(path) for path in groups.paths)
    assert groups.are_empty()  # what is gone is empty
    assert groups.members() == []


@needs_version_1
def test_a_process_that_is_in_the_limiting_cgroup_alone_is_found_and_ended(groups: Cgroups) -> None:
    """It left parent, session and environment behind, and there is no cgroup v2."""
    stray = subprocess.Popen(["sh", "-c", f"echo 0 > {groups.pids}/tasks; trap '' TERM; echo in; sleep 600"],
                             stdout=subprocess.PIPE, env={}, start_new_session=True)  # fmt: skip
    assert stray.stdout is not None
    stray.stdout.readline()
    identity = TreeIdentity(clock.host_identity(), GONE, 1, GONE, 0, GONE, None, MARKER, groups.pids)
    assert stray.pid in groups.members()
    assert not groups.are_empty()
    assert not tree_is_dead(identity)
    # The negative control: without that cgroup nothing leads to it.
    assert tree_is_dead(replace(identity, pids_cgroup=None))
    os.kill(stray.pid, 0)
    ended = end_tree(identity, 0.0)
    assert stray.wait(10) == -9
    stray.stdout.close()
    assert ended or end_tree(identity, 0.0)
    assert not os.path.exists(str(groups.pids))


@needs_version_1
def test_what_is_being_killed_cannot_fork(groups: Cgroups) -> None:
    groups.kill()
    assert procfs.read(f"{groups.pids}/pids.max", 100).strip() == b"0"
    assert inside(groups, "sh", "-c", "true & wait").returncode != 0


def test_no_limit_makes_no_limiting_cgroup() -> None:
    made = cgroups.create(MARKER, 0)
    assert made.pids is None
    made.remove()


def test_an_identity_recorded_before_there_was_a_limit_is_still_read() -> None:
    identity = TreeIdentity("here", 1, 2, 3, 4, 5, "/c", MARKER)
    old = {name: value for name, value in asdict(identity).items() if name != "pids_cgroup"}
    assert TreeIdentity.of(old) == identity
    assert TreeIdentity.of({**old, "pids_cgroup": "/p", "of a newer version": 1}).pids_cgroup == "/p"


class FakeTree:
    """Folders with the files of cgroup v2 that decide where children are made."""

    def __init__(self, root: Path) -> None:
        self.own = root / "unit" / "own"
        self.own.mkdir(parents=True)
        for folder in (self.own, self.own.parent):
            self.put(folder, "cgroup.type", "domain")
            self.put(folder, "cgroup.controllers", "memory pids")
            self.put(folder, "cgroup.subtree_control", "")

    @staticmethod
    def put(folder: Path, name: str, text: str) -> None:
        (folder / name).write_text(text)

    def place(self, **more: bool) -> str | None:
        return cgroups.limiting_place(str(self.own), **more)


def test_beside_somebody_elses_service_no_cgroup_is_made(tmp_path: Path) -> None:
    assert FakeTree(tmp_path).place() is None


def test_systemds_delegated_folder_gets_the_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = FakeTree(tmp_path)
    above = tree.own.parent
    monkeypatch.setattr(os, "getxattr", lambda path, name: b"1" if path == str(above) else b"0")
    assert tree.place(look_only=True) == str(above)
    assert (above / "cgroup.subtree_control").read_text() == ""
    assert tree.place() == str(above)
    assert (above / "cgroup.subtree_control").read_text() == "+pids"
    tree.put(above, "cgroup.controllers", "memory")
    tree.put(above, "cgroup.subtree_control", "memory")
    assert tree.place() is None  # nobody gave us the controller


def test_at_the_root_children_can_be_limited_beside_processes(tmp_path: Path) -> None:
    tree = FakeTree(tmp_path)
    (tree.own / "cgroup.type").unlink()  # the root has none
    assert tree.place() == str(tree.own)
    tree.put(tree.own, "cgroup.subtree_control", "cpu pids")
    assert tree.place(look_only=True) == str(tree.own)


def test_what_a_killed_launcher_left_is_discarded_once_its_gated_child_has_ended(groups: Cgroups) -> None:
    if not groups.paths:
        pytest.skip("no cgroup can be made; run: sudo make test")
    reader, gate = os.pipe()
    script = "".join(f"echo 0 > {path}/cgroup.procs; " for path in groups.paths) + "echo in; exec cat"
    with subprocess.Popen(["sh", "-c", script], stdin=reader, stdout=subprocess.PIPE) as waiting:
        os.close(reader)
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == b"in\n"
        os.close(gate)  # as the end of the launcher does
        cgroups.discard(MARKER)
    assert not [path for path in groups.paths if os.path.exists(path)]
