"""Processes and control groups as the kernel shows them: find, signal, kill, prove empty.

The primitives under ``launcher`` (which ends its own tree) and ``tree`` (which ends a tree whose
launcher may be dead). Only cheap standard modules are imported, because the launcher's start-up time
is paid once per attempt. A process is always named by pid *and* start time: pids are reused, pairs
are not.
"""

from __future__ import annotations

import contextlib
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

CGROUP_PREFIX = "vp-queue-"
# Rounds of "stop whatever is new" before killing: a fork bomb loses most of its growth in each.
FREEZE_ROUNDS = 20
ENVIRON_BYTES = 4 * 1024 * 1024


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
        stat = _read(f"/proc/{pid}/stat", 4096)
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
        environ = set(_read(f"/proc/{pid}/environ", ENVIRON_BYTES).split(b"\0"))
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


def create_cgroup(name: str) -> str | None:
    """Make the cgroup v2 directory ``vp-queue-<name>`` below this process's own.

    Returns:
        its absolute path, or None where there is no cgroup v2 or it is not ours to write.
    """
    parent = own_cgroup()
    if parent is None:
        return None
    path = f"{parent}/{CGROUP_PREFIX}{name}"
    with contextlib.suppress(OSError):
        remove_cgroup(path)  # an empty one left behind by a crash
    try:
        os.mkdir(path, 0o755)
    except OSError:
        return None
    return path


def join_cgroup(path: str, pid: int) -> bool:
    """Move a process into the cgroup; False if the kernel refuses."""
    try:
        _write(f"{path}/cgroup.procs", str(pid))
    except OSError:
        return False
    return True


def cgroup_is_empty(path: str) -> bool:
    """Whether no live process is in the cgroup or below it; a cgroup that is gone is empty."""
    try:
        return b"populated 0" in _read(f"{path}/cgroup.events", 4096).split(b"\n")
    except FileNotFoundError:
        return True
    except OSError as error:
        return error.errno == 19  # ENODEV: removed between open and read


def cgroup_members(path: str) -> list[int]:
    """The pids in the cgroup and below it."""
    pids: list[int] = []
    for folder in _cgroup_folders(path):
        with contextlib.suppress(OSError):
            pids += [int(pid) for pid in _read(f"{folder}/cgroup.procs", ENVIRON_BYTES).split()]
    return pids


def kill_cgroup(path: str) -> bool:
    """SIGKILL the cgroup's whole tree at once; False where the kernel (before 5.14) cannot."""
    try:
        _write(f"{path}/cgroup.kill", "1")
    except OSError:
        return False
    return True


def remove_cgroup(path: str) -> bool:
    """Remove the (empty) cgroup and those the program made below it. True if it is gone."""
    for folder in reversed(list(_cgroup_folders(path))):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return not os.path.isdir(path)


def own_cgroup() -> str | None:
    try:
        lines = _read("/proc/self/cgroup", ENVIRON_BYTES).decode().splitlines()
        own = next((line[3:] for line in lines if line.startswith("0::")), None)
        mounts = _read("/proc/self/mountinfo", ENVIRON_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    if own is None:
        return None
    for line in mounts:
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] == "cgroup2":
            root, mount = (_unescape(field) for field in before.split(" ")[3:5])
            # A bind-mounted subtree shows our path relative to its own root.
            below = own[len(root) :] if root != "/" and own.startswith(root) else own
            return f"{mount}/{below.strip('/')}".rstrip("/")
    return None


def _unescape(field: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def _cgroup_folders(path: str) -> Iterator[str]:
    if os.path.isdir(path) and not os.path.islink(path):
        for folder, _, _ in os.walk(path):
            yield folder


def _read(path: str, limit: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks: list[bytes] = []
        while limit > 0 and (chunk := os.read(fd, min(limit, 65536))):
            chunks.append(chunk)
            limit -= len(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
