"""The campaign's judge sees each kind of broken promise, and finds nothing where all is well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.campaign import plan, verdict
from tests.faults.campaign.clients import NAMES
from tests.faults.campaign.conduct import Seen
from tests.faults.campaign.verdict import Evidence

SPEC = next(spec for spec in plan.make(1, 60).missions[0] if spec.keyed)


def evidence() -> Evidence:
    """One mission, dispatched once, failed once, and completed; seen by all."""
    row = {
        "id": "m-1",
        "status": "completed",
        "objective": SPEC.name,
        "idempotency_key": "k",
        "vp_id": SPEC.vp_id,
        "attempt": 2,
        "retry_of": None,
        "started_at": 1,
        "not_before": None,
        "expires_at": None,
    }
    kinds = ("mission.dispatched", "mission.started", "mission.retrying", "mission.started", "mission.completed")
    found = Evidence(
        missions={"m-1": row},
        attempts={("m-1", 1): "lost", ("m-1", 2): "completed"},
        events=[(seq, "m-1", None, kind) for seq, kind in enumerate(kinds, start=1)],
        specs={SPEC.name: SPEC},
        acknowledged={"m-1": SPEC.name},
        records={"m-1": [ran("start", 1), ran("start", 2), ran("end", 2)]},
        notes={name: [] for name in NAMES},
    )
    found.notes["dispatcher-0"].append({"acknowledged": SPEC.name, "mission_id": "m-1"})
    found.notes["waiter"].append({"waited_for": "m-1", "status": "completed"})
    found.notes["reader"] += [{"seen": [1, 2, 3]}, {"seen": [2, 3, 4, 5]}]  # it died before it could acknowledge
    return found


def ran(what: str, attempt: int, **more: Any) -> dict[str, Any]:
    return {"what": what, "attempt": attempt, "pid": 1, "wall": 100.0, **more}


def anomalies(found: Evidence) -> list[str]:
    return [
        *verdict._lost(found, Seen()),
        *verdict._overlaps(found),
        *verdict._doubled(found),
        *verdict._runs(found),
        *verdict._promises(found),
        *verdict._feed(found, end=5),
        *verdict._answers(found),
    ]


def test_nothing_is_found_where_all_is_well() -> None:
    assert anomalies(evidence()) == []


BROKEN: dict[str, Callable[[Evidence], Any]] = {
    "was acknowledged and is not in the ledger": lambda e: e.acknowledged.update({"m-2": None}),
    "is running for good": lambda e: e.missions["m-1"].update(status="running"),
    "ran beside": lambda e: e.records["m-1"].append(ran("overlap", 2, beside="attempt 1")),
    "2 terminal events": lambda e: e.events.append((6, "m-1", None, "mission.failed")),
    "dispatched once and is there 2 times": lambda e: e.missions.update({"m-2": {**e.missions["m-1"], "id": "m-2"}}),
    "answered with a refusal only": lambda e: e.missions.update({"m-2": {**e.missions["m-1"], "objective": "other"}}),
    "was retried 2 times": lambda e: e.missions.update(
        {f"m-{n}": {**e.missions["m-1"], "status": "failed", "retry_of": "m-1"} for n in (2, 3)}
    ),
    "is no attempt of the ledger": lambda e: e.records["m-1"].append(ran("start", 3)),
    "noted start 2 times": lambda e: e.records["m-1"].append(ran("start", 1)),
    "began and ended [1, 0] times": lambda e: e.records["m-1"].remove(ran("end", 2)),
    "is expired, but it ran": lambda e: e.missions["m-1"].update(status="expired"),
    "ran before its not_before": lambda e: e.missions["m-1"].update(not_before=200_000_000),
    "a cancel was accepted": lambda e: e.notes["meddler"].append({"cancelled": "m-1", "changed": True}),
    "a waiter was told failed": lambda e: e.notes["waiter"].append({"waited_for": "m-1", "status": "failed"}),
    "one key was answered with": lambda e: e.notes["dispatcher-1"].append(
        {"acknowledged": SPEC.name, "mission_id": "m-9"}
    ),
    "missed 2 events": lambda e: e.notes["reader"].pop(),
    "saw event 4 after 5": lambda e: e.notes.update(reader=[{"seen": [1, 2, 3, 5, 4]}]),
    "answered {'code'": lambda e: e.notes["waiter"].append(
        {"refused": "internal_error", "tool": "vp_wait_mission", "error": {"code": "internal_error"}}
    ),
}


@pytest.mark.parametrize("words", BROKEN)
def test_a_broken_promise_is_found(words: str) -> None:
    found = evidence()
    BROKEN[words](found)
    assert any(words in text for text in anomalies(found)), anomalies(found)
