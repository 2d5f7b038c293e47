"""What a dispatch costs: per second against the disk's ceiling, and until the program runs against a bare spawn.

    python bench/dispatch.py [--missions N] [--skip-idle] [--json] [--strict]

Ceiling and ours take turns in short rounds on one file system, because disks drift: compare only figures of
one run. Everything is written to a temporary folder, and every process started has ended afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import start
from measure import (
    Goal,
    add_common_options,
    child_environment,
    facts,
    finish,
    folder_in,
    fsync_per_second,
    milliseconds,
    percentile,
    running,
    spread,
)

from vp_queue import missions

ROUNDS = 10
KINDS = ("ceiling", "ours")
PROCESSES = (1, 8)
CONTENDER = Path(__file__).with_name("contender.py")
RATIO_GOAL, P50_GOAL_MS, P99_GOAL_MS = 0.6, 15.0, 50.0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--missions", type=int, default=2000, help="dispatched in all by each side (2000)")
    parser.add_argument("--starts", type=int, help="programs started by each side (missions / 20, at most 100)")
    parser.add_argument("--idle-seconds", type=float, default=90.0, help="the long pause before a start (90)")
    parser.add_argument("--idle-samples", type=int, default=5, help="how many such starts (5)")
    parser.add_argument("--skip-idle", action="store_true", help="no starts after a long pause")
    parser.add_argument("--folder", type=Path, help="measure on this folder's file system")
    add_common_options(parser)
    return parser.parse_args()


class Contenders:
    """The processes of one side, ready to write at a word."""

    def __init__(self, kind: str, folder: Path, stack: contextlib.ExitStack) -> None:
        environment = child_environment(folder / kind)
        ledger = Path(environment["VP_HOME"]) / "vp_state.db"
        argv = [sys.executable, str(CONTENDER), kind, str(ledger)]
        self._processes = [
            stack.enter_context(running(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for _ in range(max(PROCESSES))
        ]
        for process in self._processes:
            _line(process)

    def write(self, count: int, processes: int) -> list[dict[str, Any]]:
        """Have so many processes write ``count`` in all, at once; what each of them says."""
        at_work = self._processes[:processes]
        for process in at_work:
            if process.stdin is not None:
                process.stdin.write(b"%d\n" % -(-count // processes))
                process.stdin.flush()
        return [json.loads(_line(process)) for process in at_work]


def _line(process: subprocess.Popen[bytes]) -> bytes:
    line = process.stdout.readline() if process.stdout else b""
    if not line:
        raise SystemExit(f"{process.args} ended")
    return line


def set_up(home: Path) -> None:
    """A VP_HOME with the VP that is measured, current in this process."""
    home.mkdir(mode=0o700, parents=True)
    (home / "vp_queue.toml").write_text(start.CONFIGURATION)
    os.environ["VP_HOME"] = str(home)
    missions.ready()


@contextlib.contextmanager
def contenders(folder: Path) -> Iterator[dict[str, Contenders]]:
    with contextlib.ExitStack() as stack:
        for kind in KINDS:
            set_up(folder / kind / "home")
        yield {kind: Contenders(kind, folder, stack) for kind in KINDS}


def rates(folder: Path, count: int) -> tuple[dict[str, Any], float]:
    """Both sides' figures by number of processes, and fsync/s as measured between the rounds."""
    said: dict[tuple[int, str], list[list[dict[str, Any]]]] = {}
    fsyncs: list[float] = []
    with contenders(folder) as sides:
        for _ in range(ROUNDS):
            fsyncs.append(fsync_per_second(folder, 0.1))
            for processes in PROCESSES:
                for kind in KINDS:
                    answers = sides[kind].write(-(-count // ROUNDS), processes)
                    said.setdefault((processes, kind), []).append(answers)
    figures: dict[str, Any] = {}
    for processes in PROCESSES:
        of_both = {kind: _figures(said[processes, kind]) for kind in KINDS}
        ratio = of_both["ours"]["per_second"] / of_both["ceiling"]["per_second"]
        figures[str(processes)] = {**of_both, "ratio": round(ratio, 3)}
    return figures, percentile(fsyncs, 50)


def _figures(rounds: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Per second over the time in which all rounds wrote; CLOCK_MONOTONIC is the same in every process."""
    seconds = sum(max(a["end"] for a in answers) - min(a["start"] for a in answers) for answers in rounds)
    latencies = [latency for answers in rounds for a in answers for latency in a["latencies"]]
    errors = sum(a["errors"] for answers in rounds for a in answers)
    return {"per_second": round(len(latencies) / seconds, 1), **spread(latencies), "errors": errors}


def starts(folder: Path, count: int, idle: Sequence[float]) -> dict[str, Any]:
    """How long until the program runs: both sides, and what ours takes beyond the median bare spawn."""
    environment = child_environment(folder)
    set_up(Path(environment["VP_HOME"]))
    samples = start.measure(folder, environment, count, idle)
    bare = percentile(samples["bare"], 50)
    return {
        **{name: spread(samples[name]) for name in ("bare", "ours", "call")},
        "beyond": spread([sample - bare for sample in samples["ours"]]),
        "after_idle_beyond_ms": [milliseconds(sample - bare) for sample in samples["idle"]],
    }


def goals(figures: dict[str, Any], started: dict[str, Any]) -> list[Goal]:
    idle: list[float] = started["after_idle_beyond_ms"]
    errors = sum(figures[key]["ours"]["errors"] for key in figures)
    return [
        *(
            Goal.at_least(f"dispatch, ours / ceiling, {key} process{'es' * (key != '1')}", RATIO_GOAL, value["ratio"])
            for key, value in figures.items()
        ),
        Goal.at_most("dispatch errors", 0, errors, ""),
        Goal.at_most("dispatch to start, p50 beyond bare spawn", P50_GOAL_MS, started["beyond"]["p50_ms"], "ms"),
        Goal.at_most("dispatch to start, p99 beyond bare spawn", P99_GOAL_MS, started["beyond"]["p99_ms"], "ms"),
        Goal.at_most("the same after a long idle time, p50", P50_GOAL_MS, median(idle), "ms"),
        Goal.at_most("the same after a long idle time, worst", P99_GOAL_MS, max(idle, default=None), "ms"),
    ]


def median(samples: Sequence[float]) -> float | None:
    return percentile(samples, 50) if samples else None


def main() -> None:
    args = parse()
    count_started = args.starts or max(1, min(100, args.missions // 20))
    idle = [] if args.skip_idle else [args.idle_seconds] * args.idle_samples
    with folder_in(args.folder) as folder:
        about = facts(folder)
        figures, fsyncs = rates(folder, args.missions)
        started = starts(folder, count_started, idle)
    about["fsync_per_second"] = round(fsyncs)
    rate_rows = [
        (f"{kind}, {key} proc.", f["per_second"], f["p50_ms"], f["p99_ms"], f["max_ms"], f["errors"])
        for key, value in figures.items()
        for kind in KINDS
        for f in [value[kind]]
    ]
    names = {"bare": "bare spawn", "ours": "dispatch to start", "call": "… of it the call", "beyond": "beyond bare"}
    start_rows = [
        (label, f["p50_ms"], f["p90_ms"], f["p99_ms"], f["max_ms"], f["samples"])
        for name, label in names.items()
        for f in [started[name]]
    ]
    start_rows += [
        (f"beyond bare, after {args.idle_seconds:g} s", ms, "", "", "", 1) for ms in started["after_idle_beyond_ms"]
    ]
    finish(
        "Dispatch",
        about,
        [
            (("dispatch", "per second", "p50 ms", "p99 ms", "max ms", "errors"), rate_rows),
            (("until the program runs", "p50 ms", "p90 ms", "p99 ms", "max ms", "samples"), start_rows),
        ],
        goals(figures, started),
        args,
        {"dispatch": figures, "start": started},
    )


if __name__ == "__main__":
    main()
