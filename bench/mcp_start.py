"""How soon `vp mcp` answers `initialize` and `tools/list`, against a bare one-tool server of the same SDK.

    python bench/mcp_start.py [--runs N] [--json]

The two take turns in one run, each a new process over stdio.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from measure import BIN, Goal, add_common_options, child_environment, facts, finish, folder_in, milliseconds, percentile

BARE, OURS = "a bare one-tool server", "vp mcp"
BARE_SERVER = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("bare")
@server.tool()
def greet(name: str) -> str:
    return f"Hello, {name}!"
server.run()
"""
COMMANDS = {BARE: [sys.executable, "-c", BARE_SERVER], OURS: [str(BIN / "vp"), "mcp"]}
CLIENT = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
INITIALIZE = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": CLIENT}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
RATIO = 1.25
WARM_UPS = 2  # the first writes the compiled modules


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=15, help="of each server (15)")
    add_common_options(parser)
    return parser.parse_args()


def started(argv: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds from before the spawn to the answer to ``initialize``, and to ``tools/list`` asked right after."""
    began = time.perf_counter()
    with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise SystemExit("no pipes")
        times = []
        for messages in ((INITIALIZE,), (INITIALIZED, LIST)):
            process.stdin.writelines(json.dumps(message) + "\n" for message in messages)
            process.stdin.flush()
            if "result" not in json.loads(process.stdout.readline()):
                raise SystemExit(f"{argv[0]} did not answer as it should")
            times.append(time.perf_counter() - began)
        process.stdin.close()
    return times[0], times[1]


def main() -> None:
    args = parse()
    with folder_in(None) as folder:
        environment = child_environment(folder)
        Path(environment["VP_HOME"]).mkdir(mode=0o700)
        about = facts(folder)
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
        for run in range(-WARM_UPS, args.runs):
            for name, argv in COMMANDS.items():
                both = started(argv, environment)
                if run >= 0:
                    samples[name].append(both)
    steps = ("initialize", "tools/list")
    medians = {
        name: [percentile([sample[step] for sample in found], 50) for step in range(2)]
        for name, found in samples.items()
    }
    ratios = [round(ours / bare, 3) for bare, ours in zip(medians[BARE], medians[OURS], strict=True)]
    goals = [
        Goal.at_most(f"start to {step}, times bare", RATIO, ratio, "")
        for step, ratio in zip(steps, ratios, strict=True)
    ]
    figures = {name: dict(zip(steps, map(milliseconds, found), strict=True)) for name, found in medians.items()}
    rows = [(name, *found.values()) for name, found in figures.items()]
    table = (("server", *(f"{step}, p50 ms" for step in steps)), rows)
    document = {"median_ms": figures, "times_bare": dict(zip(steps, ratios, strict=True))}
    finish("Start of the MCP server", about, [table], goals, args, document)


if __name__ == "__main__":
    main()
