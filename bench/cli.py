"""How long the `vp` command takes to start and answer, against the bare interpreter in the same run.

    python bench/cli.py [--runs N] [--imports] [--json]

The commands take turns. ``--imports`` also shows which imports of `vp list` cost most.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import start
from measure import BIN, Goal, add_common_options, child_environment, facts, finish, folder_in, milliseconds, percentile

from vp_queue import missions, tools

VP = str(BIN / "vp")
BARE = "python -I -c pass"
HELP, LIST = "vp --help", "vp list --json"
COMMANDS = {BARE: [sys.executable, "-I", "-c", "pass"], HELP: [VP, "--help"], LIST: [VP, "list", "--json"]}
LIMITS_SECONDS = {HELP: 0.15, LIST: 0.4}
WARM_UPS = 2  # the first writes the compiled modules


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=30, help="of each command (30)")
    parser.add_argument("--missions", type=int, default=50, help="in the ledger that is listed (50)")
    parser.add_argument("--imports", type=int, nargs="?", const=15, default=0, help="show the most costly imports (15)")
    add_common_options(parser)
    return parser.parse_args()


def set_up(home: Path, count: int) -> None:
    """An initialised VP_HOME with missions to list."""
    home.mkdir(mode=0o700, parents=True)
    (home / "vp_queue.toml").write_text(start.CONFIGURATION)
    os.environ["VP_HOME"] = str(home)
    missions.ready()
    for number in range(count):
        answer = tools.vp_dispatch_mission(vp_id=start.VP_ID, objective=f"Mission number {number}.")
        if not answer["ok"]:
            raise SystemExit(f"dispatch failed: {answer['error']}")


def timed(argv: Sequence[str], environment: dict[str, str]) -> float:
    """Seconds from before the start to the end of a command that must succeed."""
    began = time.perf_counter()
    subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def costly_imports(environment: dict[str, str], count: int) -> list[tuple[str, float, float]]:
    """Module, its own and its whole cost in ms; the whole includes what it imports."""
    argv = [sys.executable, "-X", "importtime", *COMMANDS[LIST]]
    told = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stderr
    found = []
    for line in told.splitlines():
        own, _, rest = line.removeprefix("import time:").partition("|")
        whole, _, module = rest.partition("|")
        if own.strip().isdigit():
            found.append((module.strip(), int(own) / 1000, int(whole) / 1000))
    return sorted(found, key=lambda row: -row[1])[:count]


def main() -> None:
    args = parse()
    with folder_in(None) as folder:
        environment = child_environment(folder)
        set_up(Path(environment["VP_HOME"]), args.missions)
        about = facts(folder)
        samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
        for run in range(-WARM_UPS, args.runs):
            for name, argv in COMMANDS.items():
                seconds = timed(argv, environment)
                if run >= 0:
                    samples[name].append(seconds)
        imports = costly_imports(environment, args.imports) if args.imports else []
    bare = percentile(samples[BARE], 50)
    figures: dict[str, Any] = {
        name: {
            "p50_ms": milliseconds(percentile(taken, 50)),
            "p90_ms": milliseconds(percentile(taken, 90)),
            "min_ms": milliseconds(min(taken)),
            "times_bare": round(percentile(taken, 50) / bare, 1),
        }
        for name, taken in samples.items()
    }
    tables: list[tuple[Sequence[str], Sequence[Sequence[object]]]] = [
        (("command", "p50 ms", "p90 ms", "min ms", "times bare"), [(n, *f.values()) for n, f in figures.items()])
    ]
    if imports:
        tables.append((("import", "own ms", "with its own imports ms"), imports))
    goals = [
        Goal.at_most(f"{name}, p50", limit * 1000, figures[name]["p50_ms"], "ms")
        for name, limit in LIMITS_SECONDS.items()
    ]
    finish("Command line", about, tables, goals, args, {"commands": figures, "imports": imports})


if __name__ == "__main__":
    main()
