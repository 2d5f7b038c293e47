"""The control groups of one program's tree: to find all of it, to kill it at once, and to hold a fork bomb.

A program's tree gets a cgroup v2 of its own where one may be made. How many processes may be in it is limited
there if the ``pids`` controller can be had; else (a hybrid system, where version 1 owns that controller) in a
second cgroup, of version 1. Either is also complete: nothing without the right to write cgroups leaves one.

Only cheap standard modules are imported: the launcher makes the groups while an attempt waits.
"""

from __future__ import annotations

import contextlib
import os
import time

from vp_queue.worker.procfs import FILE_BYTES, read, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "vp-queue-"
DISCARD_SECONDS = 2.0
ENODEV = 19  # removed between open and read
# What systemd writes on a cgroup that it gave away (Delegate=yes); the first needs root to be read.
DELEGATED = ("trusted.delegate", "user.delegate")


class Cgroups:
    """The cgroups of one tree, by their absolute paths.

    Attributes:
        tree: of version 2, or None.
        pids: of version 1, with the pids controller, or None.
    """

    __slots__ = ("pids", "tree")

    def __init__(self, tree: str | None, pids: str | None) -> None:
        self.tree, self.pids = tree, pids

    @property
    def paths(self) -> list[str]:
        """Those there are."""
        return [path for path in (self.tree, self.pids) if path]

    def keep_only_those_of(self, pid: int, is_in_tree: bool) -> None:
        """Remove a cgroup that the program could not be put into.

        Args:
            pid: the program's first process, at its gate. Into ``pids`` it went by itself.
            is_in_tree: it was born in ``tree``; otherwise it is moved there now.
        """
        if self.tree and not is_in_tree and not join(self.tree, pid):
            _remove(self.tree)
            self.tree = None
        if self.pids and pid not in _procs(self.pids):
            _remove(self.pids)
            self.pids = None

    def members(self) -> list[int]:
        """The pids in them and below, as far as the kernel tells."""
        found: list[int] = []
        for folder in (folder for path in self.paths for folder in _folders(path)):
            with contextlib.suppress(OSError):
                found += _procs(folder)
        return found

    def are_empty(self) -> bool:
        """Whether no live process is in them or below; one that is gone is empty."""
        return (self.tree is None or not _is_populated(self.tree)) and (self.pids is None or _is_bare(self.pids))

    def kill(self) -> None:
        """Let nothing in them fork any more, then SIGKILL all at once where the kernel (5.14) can."""
        for path in self.paths:
            with contextlib.suppress(OSError):
                write(f"{path}/pids.max", "0")
        if self.tree:
            with contextlib.suppress(OSError):
                write(f"{self.tree}/cgroup.kill", "1")

    def refused(self) -> bool:
        """Whether a fork failed because there were as many processes as there may be."""
        for path in self.paths:
            with contextlib.suppress(OSError):
                if b"max 0" not in read(f"{path}/pids.events", FILE_BYTES).split(b"\n"):
                    return True
        return False

    def remove(self) -> None:
        """Remove them, empty as they are, and those the program made below."""
        for path in self.paths:
            _remove(path)


def create(name: str, max_processes: int) -> Cgroups:
    """Make the cgroups ``vp-queue-<name>`` as far as there are places for them.

    Args:
        name: of the tree; what a crash left under it is removed first.
        max_processes: processes and threads at most; 0 = no limit.
    """
    own, limited = own_cgroup(), False
    tree = None
    if own is not None:
        place = limiting_place(own) if max_processes else None
        tree = _make(place or own, name)
        limited = tree is not None and place is not None and _limit(tree, max_processes)
    pids = None
    if max_processes and not limited and (parent := own_cgroup("pids")) is not None:
        pids = _make(parent, name)
        if pids is not None and not _limit(pids, max_processes):
            _remove(pids)
            pids = None
    return Cgroups(tree, pids)


def discard(name: str) -> None:
    """Remove the cgroups of a launcher that was killed before it told of them; it had started no program.

    What it forked waits at its gate, whose other end is closed, so it is about to end.

    Args:
        name: of the tree.
    """
    own = own_cgroup()
    places = (own, limiting_place(own, look_only=True) if own else None, own_cgroup("pids"))
    left = {f"{place}/{PREFIX}{name}" for place in places if place is not None}
    give_up_at = time.monotonic() + DISCARD_SECONDS
    while left := {path for path in left if os.path.isdir(path)}:
        for path in left:
            _remove(path)
        if time.monotonic() > give_up_at:
            return
        time.sleep(0.01)


