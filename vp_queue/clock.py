"""The only source of time, randomness of ids, and "which machine is this".

Three clocks, each for one purpose:

* :func:`now`: UTC wall clock, for people, due times and events. It may jump.
* :func:`monotonic`: for time limits and waits inside one process.
* :func:`boottime_us`: CLOCK_BOOTTIME in microseconds, comparable between processes of one boot and
  running through suspend. Leases on one host are decided by it, so a wall clock that jumps a day
  expires nothing early.

Tests replace them all with :func:`use`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# The range that RFC 3339 (four-digit years) and every back end can hold.
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)

_ID_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_PAIRS = [first + second for first in _ID_ALPHABET for second in _ID_ALPHABET]


class SystemClock:
    """Reads the operating system's clocks."""

    def now(self) -> datetime:
        """The current instant, aware, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds on this process's monotonic clock."""
        return time.monotonic()

    def boottime_us(self) -> int:
        """Microseconds since this host booted, suspend included."""
        if hasattr(time, "CLOCK_BOOTTIME"):
            return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
        return time.monotonic_ns() // 1000


_clock: SystemClock = SystemClock()


def now() -> datetime:
    """The current instant as an aware UTC datetime."""
    return _clock.now()


def monotonic() -> float:
    """Seconds on a clock that never goes back; only differences mean anything."""
    return _clock.monotonic()


def boottime_us() -> int:
    """Microseconds since boot (CLOCK_BOOTTIME); the same in every process of this host."""
    return _clock.boottime_us()


@contextlib.contextmanager
def use(clock: SystemClock) -> Iterator[None]:
    """Replace the clocks within a ``with`` block (tests only).

    Args:
        clock: an object with ``now``, ``monotonic`` and ``boottime_us``.
    """
    global _clock
    before, _clock = _clock, clock
    try:
        yield
    finally:
        _clock = before


def to_micros(instant: datetime) -> int:
    """Integer microseconds since 1970 of an aware instant.

    Raises:
        ValueError: the datetime is naive. A naive time names no instant; guessing one was the
            earlier system's crash.
    """
    if instant.tzinfo is None:
        raise ValueError("naive datetime: give it a UTC offset")
    return (instant - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """The aware UTC instant of integer microseconds since 1970."""
    return EPOCH + timedelta(microseconds=micros)


def as_text(instant: datetime) -> str:
    """RFC 3339 in UTC with a Z, as the contract's answers write times."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _base36(number: int, width: int) -> str:
    pairs = ""
    while number:
        number, pair = divmod(number, 36 * 36)
        pairs = _ID_PAIRS[pair] + pairs
    return pairs.rjust(width, "0")[-width:]


def new_mission_id() -> str:
    """A time-ordered id such as ``m-0mdq3v8k2f-7x0k3w9c2h1p``.

    Ten base-36 digits of microseconds sort by time until the year 2085; eleven random digits (57
    bits) keep ids of one microsecond apart and unguessable. Source of the idea: ULID.
    """
    micros = to_micros(now())
    return f"m-{_base36(micros, 10)}-{_base36(secrets.randbelow(36**11), 11)}"


def first_mission_id(instant: datetime) -> str:
    """What sorts before every id made at or after an instant, and after every id made before."""
    return f"m-{_base36(min(max(0, to_micros(instant)), 36**10 - 1), 10)}"


def new_token() -> str:
    """128 random bits as hex: lease tokens, worker ids, error ids."""
    return secrets.token_hex(16)


@functools.cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{os.uname().nodename}"


@functools.cache
def host_identity() -> str:
    """What a pid must be read against: this boot and this PID namespace.

    Two containers on one machine share the boot id and the host name, yet a pid of one proves
    nothing in the other; so the namespace's inode is part of the identity.
    """
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    return f"{_boot_id()}:{namespace}"


def process_start_ticks(pid: int) -> int | None:
    """When a process began (clock ticks since boot), or None if it is gone or a zombie.

    With the pid this names one process for good: pids are reused, pairs are not. A zombie runs no
    more code, so it counts as gone.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command name may hold spaces and parentheses; fields count from the last ")".
    fields = stat[stat.rindex(b")") + 2 :].split()
    # A process whose first thread has ended shows as a zombie while its other threads run on.
    if fields[0] == b"X" or (fields[0] == b"Z" and int(fields[17]) <= 1):
        return None
    return int(fields[19])
