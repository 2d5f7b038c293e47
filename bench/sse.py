"""Fifty browsers follow the live events of one server while missions run: is any missed, and what does it take?

    python bench/sse.py [--clients N] [--seconds S] [--json] [--strict]

A real consumer runs missions one after the other, which report their progress. Each client notes every event's seq and
how long after its time it came; afterwards the ledger says which there were.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measure import (
    BIN,
    Goal,
    add_common_options,
    child_environment,
    facts,
    finish,
    folder_in,
    milliseconds,
    percentile,
    running,
)

from vp_queue import missions, tools

VP_ID = "vp.general.primary"
READY_SECONDS, END_SECONDS = 30.0, 60.0
MOST_MB = 200
CONFIGURATION = f"""
[vp."{VP_ID}"]
executor = "command"
concurrency = 2
[vp."{VP_ID}".options]
argv = ["sh", "-c", 'for n in 1 2 3; do echo "{{\\"progress\\": 0.$n}}" >&$VP_REPORT_FD; done']
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=50, help="streams at once (50)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for which missions are dispatched (60)")
    add_common_options(parser)
    return parser.parse_args()


class Clients:
    """Streams of one server, in a thread of their own."""

    def __init__(self, url: str, token: str, count: int) -> None:
        self._host, _, self._port = url.rstrip("/").removeprefix("http://").partition(":")
        self._token = token
        self.seqs: list[list[int]] = [[] for _ in range(count)]
        self.delays: list[float] = []
        self._begun = threading.Semaphore(0)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))

    def start(self) -> None:
        """Return once every stream has begun."""
        self._thread.start()
        for _ in self.seqs:
            if not self._begun.acquire(timeout=READY_SECONDS):
                raise SystemExit("a stream did not begin")

    def wait_for(self, seq: int) -> None:
        """Return once every stream has shown this event."""
        deadline = time.monotonic() + END_SECONDS
        while any(not seen or seen[-1] < seq for seen in self.seqs):
            if time.monotonic() > deadline:
                return  # what is missed then shows in the figures
            time.sleep(0.05)

    def join(self) -> None:
        self._thread.join(END_SECONDS)

    async def _all(self) -> None:
        await asyncio.gather(*map(self._one, self.seqs))

    async def _one(self, seqs: list[int]) -> None:
        reader, writer = await asyncio.open_connection(self._host, int(self._port))
        lines = [
            "GET /api/v1/events HTTP/1.1",
            "host: localhost",
            f"authorization: Bearer {self._token}",
            "accept: text/event-stream",
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        while line := await reader.readline():
            if line.startswith(b"retry:"):
                self._begun.release()
            elif line.startswith(b"id: "):
                seqs.append(int(line[4:]))
            elif line.startswith(b"data: "):
                at = datetime.fromisoformat(json.loads(line[6:])["at"])
                self.delays.append((datetime.now(UTC) - at).total_seconds())
        writer.close()


def dispatched(seconds: float) -> int:
    """Dispatch missions, each after the one before, for so long; how many."""
    deadline, count = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        answer = tools.vp_dispatch_mission(vp_id=VP_ID, objective="Report progress.")
        if not answer["ok"]:
            raise SystemExit(f"dispatch failed: {answer['error']}")
        tools.vp_wait_mission(mission_id=answer["mission"]["mission_id"], timeout_seconds=END_SECONDS)
        count += 1
    return count


def rss_mb(pid: int) -> float:
    """The most memory a process has held."""
    peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(environment: dict[str, str], count: int, seconds: float) -> dict[str, Any]:
    """The figures of one run."""
    home = Path(environment["VP_HOME"])
    home.mkdir(mode=0o700)
    (home / "vp_queue.toml").write_text(CONFIGURATION)
    os.environ["VP_HOME"] = str(home)
    missions.ready()
    quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    consumer = [str(BIN / "huey_consumer"), "vp_queue.tasks.app.huey"]
    serve = [str(BIN / "vp"), "serve", "--port", "0", "--json"]
    with (
        running(consumer, **{**quiet, "env": {**environment, "VP_ID": VP_ID}}, stdout=subprocess.DEVNULL),
        running(serve, **quiet, stdout=subprocess.PIPE) as server,
    ):
        url = told(server)["url"]
        clients = Clients(url, (home / "token").read_text().strip(), count)
        clients.start()
        after, cpu = missions.newest_seq(), cpu_seconds(server.pid)
        ran = dispatched(seconds)
        wanted = feed(after)
        clients.wait_for(wanted[-1])
        figures = {
            "missions": ran,
            "events": len(wanted),
            "missed": sum(len(set(wanted) - set(seen)) for seen in clients.seqs),
            "doubled": sum(len(seen) - len(set(seen)) for seen in clients.seqs),
            "out_of_order": sum(seen != sorted(seen) for seen in clients.seqs),
            "delay_p50_ms": milliseconds(percentile(clients.delays, 50)),
            "delay_p99_ms": milliseconds(percentile(clients.delays, 99)),
            "rss_mb": round(rss_mb(server.pid), 1),
            "cpu_share": round((cpu_seconds(server.pid) - cpu) / seconds, 3),
        }
    clients.join()
    return figures


def told(server: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What `vp serve --json` says once it listens."""
    text = b""
    while server.stdout is not None and (line := server.stdout.readline()):
        text += line
        try:
            found: dict[str, Any] = json.loads(text)
            return found
        except ValueError:
            continue
    raise SystemExit(f"vp serve does not come up: {text.decode()}")


def feed(after: int) -> list[int]:
    """The seqs that there are, by the ledger."""
    found: list[int] = []
    while page := missions.events_after(found[-1] if found else after, 1_000):
        found += [event.seq for event in page]
    return found


def main() -> None:
    args = parse()
    with folder_in(None) as folder:
        about = facts(folder)
        figures = measure(child_environment(folder), args.clients, args.seconds)
    goals = [
        Goal.at_most("events missed, by all clients", 0, figures["missed"], ""),
        Goal.at_most("events doubled or out of order", 0, figures["doubled"] + figures["out_of_order"], ""),
        Goal.at_most("memory of the server", MOST_MB, figures["rss_mb"], "MB"),
    ]
    table = (("figure", "value"), list(figures.items()))
    finish(f"{args.clients} streams of events", about, [table], goals, args, {"sse": figures})


if __name__ == "__main__":
    main()