def join(path: str, pid: int) -> bool:
    """Move a process into the cgroup; False if the kernel refuses. It may wait for an RCU grace period, 12 ms."""
    try:
        write(f"{path}/cgroup.procs", str(pid))
    except OSError:
        return False
    return True


def enter(path: str) -> bool:
    """Move this single-threaded process into the cgroup of version 1, at once; False if the kernel refuses.

    A task that moves itself alone cannot change under the kernel's hands, so nothing is waited for.
    """
    try:
        write(f"{path}/tasks", "0")
    except OSError:
        return False
    return True


def limit_in_force() -> str | None:
    """Where a limit on processes would be set now, for people; None if nowhere. Changes nothing."""
    own, pids = own_cgroup(), own_cgroup("pids")
    if own is not None and limiting_place(own, look_only=True) is not None:
        return f"cgroup v2, {own}"
    if pids is not None and os.access(pids, os.W_OK):
        return f"cgroup v1, {pids}"
    return None


def limiting_place(own: str, *, look_only: bool = False) -> str | None:
    """The cgroup v2 in which a child can be made whose processes are counted, or None.

    The kernel gives a controller to the children of a cgroup only if that holds no processes itself. So it is
    the root, or the folder above ours if systemd gave that to us (Delegate= with DelegateSubgroup=); beside
    another service we would escape the limits of our own.

    Args:
        look_only: do not enable the controller there.
    """
    place = own if not os.path.exists(f"{own}/cgroup.type") else os.path.dirname(own)
    if place != own and not _is_delegated(place):
        return None
    if b"pids" in _words(f"{place}/cgroup.subtree_control"):
        return place
    if b"pids" not in _words(f"{place}/cgroup.controllers"):
        return None
    try:
        if not look_only:
            write(f"{place}/cgroup.subtree_control", "+pids")
    except OSError:
        return None
    return place


def own_cgroup(controller: str = "") -> str | None:
    """The folder of this process's cgroup of version 2, or of version 1 with that controller."""
    try:
        lines = read("/proc/self/cgroup", FILE_BYTES).decode().splitlines()
        mounts = read("/proc/self/mountinfo", FILE_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    own = next((path for _, held, path in (line.split(":", 2) for line in lines) if _holds(held, controller)), None)
    if own is None:
        return None
    kind = "cgroup" if controller else "cgroup2"
    for line in mounts:
        before, _, after = line.partition(" - ")
        told = after.split(" ")
        if told[0] == kind and (not controller or controller in told[-1].split(",")):
            root, mount = (_unescape(field) for field in before.split(" ")[3:5])
            # A bind-mounted subtree shows our path relative to its own root.
            below = own[len(root) :] if root != "/" and own.startswith(root) else own
            return f"{mount}/{below.strip('/')}".rstrip("/")
    return None


def _holds(held: str, controller: str) -> bool:
    return controller in held.split(",")  # of version 2, /proc shows none


def _is_delegated(path: str) -> bool:
    for name in DELEGATED:
        with contextlib.suppress(OSError):
            if os.getxattr(path, name) == b"1":
                return True
    return False


def _make(parent: str, name: str) -> str | None:
    path = f"{parent}/{PREFIX}{name}"
    _remove(path)  # an empty one left behind by a crash
    try:
        os.mkdir(path, 0o755)
    except OSError:
        return None
    return path


def _limit(path: str, max_processes: int) -> bool:
    try:
        write(f"{path}/pids.max", str(max_processes))
    except OSError:
        return False
    return True


def _is_populated(path: str) -> bool:
    try:
        return b"populated 0" not in read(f"{path}/cgroup.events", FILE_BYTES).split(b"\n")
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno != ENODEV


def _is_bare(path: str) -> bool:
    """Whether a cgroup of version 1, which has no ``cgroup.events``, holds no process."""
    try:
        return not any(_procs(folder) for folder in _folders(path))
    except FileNotFoundError:
        return True
    except OSError as error:
        return error.errno == ENODEV


def _procs(folder: str) -> list[int]:
    return [int(pid) for pid in read(f"{folder}/cgroup.procs", FILE_BYTES).split()]


def _remove(path: str) -> None:
    for folder in reversed(list(_folders(path))):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _words(path: str) -> list[bytes]:
    try:
        return read(path, FILE_BYTES).split()
    except OSError:
        return []


def _unescape(field: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def _folders(path: str) -> Iterator[str]:
    if os.path.isdir(path) and not os.path.islink(path):
        for folder, _, _ in os.walk(path):
            yield folder
