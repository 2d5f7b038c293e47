"""File access that no link can lead astray.

Everything an executor's program could have written is reached relative to an open directory, never
by a path that is resolved anew: a link in the way is an error, and what was checked is what is
read. Where the kernel has ``openat2`` one call resolves a whole path under RESOLVE_BENEATH |
RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS; elsewhere (older kernels, seccomp filters, other
systems) the path is walked one O_NOFOLLOW component at a time, with the same answers.

Functions raise plain :class:`OSError`; ELOOP and ENOTDIR are what a link in the way looks like.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import platform
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from vp_queue.contracts import limits

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
CHUNK_BYTES: Final = 1024 * 1024

# Only passed through, never read: a folder of mode 0711 can be crossed so. Linux has O_PATH.
SEARCH: Final = getattr(os, "O_PATH", os.O_RDONLY)

# linux/posix_acl_xattr.h, linux/posix_acl.h
_ACL: Final = "system.posix_acl_access"
_ACL_VERSION: Final = 2
_ACL_OWNER: Final = 0x01
_ACL_USER: Final = 0x02
_ACL_GROUP: Final = 0x04
_ACL_MASK: Final = 0x10
_ACL_OTHER: Final = 0x20

_OPENAT2: Final = 437
_MACHINES: Final = frozenset({"x86_64", "aarch64"})
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
# ENOSYS: an older kernel. EPERM: container seccomp filters that do not know the call. EAGAIN, EINTR:
# the kernel asks to try again. The walk answers in all four cases.
_ASK_THE_WALK: Final = frozenset({errno.ENOSYS, errno.EPERM, errno.EAGAIN, errno.EINTR})


class NotRegular(OSError):
    """The name is no regular file: a link, folder, FIFO, socket or device; or it changed meanwhile."""


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


@contextlib.contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Close a file descriptor at the end of a ``with`` block."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_trusted(path: Path, access: int = os.O_RDONLY) -> int:
    """Open a folder whose path the operator chose, links allowed: the workspaces root, for one."""
    return os.open(path, access | os.O_DIRECTORY | os.O_CLOEXEC)


def open_folder(parent: int, path: str, access: int = os.O_RDONLY) -> int:
    """Open a folder beneath an open one; no component may be a link.

    Args:
        parent: descriptor of the folder the path is relative to.
        path: components joined by ``/``.
        access: ``os.O_RDONLY``, or :data:`SEARCH` to pass through only.

    Raises:
        OSError: ELOOP or ENOTDIR for a link or a file in the way, EXDEV for a path that could lead
            out (absolute, ``.`` or ``..``), ENOENT.
    """
    components = path.split("/")
    if any(component in ("", ".", "..") for component in components):
        raise OSError(errno.EXDEV, "the path could lead out of its folder", path)
    flags = access | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    opened = _openat2(parent, path, flags)
    return _walk(parent, components, flags) if opened is None else opened


def open_link_free(path: Path, components: int) -> int:
    """Open a folder, refusing links among the last components of its path.

    What lies above them is the operator's (``/var`` may well be a link); what lies below the
    workspaces root is in reach of the programs.

    Args:
        path: an absolute path.
        components: how many components at its end must be real folders.
    """
    parts = path.parts
    depth = min(components, len(parts) - 1)
    if depth == 0:
        return open_trusted(path)
    with closing(open_trusted(Path(*parts[: len(parts) - depth]), SEARCH)) as trusted:
        return open_folder(trusted, "/".join(parts[len(parts) - depth :]))


def _encoded(path: str) -> bytes:
    """UTF-8 whatever the locale; the escapes are bytes that ``realpath`` could not decode."""
    return path.encode("utf-8", "surrogateescape")


@functools.cache
def _system_call() -> Callable[..., int] | None:
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return None
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return call


def _openat2(parent: int, path: str, flags: int) -> int | None:
    """The descriptor, or None where the kernel has no such call for us."""
    call = _system_call()
    if call is None:
        return None
    how = _OpenHow(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)
    name = ctypes.c_char_p(_encoded(path))
    opened = call(ctypes.c_long(_OPENAT2), ctypes.c_int(parent), name, ctypes.byref(how), ctypes.c_size_t(24))
    if opened >= 0:
        return opened
    code = ctypes.get_errno()
    if code in _ASK_THE_WALK:
        return None
    raise OSError(code, os.strerror(code), path)


def _walk(parent: int, components: list[str], flags: int) -> int:
    crossing = SEARCH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    current = os.dup(parent)
    for component in components[:-1]:
        with closing(current):
            current = os.open(_encoded(component), crossing, dir_fd=current)
    with closing(current):
        return os.open(_encoded(components[-1]), flags, dir_fd=current)


def open_regular(folder: int, name: bytes) -> tuple[int, os.stat_result]:
    """Open a regular file for reading by its name in an open folder.

    A FIFO or device is not opened at all (opening alone can block, or act on a device); O_NONBLOCK
    is the backstop for one that takes the file's place in between.

    Returns:
        The descriptor and what it says about itself.

    Raises:
        NotRegular: the name is a link, folder or special file, or was exchanged meanwhile.
        OSError: it cannot be opened.
    """
    if b"/" in name or name in (b"", b".", b".."):
        raise OSError(errno.EXDEV, "not a plain name", name)
    seen = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(seen.st_mode):
        raise NotRegular(errno.EINVAL, "not a regular file", name)
    opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=folder)
    try:
        about = os.fstat(opened)
        if not stat.S_ISREG(about.st_mode) or identity(about) != identity(seen):
            raise NotRegular(errno.EINVAL, "exchanged while it was opened", name)
    except BaseException:
        os.close(opened)
        raise
    return opened, about


def identity(about: os.stat_result) -> tuple[int, int]:
    """What names a file on this host whatever its path: device and inode."""
    return about.st_dev, about.st_ino


def ancestry(folder: int) -> list[tuple[int, int]]:
    """The identities of an open folder and of every folder above it, up to the root.

    Raises:
        OSError: the folder was deleted, or a folder above may not be searched.
    """
    current = os.dup(folder)
    found = [identity(os.fstat(current))]
    try:
        for _ in range(limits.PATH_CHARS):
            above = os.open("..", SEARCH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=current)
            os.close(current)
            current = above
            here = identity(os.fstat(current))
            if here == found[-1]:
                return found
            found.append(here)
    finally:
        os.close(current)
    raise OSError(errno.ELOOP, "the folder has no end of parents")


def make_folder(parent: int, name: str, *, new: bool) -> int:
    """Create (0700) and open a folder by its name in an open one.

    Args:
        parent: descriptor of the folder above.
        name: one component.
        new: refuse one that exists; otherwise an existing real folder will do.

    Raises:
        FileExistsError: it must be new and is not.
        OSError: a link or file stands in the way (ELOOP, ENOTDIR), or the disk refuses.
    """
    try:
        os.mkdir(name.encode(), FOLDER_MODE, dir_fd=parent)
    except FileExistsError:
        if new:
            raise
    return open_folder(parent, name)


def create_file(
    folder: int,
    name: str,
    content: bytes,
    *,
    durable: bool = False,
    mode: int = FILE_MODE,
    owner: tuple[int, int] | None = None,
) -> None:
    """Write a file that must not exist yet.

    Args:
        folder: descriptor of the folder it goes into.
        name: one component.
        content: all of it.
        durable: fsync before closing.
        mode: its permissions, whatever the umask.
        owner: user and group it is given to, if not to this process's.

    Raises:
        FileExistsError: the name is taken, be it by a link that leads nowhere.
        OSError: the disk refuses.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name.encode(), flags, FILE_MODE, dir_fd=folder), "wb") as file:
        file.write(content)
        if mode != FILE_MODE:
            os.fchmod(file.fileno(), mode)
        if owner is not None:
            os.fchown(file.fileno(), *owner)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def share(folder: int, uid: int) -> None:
    """Let one other user work in an open folder of ours, and nobody else.

    That user may make files there, but neither remove nor rename ours (the sticky bit), nor open the folder to
    others, as its owner or group could. Modes alone cannot say that; a POSIX access control list can.

    Raises:
        OSError: ENOTSUP where the file system has none.
    """
    everyone_else = 0xFFFFFFFF
    entries = (
        (_ACL_OWNER, 7, everyone_else),
        (_ACL_USER, 7, uid),
        (_ACL_GROUP, 0, everyone_else),
        (_ACL_MASK, 7, everyone_else),
        (_ACL_OTHER, 0, everyone_else),
    )
    packed = struct.pack("<I", _ACL_VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(folder, _ACL, packed)
    os.fchmod(folder, stat.S_ISVTX | 0o770)  # the group's bits are the list's mask


def take_back(folder: int) -> None:
    """Undo :func:`share`: the open folder is for its owner alone again.

    Raises:
        OSError: this process may not.
    """
    with contextlib.suppress(OSError):  # ENODATA: it was not shared
        os.removexattr(folder, _ACL)
    os.fchmod(folder, FOLDER_MODE)


def sync_folder(folder: int) -> None:
    """fsync a folder's entries.

    Raises:
        OSError: the storage failed. (EINVAL is no failure: such a file system has no fsync of folders.)
    """
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def chunks(descriptor: int, size: int) -> Iterator[bytes]:
    """Read at most ``size`` bytes (a file that grows meanwhile does not), in pieces of bounded size."""
    left = size
    while left > 0:
        piece = os.read(descriptor, min(CHUNK_BYTES, left))
        if not piece:
            return
        left -= len(piece)
        yield piece
