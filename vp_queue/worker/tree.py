"""Ending one executor's process tree and proving it dead, even when its launcher is dead too.

While the launcher lives it ends its own tree (it is the subreaper, so nothing can hide from it). This
file is for everybody else: the worker whose launcher was killed, and the keeper after a worker's
death. Four nets, since each alone has a hole: the cgroups (complete, but not available everywhere), the
ppid chain below the launcher and the program (breaks when a link dies), the program's session and
process group (left by ``setsid``), and the attempt's own environment variables (complete unless a
daemon left the tree *and* cleared its environment).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from vp_queue import clock
from vp_queue.worker import procfs
from vp_queue.worker.cgroups import Cgroups

# How long killing may take beyond the grace; after it the answer is "not proved".
KILL_SECONDS = 5.0
# A launcher whose tree is gone exits by itself within this time; a stopped one has to be killed.
LAUNCHER_EXIT_SECONDS = 1.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class TreeIdentity:
    """Everything needed to find one executor's tree and prove it dead.

    Attributes:
        host: :func:`vp_queue.clock.host_identity` of where the pids mean something.
        launcher_pid, launcher_start: the launcher, with its start time in clock ticks.
        pid, start, pgid: the program's first process, and its process group (= session).
        cgroup: absolute cgroup v2 directory, or None.
        pids_cgroup: absolute directory of the cgroup v1 that limits the number of processes, or None.
        marker: ``"<mission_id>.<attempt>"``; the tree's environment carries it as VP_MISSION_ID and
            VP_ATTEMPT.
    """

    host: str
    launcher_pid: int
    launcher_start: int
    pid: int
    start: int
    pgid: int
    cgroup: str | None
    marker: str
    pids_cgroup: str | None = None

    @classmethod
    def of(cls, recorded: Mapping[str, Any]) -> TreeIdentity:
        """The identity as a ledger recorded it.

        What a newer vp-queue added is left aside; what an older one did not know yet has its default.
        """
        return cls(**{field.name: recorded[field.name] for field in fields(cls) if field.name in recorded})

    @property
    def cgroups(self) -> Cgroups:
        """The tree's cgroups."""
        return Cgroups(self.cgroup, self.pids_cgroup)


def tree_is_dead(identity: TreeIdentity) -> bool:
    """Whether nothing of the tree is left. Looks only.

    Returns:
        False also if the tree belongs to another host or PID namespace: nothing is provable there.
    """
    if identity.host != clock.host_identity() or not identity.cgroups.are_empty():
        return False
    # One look at /proc is not atomic: what forks and exits all the time may slip through one.
    return not any(_launcher(identity) or _members(identity) for _ in range(2))


def end_tree(identity: TreeIdentity, grace_seconds: float) -> bool:
    """TERM the tree, wait, KILL it until it is proved empty; remove its cgroups.

    Never signals a process whose start time differs from the recorded one.

    Args:
        identity: as recorded when the program was launched.
        grace_seconds: time between TERM and KILL; 0 kills at once. The whole takes at most about
            five seconds more.

    Returns:
        True only if the tree is proved dead. False, and nothing touched, for another host.
    """
    if identity.host != clock.host_identity():
        return False
    if grace_seconds > 0:
        procfs.terminate(_members(identity))
        _wait_until_dead(identity, grace_seconds)
    deadline = time.monotonic() + KILL_SECONDS
    launcher_deadline = time.monotonic() + (LAUNCHER_EXIT_SECONDS if grace_seconds > 0 else 0)
    while not tree_is_dead(identity):
        identity.cgroups.kill()
        found = procfs.kill(lambda: _members(identity))
        # The launcher goes last: as long as it lives, orphans stay findable below it.
        if not found and time.monotonic() >= launcher_deadline:
            procfs.send(identity.launcher_pid, identity.launcher_start, signal.SIGKILL)
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    identity.cgroups.remove()
    return True


def _wait_until_dead(identity: TreeIdentity, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not tree_is_dead(identity):
        time.sleep(POLL_SECONDS)


def _launcher(identity: TreeIdentity) -> bool:
    return procfs.start_ticks(identity.launcher_pid) == identity.launcher_start


def _members(identity: TreeIdentity) -> list[procfs.Process]:
    """The tree without its launcher, parents before children."""
    processes = procfs.snapshot()
    processes.pop(os.getpid(), None)  # a worker may itself run inside another mission
    roots = [
        pid
        for pid, start in ((identity.launcher_pid, identity.launcher_start), (identity.pid, identity.start))
        if pid in processes and processes[pid].start == start
    ]
    found = {pid: processes[pid] for pid in roots if pid != identity.launcher_pid}
    found.update((pid, processes[pid]) for pid in identity.cgroups.members() if pid in processes)
    found.update((process.pid, process) for process in _in_session(identity, processes))
    found.update((process.pid, process) for process in _strays(identity, processes))
    below = procfs.descendants([*roots, *found], processes)
    found.update((process.pid, process) for process in below if process.pid != identity.launcher_pid)
    return list(found.values())


def _in_session(identity: TreeIdentity, processes: dict[int, procfs.Process]) -> list[procfs.Process]:
    # The kernel does not reuse a pid that still names a session or group. So if another process has
    # it now, the old session is empty and this one is a stranger's.
    leader = processes.get(identity.pid)
    if leader is not None and leader.start != identity.start:
        return []
    return [
        process
        for process in processes.values()
        if identity.pid in (process.sid, process.pgid) and process.start >= identity.start
    ]


def _strays(identity: TreeIdentity, processes: dict[int, procfs.Process]) -> list[procfs.Process]:
    mission_id, _, attempt = identity.marker.rpartition(".")
    wanted = (f"VP_MISSION_ID={mission_id}".encode(), f"VP_ATTEMPT={attempt}".encode())
    return [
        process
        for process in processes.values()
        if process.start >= identity.start and procfs.carries(process.pid, wanted)
    ]
