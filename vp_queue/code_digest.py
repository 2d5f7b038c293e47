"""Which code this installation holds: so that a consumer that still runs an older one is told from the others.

A version is not enough: a checkout changes many times within one.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PACKAGE: Final = os.path.dirname(os.path.realpath(__file__))


def code_digest() -> str:
    """SHA-256 (hex) over the names and contents of the package's Python files, as they are on disk now."""
    digest = hashlib.sha256()
    for path in sorted(_files()):
        found = os.stat(path)
        digest.update(f"{path[len(PACKAGE) :]}\0{_file_digest(path, found.st_mtime_ns, found.st_size)}\0".encode())
    return digest.hexdigest()


def _files() -> Iterator[str]:
    # Through the links of a checkout (tasks, cli) as well, which os.walk does not follow by itself.
    for folder, _, names in os.walk(PACKAGE, followlinks=True):
        yield from (f"{folder}/{name}" for name in names if name.endswith(".py"))


@functools.lru_cache(maxsize=2_000)
def _file_digest(path: str, mtime_ns: int, size: int) -> str:
    """Of one file's content; its time and size say whether what was read before still holds."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
