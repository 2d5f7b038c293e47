"""Compares what clients and programs noted with what the ledger says: the anomalies, each in a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests import oracle
from tests.faults.campaign.clients import NAMES, TROUBLE
from tests.faults.campaign.conduct import Seen
from tests.faults.campaign.fleet import Fleet
from tests.faults.campaign.ledger import TERMINAL, TERMINAL_EVENTS, Ledger, opened
from tests.faults.campaign.notes import Folder, read
from tests.faults.campaign.plan import MissionSpec, Plan

EXPECTED_REFUSALS = {*TROUBLE, "validation_error", "not_retryable_state"}


@dataclass
class Evidence:
    """Everything there is to judge by, read once.

    Attributes:
        missions: rows of the ledger by id.
        acknowledged: mission id to the name in the plan, or None for a retry.
        records: what each mission's programs noted.
        notes: each client's notes.
    """

    missions: dict[str, dict[str, Any]]
    attempts: dict[tuple[str, int], str]
    events: list[tuple[int, str | None, int | None, str]]
    specs: dict[str, MissionSpec]
    acknowledged: dict[str, str | None] = field(default_factory=dict)
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def gather(cls, folder: Folder, plan: Plan, ledger: Ledger) -> Evidence:
        columns = "id, status, objective, idempotency_key, vp_id, attempt, retry_of, started_at, not_before, expires_at"
        names = columns.split(", ")
        missions = {
            row[0]: dict(zip(names, row, strict=True)) for row in ledger.rows(f"SELECT {columns} FROM vp_mission")
        }
        attempts = {(m, n): o for m, n, o in ledger.rows("SELECT mission_id, number, outcome FROM vp_attempt")}
        events = ledger.rows("SELECT seq, mission_id, attempt, type FROM vp_event ORDER BY seq")
        found = cls(missions, attempts, events, {spec.name: spec for each in plan.missions for spec in each})
        found.notes = {name: read(folder.client(name)) for name in NAMES}
        found.records = {path.name: read(path) for path in folder.records.iterdir() if path.is_file()}
        for notes in found.notes.values():
            for note in notes:
                if "mission_id" in note:
                    found.acknowledged[note["mission_id"]] = note.get("acknowledged")
        return found

    def noted(self, key: str) -> Iterator[dict[str, Any]]:
        """All clients' notes that have this key."""
        return (note for notes in self.notes.values() for note in notes if key in note)

    def counted(self, mission_id: str, attempt: int, what: str) -> int:
        """How often a program of this attempt noted this."""
        return sum(r["what"] == what and r["attempt"] == attempt for r in self.records.get(mission_id, ()))


def judge(folder: Folder, plan: Plan, seen: Seen, fleet: Fleet) -> tuple[Evidence, dict[str, list[str]]]:
    """The evidence, and the anomalies by kind (none: the campaign is clean)."""
    database = folder.home / "vp_state.db"
    with opened(database) as ledger:
        evidence = Evidence.gather(folder, plan, ledger)
        workers = ledger.rows("SELECT worker_id, vp_id, state FROM vp_worker WHERE state NOT IN ('stopped', 'lost')")
    anomalies = {
        "lost": list(_lost(evidence, seen)),
        "overlaps": list(_overlaps(evidence)),
        "doubled": list(_doubled(evidence)),
        "runs": list(_runs(evidence)),
        "promises": list(_promises(evidence)),
        "feed": list(_feed(evidence, seen.feed_end)),
        "clients": [*_answers(evidence), *fleet.crashed],
        "live_without_attempt": seen.fleeting,
        "left_behind": [*seen.left_running, *seen.left_cgroups, *seen.left_rows, *(f"worker {row}" for row in workers)],
        "oracle": [],
    }
    try:
        oracle.check(database, folder.home / "AGENT_RUN_WORKSPACES", list(evidence.acknowledged), rescued=True)
    except AssertionError as error:
        anomalies["oracle"].append(str(error))
    return evidence, {kind: found for kind, found in anomalies.items() if found}


def _lost(evidence: Evidence, seen: Seen) -> Iterator[str]:
    for mission_id in evidence.acknowledged:
        if mission_id not in evidence.missions:
            yield f"{mission_id} was acknowledged and is not in the ledger"
    for mission_id, row in evidence.missions.items():
        if row["status"] not in TERMINAL:
            why = "nothing moved any more" if seen.stalled else "everything else had ended"
            yield f"{mission_id} ({row['objective']}) is {row['status']} for good: {why}"


