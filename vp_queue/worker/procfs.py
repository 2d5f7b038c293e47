"""Processes as the kernel shows them: find, signal, kill.

The primitives under ``launcher`` (which ends its own tree) and ``tree`` (which ends a tree whose
launcher may be dead). Only cheap standard modules are imported, because the launcher's start-up time
is paid once per attempt. A process is always named by pid *and* start time: pids are reused, pairs
are not.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Rounds of "stop whatever is new" before killing: a fork bomb loses most of its growth in each.
FREEZE_ROUNDS = 20
FILE_BYTES = 4 * 1024 * 1024  # read of any file of the kernel


class Process:
    """One live process of a snapshot of /proc.

    Attributes:
        pid: process id; ``start``: start time in clock ticks since boot; ``ppid``, ``pgid``, ``sid``:
        parent, process group and session.
    """

    __slots__ = ("pgid", "pid", "ppid", "sid", "start")

    def __init__(self, pid: int, start: int, ppid: int, pgid: int, sid: int) -> None:
        self.pid, self.start, self.ppid, self.pgid, self.sid = pid, start, ppid, pgid, sid

    @property
    def key(self) -> tuple[int, int]:
        """What names this process for good."""
        return self.pid, self.start


def read_process(pid: int) -> Process | None:
    """The process with this pid, or None if it is gone or no longer runs any code.

    A zombie whose other threads live on (the main thread ended alone) still runs code and counts.
    """
    try:
        stat = read(f"/proc/{pid}/stat", 4096)
    except OSError:
        return None
    # The command name may hold spaces and parentheses; fields count from the last ")".
    fields = stat[stat.rfind(b")") + 2 :].split()
    if len(fields) < 20:
        return None
    if fields[0] in (b"Z", b"X") and int(fields[17]) <= 1:
        return None
    return Process(pid, int(fields[19]), int(fields[1]), int(fields[2]), int(fields[3]))


def start_ticks(pid: int) -> int | None:
    """When the process began, or None if it is gone (see :func:`read_process`)."""
    process = read_process(pid)
    return process.start if process else None


def snapshot() -> dict[int, Process]:
    """Every live process by pid. Not atomic: look twice before calling something empty."""
    found = (read_process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in found if process}


def descendants(roots: Iterable[int], processes: dict[int, Process]) -> list[Process]:
    """What descends from these pids (without them), parents before children."""
    children: dict[int, list[Process]] = {}
    for process in processes.values():
        children.setdefault(process.ppid, []).append(process)
    found: list[Process] = []
    seen = set(roots)
    waiting = list(seen)
    for pid in waiting:
        for child in children.get(pid, ()):
            if child.pid not in seen:
                seen.add(child.pid)
                waiting.append(child.pid)
                found.append(child)
    return found


def carries(pid: int, wanted: Iterable[bytes]) -> bool:
    """Whether the process was started with all these ``NAME=value`` in its environment."""
    try:
        environ = set(read(f"/proc/{pid}/environ", FILE_BYTES).split(b"\0"))
    except OSError:
        return False
    return environ.issuperset(wanted)


def send(pid: int, start: int, number: int) -> bool:
    """Signal exactly this process. False if it is gone, is another one by now, or may not be signalled."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # Once the pidfd is open it cannot come to mean another process; so the check holds.
        if start_ticks(pid) != start:
            return False
        signal.pidfd_send_signal(pidfd, number)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def terminate(processes: Iterable[Process]) -> None:
    """Ask them to end. A stopped process only handles TERM once it is continued."""
    for process in processes:
        if send(process.pid, process.start, signal.SIGTERM):
            send(process.pid, process.start, signal.SIGCONT)


def kill(find: Callable[[], list[Process]]) -> int:
    """One round of killing everything ``find`` shows; call it again until nothing is found.

    All are stopped first, and only then killed: otherwise a fork bomb refills while it is being shot.

    Returns:
        how many processes were found.
    """
    stopped: dict[tuple[int, int], Process] = {}
    for _ in range(FREEZE_ROUNDS):
        new = [process for process in find() if process.key not in stopped]
        if not new:
            break
        for process in new:
            send(process.pid, process.start, signal.SIGSTOP)
            stopped[process.key] = process
    for process in stopped.values():
        send(process.pid, process.start, signal.SIGKILL)
    return len(stopped)


def read(path: str, limit: int) -> bytes:
    """The first ``limit`` bytes of a file of the kernel."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks: list[bytes] = []
        while limit > 0 and (chunk := os.read(fd, min(limit, 65536))):
            chunks.append(chunk)
            limit -= len(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)


def write(path: str, text: str) -> None:
    """Write to a file of the kernel, in one call."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
