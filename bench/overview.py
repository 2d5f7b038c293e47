"""How fast a full ledger is looked at: overview, lists with counts, one mission, the action log.

    python bench/overview.py [--missions N] [--runs N] [--json]

The ledger is filled through SQL, in its own schema: missions that ended over thirty days, each with its attempt and
three events, some queued, some running. Each look is timed as a face would have it, its JSON included.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import start
from measure import Goal, add_common_options, child_environment, facts, finish, folder_in, milliseconds, percentile

from vp_queue import clock, missions, missions_actions, missions_lists, missions_overview, missions_page, tools
from vp_queue.contracts import requests as asked
from vp_queue.ledger import database

OVERVIEW, FIRST_PAGE = "overview", "list, first page"
GOAL_MS = 100.0
DAYS = 30
LIVE_SHARE = 0.001
SHARES = {"completed": 0.90, "failed": 0.05, "cancelled": 0.04, "expired": 0.01}
OBJECTIVE = "Look through the orders of last week and write down what was late, by customer, with the reason given. "
BATCH = 5_000
INSERT_MISSION = (
    "INSERT INTO vp_mission (id, vp_id, mission_type, priority, status, attempt, attempts_charged, releases, "
    "max_attempts, events, due_at, source_session_id, created_at, queued_at, budget, metadata, constraints, objective) "
    "VALUES (?, ?, 'task', 0, 'queued', 0, 0, 0, 1, 1, 0, ?, ?, ?, '{}', '{}', '{}', ?)"
)
START = "UPDATE vp_mission SET status = 'running', attempt = 1, due_at = NULL, events = 2, started_at = ? WHERE id = ?"
END = (
    "UPDATE vp_mission SET status = ?, events = events + 1, due_at = NULL, finished_at = ?, result = ?, failure = ?, "
    "workspace_bytes = 20000 WHERE id = ?"
)
INSERT_ATTEMPT = (
    "INSERT INTO vp_attempt (mission_id, number, worker_id, host, host_identity, lease_token, lease_expires_at, "
    "lease_expires_boottime_us, heartbeat_at, started_at, ended_at, outcome) "
    "VALUES (?, 1, 'w-bench', 'bench', 'bench', 'bench', ?, 0, ?, ?, ?, ?)"
)
INSERT_EVENT = (
    "INSERT INTO vp_event (mission_id, mission_seq, vp_id, attempt, type, at, data) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
FAILURE = '{"code": "exit_nonzero", "message": "sh exited with status 1.", "attempt": 1, "exit_code": 1}'
BY = '{"mission_type": "task", "priority": 0, "retry_of": null, "by": {"face": "python", "actor": null}}'


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--missions", type=int, default=100_000, help="in the ledger (100,000)")
    parser.add_argument("--runs", type=int, default=50, help="of each look (50)")
    add_common_options(parser)
    return parser.parse_args()


def fill(count: int, seed: int = 7) -> list[str]:
    """A ledger with so many missions, in the order of their ids; all but a few have ended."""
    chance = random.Random(seed)
    now = clock.now()
    step = timedelta(days=DAYS) / count
    ids: list[str] = []
    for first in range(0, count, BATCH):
        batch = [
            _mission(chance, clock.to_micros(now - step * (count - number)), number, count)
            for number in range(first, min(count, first + BATCH))
        ]
        with database.write_transaction(synced=False):
            _write(batch)
        ids += [each["id"] for each in batch]
    return ids


def _mission(chance: random.Random, at: int, number: int, count: int) -> dict[str, Any]:
    live = number >= count * (1 - LIVE_SHARE)
    ending = None if live else chance.choices(list(SHARES), list(SHARES.values()))[0]
    begins = clock.first_mission_id(clock.from_micros(at))
    return {
        "id": f"{begins}-{chance.randrange(36**8):011d}",
        "vp_id": start.VP_ID if chance.random() < 0.6 else "vp.coder.primary",
        "at": at,
        "status": ending,
        "session": f"session-{number // 500}",
        "objective": f"{number}: {OBJECTIVE * chance.randint(1, 4)}",
        "running": live and number % 20 == 0,
        "took": chance.randint(1, 60) * 1_000_000,
    }


def _write(batch: Sequence[dict[str, Any]]) -> None:
    connection = database.current().db.connection()
    started = [each for each in batch if each["running"] or each["status"] in ("completed", "failed", "cancelled")]
    ended = [each for each in batch if each["status"] is not None]
    connection.executemany(
        INSERT_MISSION,
        [(e["id"], e["vp_id"], e["session"], e["at"], e["at"], e["objective"]) for e in batch],
    )
    connection.executemany(START, [(e["at"] + 1000, e["id"]) for e in started])
    connection.executemany(END, [(e["status"], e["at"] + e["took"], *_outcome(e["status"]), e["id"]) for e in ended])
    connection.executemany(INSERT_ATTEMPT, [_attempt(e) for e in started])
    connection.executemany(INSERT_EVENT, [event for e in batch for event in _events(e)])


def _outcome(status: str) -> tuple[str | None, str | None]:
    return ("Written to report.md. " * 8 if status == "completed" else None), (FAILURE if status == "failed" else None)


def _attempt(each: dict[str, Any]) -> tuple[Any, ...]:
    at, end = each["at"], None if each["running"] else each["at"] + each["took"]
    return (each["id"], at, at, at, end, "running" if each["running"] else each["status"])


def _events(each: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    at, done = each["at"], each["at"] + each["took"]
    yield each["id"], 1, each["vp_id"], None, "mission.dispatched", at, BY
    began = each["running"] or each["status"] in ("completed", "failed", "cancelled")
    if began:
        yield each["id"], 2, each["vp_id"], 1, "mission.started", at, '{"worker_id": "w-bench", "host": "bench"}'
    if each["status"] is not None:
        yield (
            each["id"],
            3 if began else 2,
            each["vp_id"],
            1 if began else None,
            f"mission.{each['status']}",
            done,
            "{}",
        )


def looks(ids: Sequence[str]) -> dict[str, Callable[[], object]]:
    """What a person or an agent looks at, each as JSON-able types."""
    middle, newest = ids[len(ids) // 2], ids[-1]
    day = clock.now() - timedelta(days=DAYS / 2)

    def listed(**filters: Any) -> Callable[[], object]:
        return lambda: missions_lists.page(asked.ListMissions(**filters)).dump()

    return {
        OVERVIEW: lambda: missions_overview.overview().dump(),
        FIRST_PAGE: listed(),
        "list, from the middle": listed(cursor=middle),
        "list, page before the middle": lambda: missions_lists.page(asked.ListMissions(), newer_than=middle).dump(),
        "list, one VP, failed": listed(vp_id=start.VP_ID, status="failed"),
        "list, one session": listed(source_session_id="session-100"),
        "list, one day": listed(created_after=day, created_before=day + timedelta(days=1)),
        "list, two weeks of a VP": listed(vp_id=start.VP_ID, created_after=day),
        "list, a text in many": listed(text="customer"),
        "list, a text in none": listed(text="no such words"),
        "get": lambda: tools.vp_get_mission(mission_id=middle),
        "mission's page": lambda: missions_page.mission_page(newest).dump(),
        "actions": lambda: missions_actions.actions().dump(),
        "actions of a face nobody used": lambda: missions_actions.actions(face="http").dump(),
    }


def timed(look: Callable[[], object], runs: int) -> dict[str, float]:
    """p50, p95 and the longest of so many runs, and the processor's p50, which holds on a busy machine too: in ms.

    The first run, which warms up, is not counted.
    """
    samples, computed = [], []
    for run in range(-1, runs):
        began, cpu = time.perf_counter(), time.process_time()
        look()
        if run >= 0:
            samples.append(time.perf_counter() - began)
            computed.append(time.process_time() - cpu)
    named = {f"p{percent}_ms": milliseconds(percentile(samples, percent)) for percent in (50, 95)}
    return {**named, "max_ms": milliseconds(max(samples)), "cpu_ms": milliseconds(percentile(computed, 50))}


def main() -> None:
    args = parse()
    with folder_in(None) as folder:
        home = Path(child_environment(folder)["VP_HOME"])
        home.mkdir(mode=0o700, parents=True)
        (home / "vp_queue.toml").write_text(start.CONFIGURATION)
        os.environ["VP_HOME"] = str(home)
        missions.ready()
        began = time.perf_counter()
        ids = fill(args.missions)
        about = {**facts(folder), "missions": len(ids), "fill_seconds": round(time.perf_counter() - began, 1)}
        about["ledger_mib"] = round(database.current().path.stat().st_size / 2**20)
        figures = {name: timed(look, args.runs) for name, look in looks(ids).items()}
    goals = [
        Goal.at_most(f"{name}, p95", GOAL_MS, figures[name]["p95_ms"], "ms") for name in figures if "text" not in name
    ]
    rows = [(name, *each.values()) for name, each in figures.items()]
    finish(
        "A full ledger",
        about,
        [(("look", "p50 ms", "p95 ms", "max ms", "cpu ms"), rows)],
        goals,
        args,
        {"looks": figures},
    )


if __name__ == "__main__":
    main()
