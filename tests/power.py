"""What a disk may hold after the power went: built from a recording of what a process wrote and synced.

A write that was not synced when the power went may be on the disk, in part (whole sectors of 512 bytes), or not
at all, whatever came before or after it; one that was synced is there. :func:`recorded` reads the system calls
that strace saw on the ledger's files, in their order; :class:`Disk` plays them and answers, after any of them,
with one of the states that a crash there could leave. Source of the idea: ALICE (Pillai et al., OSDI 2014).
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512
CALLS = "pwrite64,ftruncate,fdatasync,fsync,write"
_HEX = r"(?:\\x[0-9a-f]{2})*"
_CALL = re.compile(rf'(\w+)\(\d+<({_HEX})>(?:, "({_HEX})")?(?:, (\d+))?(?:, (\d+))?\) += (\d+)')


@dataclass(frozen=True)
class Call:
    """One system call on one file: a write of ``data`` at ``offset``, a cut at ``offset``, or a sync (neither)."""

    name: str
    path: str
    data: bytes
    offset: int


def recorded(trace: Path) -> Iterator[Call]:
    """The calls that succeeded, as ``strace -y -xx -s 70000 -e trace=CALLS`` of one process wrote them."""
    for line in trace.read_text().splitlines():
        found = _CALL.match(line)
        if found is None:
            continue
        name, path, text, first, second, result = found.groups()
        data = _bytes(text or "")
        assert name not in ("pwrite64", "write") or int(result) == len(data), line[:200]
        yield Call(name, os.fsdecode(_bytes(path)), data, int(second or 0) if name == "pwrite64" else int(first or 0))


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


@dataclass
class _File:
    durable: bytearray
    unsynced: list[Call] = field(default_factory=list)

    def sync(self) -> None:
        for call in self.unsynced:
            apply(self.durable, call)
        self.unsynced.clear()


class Disk:
    """Some files, as far as a crash is concerned."""

    def __init__(self, files: dict[str, bytes]) -> None:
        """
        Args:
            files: path → content that is durable at the beginning.
        """
        self._files = {path: _File(bytearray(content)) for path, content in files.items()}

    def play(self, call: Call) -> bool:
        """Do what the call did; whether it was about one of the files."""
        file = self._files.get(call.path)
        if file is None:
            return False
        if call.name in ("fsync", "fdatasync"):
            file.sync()
        else:
            file.unsynced.append(call)
        return True

    def after_a_crash(self, chance: random.Random) -> dict[str, bytes]:
        """One of the states that the files may be in if the power goes now."""
        kept = chance.choice([0.0, 0.5, 0.9, 1.0])
        state = {}
        for path, file in self._files.items():
            content = bytearray(file.durable)
            for call in file.unsynced:
                if call.name == "ftruncate":
                    if chance.random() < kept:
                        apply(content, call)
                    continue
                for start in range(0, len(call.data), SECTOR_BYTES):
                    if chance.random() < kept:
                        sector = call.data[start : start + SECTOR_BYTES]
                        apply(content, Call("pwrite64", path, sector, call.offset + start))
            state[path] = bytes(content)
        return state


def apply(content: bytearray, call: Call) -> None:
    """Do to a file's content what the call does."""
    if call.name == "ftruncate":
        del content[call.offset :]
        content.extend(bytes(call.offset - len(content)))
        return
    content.extend(bytes(max(0, call.offset - len(content))))
    content[call.offset : call.offset + len(call.data)] = call.data
