"""The campaign's processes as the kernel shows them: everything below this process, which orphans come to.

It shares no code with what is under test.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(frozen=True)
class Found:
    """One live process: its role, and for a program its mission and attempt, for a consumer its VP."""

    pid: int
    start: int
    parent: int
    argv: tuple[str, ...]
    role: str
    mission: str = ""
    attempt: int = 0
    vp_id: str = ""


def adopt_orphans() -> None:
    """Become the subreaper: whatever a killed process leaves is still found below this one."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def bury(known: Iterable[int]) -> None:
    """Reap adopted zombies; ``known`` are the children that their Popen objects reap."""
    ours = set(known)
    for pid, (parent, state, _) in _all().items():
        if parent == os.getpid() and state == "Z" and pid not in ours:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def below() -> list[Found]:
    """Every live descendant of this process."""
    processes = _all()
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _) in processes.items():
        children.setdefault(parent, []).append(pid)
    waiting, found = list(children.get(os.getpid(), ())), []
    roles: dict[int, str] = {}
    for pid in waiting:
        waiting += children.get(pid, ())
        parent, state, start = processes[pid]
        if state in "ZX":
            continue
        with contextlib.suppress(OSError):
            process = _described(pid, start, parent, roles.get(parent, ""))
            roles[pid] = process.role
            found.append(process)
    return found


def is_alive(process: Found) -> bool:
    """Whether it is still the same live process."""
    seen = _stat(process.pid)
    return seen is not None and seen[1] not in "ZX" and seen[2] == process.start


def send(process: Found, number: int) -> bool:
    """Signal exactly this process; False if it is gone."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _described(pid: int, start: int, parent: int, role_of_parent: str) -> Found:
    argv = tuple(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1])
    environment = _environment(pid)
    role = _role(argv, environment)
    if role == role_of_parent and role in ("consumer", "keeper", "client", "supervisord"):
        role = "fork"  # on its way to exec
    mission = environment.get("VP_MISSION_ID", "") if role == "program" else ""
    attempt = int(environment.get("VP_ATTEMPT", 0)) if mission else 0
    return Found(pid, start, parent, argv, role, mission, attempt, environment.get("VP_ID", ""))


def _role(argv: tuple[str, ...], environment: dict[str, str]) -> str:
    if "VP_MISSION_ID" in environment:
        return "program"
    text = " ".join(argv)
    for words, role in (
        ("worker.launcher import main", "launcher"),
        ("supervisor.supervisord", "supervisord"),
        ("tests.faults.campaign.clients", "client"),
        ("vp_queue.tasks.app.huey", "consumer"),
    ):
        if words in text:
            return role
    return "keeper" if argv[-1:] == ("keeper",) else "other"


def _environment(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def _all() -> dict[int, tuple[int, str, int]]:
    found = ((int(name), _stat(int(name))) for name in os.listdir("/proc") if name.isdigit())
    return {pid: stat for pid, stat in found if stat is not None}


def _stat(pid: int) -> tuple[int, str, int] | None:
    """Parent, state, and start time in clock ticks since boot."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[1]), fields[0], int(fields[19])
