"""What the benchmarks share: percentiles, the machine's facts, the disk's speed, and a table with goals."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from vp_queue.ledger import database

BIN = Path(sys.executable).parent
FSYNC_BYTES = 4096
END_SECONDS = 40.0


@dataclass(frozen=True)
class Goal:
    """One figure that is to be reached; ``value`` is None where it was not measured."""

    name: str
    wanted: str
    value: float | None
    met: bool | None

    @classmethod
    def at_most(cls, name: str, limit: float, value: float | None, unit: str) -> Goal:
        return cls(name, f"<= {limit:g} {unit}".strip(), value, None if value is None else value <= limit)

    @classmethod
    def at_least(cls, name: str, limit: float, value: float | None, unit: str = "") -> Goal:
        return cls(name, f">= {limit:g} {unit}".strip(), value, None if value is None else value >= limit)


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; of one sample, that sample."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


def fsync_per_second(folder: Path, seconds: float = 0.3) -> float:
    """How often a second a 4 KiB overwrite reaches this disk: what every synced commit pays at least."""
    path = folder / "fsync.probe"
    with path.open("wb", buffering=0) as file:
        file.write(b"\0" * FSYNC_BYTES * 16)
        os.fsync(file.fileno())
        count, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            os.pwrite(file.fileno(), b"x" * FSYNC_BYTES, count % 16 * FSYNC_BYTES)
            os.fsync(file.fileno())
            count += 1
    path.unlink()
    return count / elapsed


def facts(folder: Path) -> dict[str, Any]:
    """The machine: a figure without it means nothing."""
    model = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    return {
        "cpu": model.partition(":")[2].strip() or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": database.versions()["cysqlite"],
        "file_system": _file_system(folder),
        "load_1_min": os.getloadavg()[0],
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _file_system(folder: Path) -> str:
    """The type of the mount that holds the folder: the longest mount point above it."""
    best, kind = "", "unknown"
    for line in _lines("/proc/mounts"):
        _, point, name, *_ = line.split()
        if folder.resolve().is_relative_to(point) and len(point) >= len(best):
            best, kind = point, name
    return kind


def child_environment(folder: Path, **extra: str) -> dict[str, str]:
    """The environment of what is measured: as installed (compiled modules), and nobody's own VP_HOME.

    Where bytecode may not be written, every start would compile every module; it goes to the benchmark's folder.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VP_", "PYTHON"))}
    return {**kept, "PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "VP_HOME": str(folder / "home"), **extra}


@contextlib.contextmanager
def folder_in(parent: Path | None) -> Iterator[Path]:
    """A temporary folder that is gone afterwards."""
    made = Path(tempfile.mkdtemp(prefix="vp-bench-", dir=parent))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def running(argv: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has ended when the block ends, in good order if it can."""
    process = subprocess.Popen(argv, **options)
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 2)


def spread(samples: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and the largest of samples in seconds, in milliseconds."""
    named = {f"p{percent}_ms": milliseconds(percentile(samples, percent)) for percent in (50, 90, 99)}
    return {**named, "max_ms": milliseconds(max(samples)), "samples": len(samples)}


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """What every benchmark takes."""
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON document")
    parser.add_argument("--strict", action="store_true", help="exit status 1 if a goal is missed or not measured")


def finish(
    title: str,
    about: dict[str, Any],
    tables: Sequence[tuple[Sequence[str], Sequence[Sequence[object]]]],
    goals: Sequence[Goal],
    args: argparse.Namespace,
    document: dict[str, Any],
) -> NoReturn:
    """Print the outcome, and its verdict as the last line (on stderr); exit as ``--strict`` says."""
    _show(title, about, tables, goals, args.as_json, document)
    sys.stdout.flush()
    print(verdict(goals), file=sys.stderr)
    raise SystemExit(args.strict and any(goal.met is not True for goal in goals))


def verdict(goals: Sequence[Goal]) -> str:
    """One line: which goals were missed, and which not measured."""
    told = {
        f"{word}: {', '.join(names)}": names
        for word, met in (("NOT MET", False), ("not measured", None))
        for names in [[goal.name for goal in goals if goal.met is met]]
    }
    return "; ".join(line for line, names in told.items() if names) or f"All {len(goals)} goals are met."


def _show(
    title: str,
    about: dict[str, Any],
    tables: Sequence[tuple[Sequence[str], Sequence[Sequence[object]]]],
    goals: Sequence[Goal],
    as_json: bool,
    document: dict[str, Any],
) -> None:
    """One JSON document, or tables of at most 80 columns."""
    if as_json:
        print(json.dumps({**document, "facts": about, "goals": [asdict(goal) for goal in goals]}))
        return
    from rich.console import Console

    console = Console(width=80, markup=False, emoji=False, highlight=False)
    console.print(title, style="bold")
    console.print(", ".join(f"{name} {_shown(value)}" for name, value in about.items()), style="dim")
    for columns, rows in tables:
        _print_table(console, columns, rows)
    verdicts = {True: "met", False: "NOT MET", None: "not measured"}
    _print_table(
        console,
        ("goal", "wanted", "measured", ""),
        [(goal.name, goal.wanted, _shown(goal.value), verdicts[goal.met]) for goal in goals],
    )


def _print_table(console: Any, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from rich.table import Table

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        grid.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(_shown(cell) for cell in row))
    console.print()
    console.print(grid)


def _shown(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)
