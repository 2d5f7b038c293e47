"""Small disks of a test's own, to fill, to break, to make read-only.

The mounts are made in a mount namespace of this process's: nothing else on the machine sees them, and the kernel
removes them with the last process that does, however the tests end.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

CLONE_NEWNS = 0x20000
needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None, reason="breaks system calls by strace; run: apt-get install strace"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems; run: sudo make test")


@functools.cache
def _leave_the_machines_mounts() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        pytest.skip(f"no mount namespace to be had ({os.strerror(ctypes.get_errno())}); run with CAP_SYS_ADMIN")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


@contextlib.contextmanager
def disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """An empty file system (tmpfs) of this size at ``folder``, which is made; gone with the block."""
    _leave_the_machines_mounts()
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def read_only(folder: Path, on: bool) -> None:
    """Remount it read-only, or writable again. Nobody may have a file open for writing."""
    subprocess.run(["mount", "-o", f"remount,{'ro' if on else 'rw'}", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take the last free byte; returns the file to remove again."""
    filler = folder / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for piece in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(descriptor, b"\0" * piece)
    finally:
        os.close(descriptor)
    return filler
