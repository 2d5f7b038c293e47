"""Missions, attempts and events for people."""

from __future__ import annotations

from typing import Any, Final

from vp_queue.cli import output, tables
from vp_queue.cli.tables import Column

OBJECTIVE_SHOWN: Final = 2_000
OBJECTIVE_RECALLED: Final = 160
EVENT_SHOWN: Final = 400


def show_mission(mission: dict[str, Any], *, brief: bool = False) -> None:
    """A mission for people.

    Args:
        mission: as the tools answer with it.
        brief: recall the objective only, to somebody who has just given it.
    """
    progress, failure, usage = mission["progress"], mission["failure"], mission["usage"]
    objective = mission["objective"]
    tables.fields(
        [
            ("mission", mission["mission_id"]),
            ("VP", mission["vp_id"]),
            ("status", mission["status"]),
            ("", "cancel requested" if mission["cancel_requested"] and not mission["terminal"] else None),
            ("", "stalled: no output or progress for a while" if mission["stalled"] else None),
            (
                "objective",
                output.line(objective, OBJECTIVE_RECALLED) if brief else output.excerpt(objective, OBJECTIVE_SHOWN),
            ),
            ("attempt", _attempt_line(mission)),
            ("created", output.instant(mission["created_at"])),
            ("not before", mission["not_before"] and output.instant(mission["not_before"])),
            ("expires", mission["expires_at"] and output.instant(mission["expires_at"])),
            ("duration", output.duration(mission["duration_seconds"]) if mission["started_at"] else None),
            ("progress", progress_text(progress) if progress and mission["status"] != "completed" else None),
            ("question", mission["question"] and mission["question"]["question"]),
            ("result", mission["result"]),
            ("failure", failure and f"{failure['code']}: {failure['message']}"),
            ("log", failure and failure["log_tail"]),
            ("usage", usage and ", ".join(f"{name} {value}" for name, value in usage.items() if value is not None)),
            ("retry of", mission["retry_of"]),
        ]
    )


def _attempt_line(mission: dict[str, Any]) -> str | None:
    """Which attempt it is; a released one is not charged, so the number may pass ``max_attempts``."""
    if not mission["attempt"]:
        return None
    return f"{mission['attempt']} ({mission['attempts_charged']} of {mission['max_attempts']} charged)"


def show_attempts(attempts: list[dict[str, Any]]) -> None:
    """Attempts for people, and where the last one worked."""
    tables.table(
        ("attempt", "outcome", "started", "exit", "cpu", Column("memory", optional=True), "worker"),
        (
            (a["number"], a["outcome"], output.instant(a["started_at"]), ended(a), cpu(a), memory(a), a["worker_id"])
            for a in attempts
        ),
        last_column_folds=True,
    )
    if attempts[-1]["workspace"]:
        tables.fields([("workspace", attempts[-1]["workspace"])])


def show_events(events: list[dict[str, Any]]) -> None:
    """Events for people."""
    tables.table(
        ("at", "event", "data"),
        ((output.instant(e["at"]), e["type"], output.line(event_text(e), EVENT_SHOWN)) for e in events),
        last_column_folds=True,
    )


def event_text(event: dict[str, Any]) -> str:
    """What an event's data says, in short."""
    data = event["data"]
    if event["type"] == "mission.progress":
        return progress_text(data)
    told = {name: value for name, value in data.items() if value not in (None, "", [], {})}
    failure, by = told.pop("failure", None), told.pop("by", None)
    words = [f"{failure['code']}: {failure['message']}"] if isinstance(failure, dict) else []
    words += [f"{name}={_short(value)}" for name, value in told.items()]
    return ", ".join(words + ([f"by {who(by)}"] if isinstance(by, dict) else []))


def who(by: dict[str, Any]) -> str:
    """Through which face something was done, and by whom if that is known."""
    return " ".join(str(each) for each in (by.get("face"), by.get("actor")) if each)


def _short(value: object) -> str:
    """A value of an event in a line for people; lists by their length."""
    return f"{len(value)} entries" if isinstance(value, list | dict) else str(value)


def progress_text(progress: dict[str, Any]) -> str:
    """``40 % message``."""
    fraction = progress.get("fraction")
    parts = (f"{fraction:.0%}" if fraction is not None else "", progress.get("message") or "")
    return " ".join(part for part in parts if part)


def ended(attempt: dict[str, Any]) -> str:
    """An attempt's exit code or signal."""
    if attempt["signal"] is not None:
        return f"signal {attempt['signal']}"
    return "–" if attempt["exit_code"] is None else str(attempt["exit_code"])


def show_missions(missions: list[dict[str, Any]]) -> None:
    """A list of missions for people."""
    tables.table(
        ("mission", Column("VP", least=18), "status", "age", Column("took", optional=True), "objective"),
        (
            (m["mission_id"], m["vp_id"], m["status"], output.age(m["created_at"]), took(m), m["objective"])
            for m in missions
        ),
    )


def took(mission: dict[str, Any]) -> str:
    """How long a mission has worked."""
    return output.duration(mission["duration_seconds"])


def memory(attempt: dict[str, Any]) -> str:
    """An attempt's largest use of memory."""
    return output.size(attempt["max_rss_bytes"]) if attempt["max_rss_bytes"] else "–"


def cpu(attempt: dict[str, Any]) -> str:
    """An attempt's CPU time."""
    return output.duration(attempt["cpu_seconds"])
