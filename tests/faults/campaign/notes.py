"""The files a campaign writes down, for the verdict and for a post mortem: JSON lines, appended, some with fsync."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def boottime() -> float:
    """Seconds on the one clock that all processes of this boot share and nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Notes:
    """One process's notes: each line is on disk when :meth:`write` returns, so that its death loses none."""

    def __init__(self, path: Path, *, synced: bool = True) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._synced = synced
        if os.fstat(self._file).st_size and not path.read_bytes().endswith(b"\n"):
            os.write(self._file, b"\n")  # a line that death cut short

    def write(self, **record: Any) -> None:
        record = {"boottime": boottime(), "wall": time.time(), **record}
        os.write(self._file, json.dumps(record).encode() + b"\n")
        if self._synced:
            os.fsync(self._file)


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may not exist yet or may have been cut short."""
    return read_from(path, 0)[0]


def read_from(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines after an offset, and the offset after them."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    return list(_parsed(whole)), offset + len(whole)


def _parsed(lines: bytes) -> Iterator[dict[str, Any]]:
    for line in lines.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # cut short by a death
        if isinstance(record, dict):
            yield record


@dataclass(frozen=True)
class Folder:
    """Where everything of one campaign lies."""

    path: Path

    @property
    def home(self) -> Path:
        """The installation's VP_HOME."""
        return self.path / "home"

    @property
    def records(self) -> Path:
        """What the programs note, one file per mission; their locks are in ``locks`` below it."""
        return self.path / "records"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def journal(self) -> Path:
        """Every fault, with what it met."""
        return self.path / "journal.jsonl"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def settled(self) -> Path:
        """Exists once nothing more will happen: readers and waiters then end."""
        return self.path / "settled"

    def client(self, name: str) -> Path:
        """A client's notes."""
        return self.path / "clients" / f"{name}.jsonl"

    def make(self) -> None:
        for folder in (self.home, self.records / "locks", self.logs, self.path / "clients"):
            folder.mkdir(mode=0o700, parents=True)