def _overlaps(evidence: Evidence) -> Iterator[str]:
    for mission_id, records in evidence.records.items():
        for record in records:
            if record["what"] == "overlap":
                yield f"{mission_id}: attempt {record['attempt']} ran beside {record['beside']}"


def _doubled(evidence: Evidence) -> Iterator[str]:
    ends = Counter(mission_id for _, mission_id, _, kind in evidence.events if kind in TERMINAL_EVENTS)
    yield from (f"{mission_id} has {count} terminal events" for mission_id, count in ends.items() if count > 1)
    unsure = {note["given_up"] for note in evidence.noted("given_up")}
    answered = {evidence.acknowledged.get(mission_id) for mission_id in evidence.missions}
    dispatched = Counter(row["objective"] for row in evidence.missions.values() if row["retry_of"] is None)
    for name, count in dispatched.items():
        if count > 1:
            yield f"{name} was dispatched once and is there {count} times"
        if name not in unsure and name not in answered:
            yield f"{name} is there though its dispatch was answered with a refusal only"
    retries = Counter(row["retry_of"] for row in evidence.missions.values() if row["retry_of"] is not None)
    yield from (
        f"{mission_id} was retried {count} times with one key" for mission_id, count in retries.items() if count > 1
    )


def _runs(evidence: Evidence) -> Iterator[str]:
    """What the programs say of their runs against the attempts that the ledger knows."""
    for mission_id, records in evidence.records.items():
        for (attempt, what), count in Counter((record["attempt"], record["what"]) for record in records).items():
            if (mission_id, attempt) not in evidence.attempts:
                yield f"{mission_id}.{attempt} ran and is no attempt of the ledger"
            if count > 1 and what != "overlap":
                yield f"{mission_id}.{attempt} noted {what} {count} times"
    for mission_id, row in evidence.missions.items():
        if row["status"] == "completed":
            ran = [evidence.counted(mission_id, row["attempt"], what) for what in ("start", "end")]
            if ran != [1, 1]:
                yield f"{mission_id} is completed, but its last attempt began and ended {ran} times"
        elif row["status"] == "expired" and mission_id in evidence.records:
            yield f"{mission_id} is expired, but it ran"
        for record in evidence.records.get(mission_id, ()):
            if row["not_before"] and record["wall"] < row["not_before"] / 1e6:
                yield f"{mission_id} ran before its not_before"


def _promises(evidence: Evidence) -> Iterator[str]:
    """What a client was told must have come true."""
    for note in evidence.noted("cancelled"):
        status = evidence.missions.get(note["cancelled"], {}).get("status")
        if note["changed"] and status != "cancelled":
            yield f"{note['cancelled']}: a cancel was accepted, and it is {status}"
    for note in evidence.noted("waited_for"):
        status = evidence.missions.get(note["waited_for"], {}).get("status")
        if status != note["status"]:
            yield f"{note['waited_for']}: a waiter was told {note['status']}, and it is {status}"
    named: dict[str, str] = {}
    for note in evidence.noted("acknowledged"):
        first = named.setdefault(note["acknowledged"], note["mission_id"])
        if first != note["mission_id"]:
            yield f"{note['acknowledged']}: one key was answered with {first} and {note['mission_id']}"


def _feed(evidence: Evidence, end: int) -> Iterator[str]:
    """The reader sees each event at least once, each for the first time in order, and none is missing."""
    seen: set[int] = set()
    newest = 0
    for note in evidence.notes["reader"]:
        for seq in note.get("seen", ()):
            if seq < newest and seq not in seen:
                yield f"the reader saw event {seq} after {newest}"
            seen.add(seq)
            newest = max(newest, seq)
    missed = {seq for seq, *_ in evidence.events if seq <= end} - seen
    if missed:
        yield f"the reader missed {len(missed)} events: {sorted(missed)[:20]}"


def _answers(evidence: Evidence) -> Iterator[str]:
    for note in evidence.noted("refused"):
        if note["refused"] not in EXPECTED_REFUSALS:
            yield f"{note['tool']} answered {note['error']}"
