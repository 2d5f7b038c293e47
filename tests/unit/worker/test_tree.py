"""Ending a tree by its recorded identity alone: no launcher's help, and never a stranger's process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from vp_queue import clock
from vp_queue.worker import cgroups, procfs
from vp_queue.worker.tree import TreeIdentity, end_tree, tree_is_dead

# Of this test run alone: another run beside it must not count as our strays.
MISSION_ID = clock.new_mission_id()
MARKER = f"{MISSION_ID}.2"
ENV = {"PATH": os.environ["PATH"], "VP_MISSION_ID": MISSION_ID, "VP_ATTEMPT": "2"}
GONE = 2**22 + 1  # above every pid


class Orphan:
    """A session leader that no launcher watches, reaped as soon as it dies (so it is no zombie)."""

    def __init__(self, code: str, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], env=env, start_new_session=True, stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline().decode().strip()
        threading.Thread(target=self.process.wait, daemon=True).start()

    def identity(self) -> TreeIdentity:
        pid = self.process.pid
        start = procfs.start_ticks(pid)
        assert start is not None
        return TreeIdentity(clock.host_identity(), GONE, 1, pid, start, pid, None, MARKER)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def orphans() -> Iterator[list[Orphan]]:
    made: list[Orphan] = []
    yield made
    for orphan in made:
        orphan.close()


SLEEP = "print('up', flush=True); import time; time.sleep(1000)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
# The daemon leaves its session and loses its parent; only its environment still says whose it is.
STRAY = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), flush=True)
    time.sleep(1000)
time.sleep(1000)
"""
# The main thread ends alone: /proc shows a zombie, yet the process runs on.
HEADLESS = """
import ctypes, threading, time
threading.Thread(target=lambda: (time.sleep(0.2), print("up", flush=True), time.sleep(1000))).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def start(orphans: list[Orphan], code: str, env: dict[str, str] | None = None) -> Orphan:
    orphans.append(Orphan(code, ENV if env is None else env))
    return orphans[-1]


def test_term_is_enough_for_a_tame_tree(orphans: list[Orphan]) -> None:
    orphan = start(orphans, SLEEP)
    identity = orphan.identity()
    assert not tree_is_dead(identity)
    assert end_tree(identity, 20.0)
    assert orphan.process.wait() == -signal.SIGTERM
    assert tree_is_dead(identity)


def test_a_deaf_tree_is_killed_after_the_grace(orphans: list[Orphan]) -> None:
    orphan = start(orphans, DEAF)
    began = time.monotonic()
    assert end_tree(orphan.identity(), 0.3)
    assert 0.3 <= time.monotonic() - began < 10
    assert orphan.process.wait() == -signal.SIGKILL


def test_a_stopped_process_is_killed(orphans: list[Orphan]) -> None:
    orphan = start(orphans, DEAF)
    os.kill(orphan.process.pid, signal.SIGSTOP)
    assert end_tree(orphan.identity(), 0.0)


def test_a_stray_is_found_by_its_environment(orphans: list[Orphan]) -> None:
    orphan = start(orphans, STRAY)
    stray, identity = int(orphan.line), orphan.identity()
    orphan.process.kill()
    orphan.process.wait()
    assert procfs.start_ticks(stray) is not None
    assert not tree_is_dead(identity)
    assert tree_is_dead(replace(identity, marker=f"{MISSION_ID}.22"))
    assert end_tree(identity, 0.0)
    assert procfs.start_ticks(stray) is None


def test_another_attempts_processes_are_left_alone(orphans: list[Orphan]) -> None:
    other = start(orphans, SLEEP, {**ENV, "VP_ATTEMPT": "21"})
    identity = replace(other.identity(), pid=GONE, pgid=GONE)
    assert end_tree(identity, 0.0)
    assert other.process.poll() is None


def test_a_session_member_with_a_cleared_environment_is_found(orphans: list[Orphan]) -> None:
    code = "import subprocess, time; p = subprocess.Popen(['sleep', '1000'], env={}); print(p.pid, flush=True); "
    orphan = start(orphans, code + "time.sleep(1000)", {})
    child, identity = int(orphan.line), orphan.identity()
    orphan.process.kill()
    orphan.process.wait()
    assert not tree_is_dead(identity)
    assert end_tree(identity, 0.0)
    assert procfs.start_ticks(child) is None


@pytest.mark.parametrize("role", ["program", "launcher"])
def test_a_reused_pid_is_never_signalled(orphans: list[Orphan], role: str) -> None:
    """The recorded pid belongs to somebody else by now: dead is proved, and nobody is touched."""
    stranger = start(orphans, SLEEP, {})
    identity = stranger.identity()
    if role == "program":
        identity = replace(identity, start=identity.start - 1)
    else:
        identity = replace(identity, launcher_pid=identity.pid, launcher_start=identity.start - 1, pid=GONE, pgid=GONE)
    assert tree_is_dead(identity)
    assert end_tree(identity, 0.05)
    assert stranger.process.poll() is None
    assert not procfs.send(stranger.process.pid, identity.start - 1, signal.SIGKILL)
    assert stranger.process.poll() is None


def test_another_host_proves_nothing_and_touches_nothing(orphans: list[Orphan]) -> None:
    orphan = start(orphans, SLEEP)
    elsewhere = replace(orphan.identity(), host="another-boot:1")
    assert not tree_is_dead(elsewhere)
    assert not end_tree(elsewhere, 0.0)
    assert orphan.process.poll() is None


def test_a_process_whose_main_thread_ended_is_not_dead(orphans: list[Orphan]) -> None:
    orphan = start(orphans, HEADLESS)
    assert b") Z " in procfs.read(f"/proc/{orphan.process.pid}/stat", 4096)
    identity = orphan.identity()
    assert not tree_is_dead(identity)
    assert end_tree(identity, 0.0)
    assert orphan.process.wait() == -signal.SIGKILL


def test_everything_in_the_cgroup_belongs_to_the_tree(orphans: list[Orphan]) -> None:
    """Left the session, the parents and the environment: only the cgroup still holds it."""
    cgroup = cgroups.create(MARKER, 0).tree
    if cgroup is None:
        pytest.skip("no writable cgroup v2 here; run: systemd-run --user -p Delegate=yes --scope make test")
    orphan = start(orphans, DEAF, {})
    assert cgroups.join(cgroup, orphan.process.pid)
    os.mkdir(f"{cgroup}/made-by-the-program")
    identity = replace(orphan.identity(), pid=GONE, pgid=GONE, cgroup=cgroup)
    assert not tree_is_dead(identity)
    assert end_tree(identity, 0.0)
    assert orphan.process.wait() == -signal.SIGKILL
    assert not os.path.exists(cgroup)
    assert tree_is_dead(identity)
