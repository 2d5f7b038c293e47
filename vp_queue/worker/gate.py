"""The gated child: forked by the launcher, made into the program only once it is released.

It waits at a pipe with everything prepared: own session, dies with the launcher, default signals,
working directory, the allowed descriptors and no others, another user's rights if the profile says
so. A byte opens the gate; end-of-file, which is what the launcher's death gives, makes it exit
without exec (ledger.md, rule 9).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import stat

from vp_queue.worker import cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
CAPABILITY_VERSION_3 = 0x20080522
PROGRAM_UMASK = 0o022
ERROR_BYTES = 4096
FIRST_PASSED_FD = 3
LOWEST_OWN_FD = 64  # above any descriptor the program is given
READY = b"\0"  # no error text begins with it
SYS_CLONE3 = 435  # on every architecture
CLONE_INTO_CGROUP = 0x2_0000_0000
CLONE_ARGS_WORDS, EXIT_SIGNAL_WORD, CGROUP_WORD = 11, 4, 10  # struct clone_args: 64-bit words; flags come first

# PyDLL: a call keeps the interpreter's lock, which fork_into needs.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def prctl(option: int, value: int) -> None:
    """Call prctl(2), which the standard library lacks.

    Raises:
        OSError: the kernel refused.
    """
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def fork_into(cgroup: str) -> int | None:
    """Fork a child that is born in the cgroup: moving it there afterwards waits for an RCU grace period, 12 ms.

    ``os.fork`` cannot ask for that. Here the single thread of a launcher makes the system call itself, keeping
    the interpreter's lock throughout (``PyDLL``); so the child needs none of what ``os.fork`` repairs, if it
    starts no thread before it execs.

    Returns:
        the child's pid, 0 in the child; None if the kernel (before 5.7, or a filter) refuses.
    """
    try:
        folder = os.open(cgroup, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    words = (ctypes.c_uint64 * CLONE_ARGS_WORDS)(CLONE_INTO_CGROUP)
    words[EXIT_SIGNAL_WORD], words[CGROUP_WORD] = signal.SIGCHLD, folder
    size = ctypes.c_size_t(ctypes.sizeof(words))
    pid: int = _libc.syscall(ctypes.c_long(SYS_CLONE3), ctypes.byref(words), size)
    os.close(folder)
    return pid if pid >= 0 else None


def fork_gated(spec: dict[str, Any], groups: cgroups.Cgroups) -> tuple[int, bool, int, int, int]:
    """Fork the child that waits at the gate.

    Returns:
        its pid, whether it was born in its cgroup v2, the gate's write end, the read ends of output and errors.
        The launcher keeps no copy of the program's own descriptors, so whoever reads them sees end-of-file in time.
    """
    gate_reader, gate = os.pipe()
    output, output_writer = os.pipe()
    errors, errors_writer = os.pipe()
    # Blocked across the fork: the launcher's handlers must not run in the child.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    launcher = os.getpid()
    born = fork_into(groups.tree) if groups.tree else None
    pid = os.fork() if born is None else born
    if pid == 0:
        try:
            if groups.pids:
                cgroups.enter(groups.pids)  # the launcher looks whether it did
            _become_program(spec, launcher, gate_reader, output_writer, errors_writer)
        finally:
            os._exit(127)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    own = {spec["cwd_fd"], spec["stdin_fd"], spec["stdout_fd"], *spec["pass_fds"]} - {None}
    for fd in (gate_reader, output_writer, errors_writer, *own):
        os.close(fd)
    os.set_blocking(output, False)
    return pid, born is not None, gate, output, errors


def _become_program(spec: dict[str, Any], launcher: int, gate: int, output: int, errors: int) -> None:
    """In the child: cut all ties, wait at the gate, exec. Returns only if the program cannot start."""
    try:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:
            return  # it died before prctl: nobody would ever end us
        _reset_signals()
        stdin = spec["stdin_fd"]
        os.dup2(os.open(os.devnull, os.O_RDONLY) if stdin is None else stdin, 0)
        os.dup2(output if spec["stdout_fd"] is None else spec["stdout_fd"], 1)
        os.dup2(output, 2)
        own = (gate, errors, spec["cwd_fd"])
        gate, errors, folder = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOWEST_OWN_FD) for fd in own)
        passed = _renumbered(spec["pass_fds"])
        _close_all_but({0, 1, 2, gate, errors, folder, *passed})
        if spec["account"] is not None:
            _become_user(spec["account"], launcher, [1, 2, *passed])
        _enter(folder, spec["account"])
        os.write(errors, READY)
        if os.read(gate, 1):
            os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # closes gate and errors
    except (OSError, ValueError) as error:
        os.write(errors, _why(error, spec["argv"][0]).encode(errors="backslashreplace")[:ERROR_BYTES])


def _become_user(account: dict[str, Any], launcher: int, descriptors: list[int]) -> None:
    """Take on another user's rights, and no way back: groups, ids, capabilities, set-user-id programs.

    Args:
        descriptors: the program's own; its pipes become the user's, or ``/dev/stderr`` could not be opened.

    Raises:
        OSError: something of the old rights is left.
    """
    uid, gid = account["uid"], account["gid"]
    for fd in descriptors:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.fchown(fd, uid, gid)
    os.setgroups(account["groups"])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    # A worker that was not root but had capabilities would pass them on.
    header, none = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    if _libc.capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset failed")
    if (os.getresuid(), os.getresgid()) != ((uid,) * 3, (gid,) * 3) or set(os.getgroups()) != set(account["groups"]):
        raise PermissionError(errno.EPERM, f"the rights of user {account['name']} could not be taken on")
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    os.umask(PROGRAM_UMASK)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # the kernel forgot it when the ids changed
    if os.getppid() != launcher:
        os._exit(127)


def _enter(folder: int, account: dict[str, Any] | None) -> None:
    try:
        os.fchdir(folder)
    except PermissionError as error:
        who = f"user {account['name']}" if account else "the worker's user"
        raise PermissionError(error.errno, f"{who} may not enter the folder it is to start in") from None


def _renumbered(fds: list[int]) -> list[int]:
    """Give the program its descriptors as 3, 4, 5 …: a plain ``sh`` can write to one-digit numbers only."""
    # First out of the way: one may have the number that another is to get.
    aside = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, LOWEST_OWN_FD) for fd in fds]
    return [os.dup2(fd, FIRST_PASSED_FD + index) for index, fd in enumerate(aside)]


def _why(error: OSError | ValueError, program: str) -> str:
    if isinstance(error, OSError):
        if error.errno == errno.ENOENT:
            return f"{type(error).__name__}: no such program {program!r}"
        return f"{type(error).__name__}: {error.strerror}: {program!r}"
    return f"{type(error).__name__}: {error}"


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _close_all_but(kept: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
