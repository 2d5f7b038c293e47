"""Writes the two files a VP reads first: ``MISSION.md`` for agents, ``mission.json`` for programs."""

from __future__ import annotations

import json
from typing import Any

from vp_queue import clock
from vp_queue.ledger.models import Mission

_BUDGET_WORDS = {
    "max_duration_seconds": "seconds of time",
    "max_cost_usd": "US dollars of cost",
    "max_tokens": "tokens",
    "max_turns": "turns",
}


def briefing(mission: Mission) -> str:
    """The briefing as Markdown."""
    constraints = mission.constraints
    parts = [f"# Mission {mission.id}\n\nAttempt {mission.attempt} · VP {mission.vp_id}", mission.objective]
    if mission.guidance:
        parts.append(f"## Guidance for this retry\n\nIt retries mission {mission.retry_of}.\n\n{mission.guidance}")
    deliver = ["Put everything you deliver under `work_products/` of your workspace (`$VP_WORK_PRODUCTS`)."]
    if constraints.get("target_path"):
        deliver.append(f"Work in `{constraints['target_path']}`; change nothing outside it and your workspace.")
    deliver += [f"Required: `work_products/{pattern}`" for pattern in constraints.get("require_artifacts", ())]
    deliver.append(
        "Report by JSON lines on the file descriptor `$VP_REPORT_FD`: "
        '`{"progress": 0.5, "message": "…"}`, `{"result": "a short summary"}`, `{"usage": {…}}`.'
    )
    parts.append("## Deliver\n\n" + "\n".join(f"- {line}" for line in deliver))
    if mission.budget:
        lines = [
            f"- at most {mission.budget[key]:g} {words}"
            for key, words in _BUDGET_WORDS.items()
            if key in mission.budget
        ]
        parts.append("## Budget\n\nThe worker ends the mission at these limits.\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def as_json(mission: Mission) -> dict[str, Any]:
    """The same, for programs."""
    body = {
        "mission_id": mission.id,
        "attempt": mission.attempt,
        "vp_id": mission.vp_id,
        "mission_type": mission.mission_type,
        "objective": mission.objective,
        "guidance": mission.guidance,
        "constraints": mission.constraints,
        "budget": mission.budget,
        "metadata": mission.metadata,
        "priority": mission.priority,
        "max_attempts": mission.max_attempts,
        "retry_of": mission.retry_of,
        "source_session_id": mission.source_session_id,
        "created_at": clock.as_text(mission.created_at),
    }
    return json.loads(json.dumps(body))  # type: ignore[no-any-return]
