"""What a campaign measured: counts and latencies, as a table and as JSON."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tests.faults.campaign.conduct import Seen
from tests.faults.campaign.ledger import Ledger, opened
from tests.faults.campaign.notes import Folder, read
from tests.faults.campaign.plan import Plan
from tests.faults.campaign.verdict import Evidence

# What ends an attempt that lost its worker.
RESCUES: Final = ("mission.retrying", "mission.failed", "mission.cancelled", "mission.released", "mission.completed")
# How long after its own duration a fault keeps rescuers from work: they are started anew, or the ledger is locked.
MENDING_SECONDS: Final = {
    ("lock", "ledger"): 1.0,
    ("kill", "keeper"): 5.0,
    ("term", "keeper"): 5.0,
    ("stop", "keeper"): 1.0,
    ("stop", "client"): 1.0,  # it may have been stopped in the midst of a write, as any of them
    ("stop", "consumer"): 1.0,
    ("kill", "supervisord"): 15.0,
    ("term", "supervisord"): 15.0,
    ("stop", "supervisord"): 5.0,
    ("down", "all"): 20.0,
}


def gather(
    folder: Folder, plan: Plan, seen: Seen, evidence: Evidence, anomalies: Mapping[str, list[str]]
) -> dict[str, Any]:
    """Every figure, JSON-able; times in seconds."""
    journal = read(folder.journal)
    with opened(folder.home / "vp_state.db") as ledger:
        rescued = list(_rescues(journal, ledger))
    rescues = [seconds for _, seconds in rescued]
    undisturbed = [seconds for killed, seconds in rescued if not _disturbed(journal, killed, killed + seconds)]
    faults = [entry for entry in journal if "fault" in entry]
    dispatches = list(_dispatches(evidence, journal))
    return {
        "seed": plan.seed,
        "seconds": plan.seconds,
        "lease_seconds": plan.lease_seconds,
        "missions": len(evidence.missions),
        "by_outcome": dict(Counter(row["status"] for row in evidence.missions.values())),
        "attempts": len(evidence.attempts),
        "by_attempts_outcome": dict(Counter(evidence.attempts.values())),
        "starts": sum(record["what"] == "start" for records in evidence.records.values() for record in records),
        "events": len(evidence.events),
        "faults": sum(entry["met"] is not None for entry in faults),
        "by_fault": dict(
            sorted(Counter(f"{e['fault']} {e['target']}" for e in faults if e["met"] is not None).items())
        ),
        "faults_without_a_victim": sum(entry["met"] is None for entry in faults),
        "overlaps": len(anomalies.get("overlaps", ())),
        "lost": len(anomalies.get("lost", ())),
        "doubled_terminal_events": sum("terminal events" in text for text in anomalies.get("doubled", ())),
        "live_without_attempt": len(seen.fleeting),
        "rescues_of_killed_consumers": len(rescues),
        "rescue_p50": _percentile(rescues, 50),
        "rescue_p99": _percentile(rescues, 99),
        "rescue_max": max(rescues, default=None),
        "undisturbed_rescues": len(undisturbed),
        "undisturbed_rescue_p50": _percentile(undisturbed, 50),
        "undisturbed_rescue_p99": _percentile(undisturbed, 99),
        "undisturbed_rescue_max": max(undisturbed, default=None),
        "dispatches": len(dispatches),
        "dispatch_p50": _percentile(dispatches, 50),
        "dispatch_longest": max(dispatches, default=None),
        "ledger_busy": sum(note["refused"] == "ledger_busy" for note in evidence.noted("refused")),
        "ledger_unavailable": sum(note["refused"] == "ledger_unavailable" for note in evidence.noted("refused")),
        "settle_seconds": seen.settle_seconds,
        "tracebacks_in_logs": _tracebacks(folder),
        "anomalies": dict(anomalies),
    }


def _percentile(samples: list[float], percent: float) -> float | None:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))] if ordered else None


def _rescues(journal: list[dict[str, Any]], ledger: Ledger) -> Iterator[tuple[float, float]]:
    """Each SIGKILL of a consumer, and how long until a mission it ran was queued again or had ended, by its event."""
    for entry in journal:
        if entry.get("fault") != "kill" or entry.get("target") != "consumer" or entry["met"] is None:
            continue
        killed_us = int(entry["wall"] * 1e6)
        attempts = ledger.rows(
            "SELECT a.mission_id, a.number FROM vp_attempt AS a JOIN vp_worker AS w ON w.worker_id = a.worker_id "
            "WHERE w.pid = ? AND w.start_ticks = ? AND a.started_at <= ? AND (a.ended_at IS NULL OR a.ended_at > ?)",
            *(entry["met"], entry["start"], killed_us, killed_us),
        )
        for mission_id, attempt in attempts:
            at = ledger.value(
                "SELECT MIN(at) FROM vp_event WHERE mission_id = ? AND attempt = ? AND at >= ? "
                f"AND type IN ({', '.join('?' * len(RESCUES))})",
                *(mission_id, attempt, killed_us, *RESCUES),
            )
            if at is not None:
                yield entry["wall"], round((at - killed_us) / 1e6, 4)


def _disturbed(journal: list[dict[str, Any]], begin: float, end: float) -> bool:
    """Whether a rescuer was ailing, too, or the ledger locked: by a fault that lasted, or had to be mended, then."""
    for entry in journal:
        lasts = MENDING_SECONDS.get((entry.get("fault"), entry.get("target")))
        if lasts is None or entry["met"] is None:
            continue
        if entry["wall"] <= end and entry["wall"] + lasts + entry.get("seconds", 0) >= begin:
            return True
    return False


def _dispatches(evidence: Evidence, journal: list[dict[str, Any]]) -> Iterator[float]:
    """How long each dispatch took to be answered; those during which clients themselves were stopped do not count."""
    stops = sorted(
        (entry["boottime"], entry["boottime"] + entry["seconds"])
        for entry in journal
        if entry.get("fault") == "stop" and entry.get("target") == "client" and entry["met"] is not None
    )
    begins = [begin for begin, _ in stops]
    refused = (note for note in evidence.noted("refused") if note["tool"] == "vp_dispatch_mission")
    for note in (*evidence.noted("acknowledged"), *refused):
        before = stops[max(0, bisect.bisect(begins, note["answered"]) - 3) : bisect.bisect(begins, note["answered"])]
        if not any(end > note["asked"] for _, end in before):
            yield round(note["answered"] - note["asked"], 4)


def _tracebacks(folder: Folder) -> dict[str, int]:
    """The last lines of the tracebacks in all logs, counted: none of them is an anomaly by itself."""
    found: Counter[str] = Counter()
    for path in [*folder.logs.glob("*.log"), *(folder.home / "logs").glob("*.log*")]:
        inside, last = False, ""
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith(("The above exception was", "During handling of")):
                last = ""  # only the first of a chain: it goes on
            elif line.startswith("Traceback "):
                inside = True
            elif inside and line and not line.startswith((" ", "\t")):
                inside, last = False, f"{path.name.partition('.log')[0]}: {line[:160]}"
            elif line and last:
                found[last] += 1
                last = ""
        found[last] += bool(last)
    return {text: count for text, count in found.items() if count}


def table(figures: Mapping[str, Any]) -> str:
    """The figures as lines for people."""
    lines = []
    for name, value in figures.items():
        if name in ("anomalies", "tracebacks_in_logs"):
            continue
        label = name.replace("_", " ")
        if isinstance(value, dict):
            lines.append(f"{label:<28} {', '.join(f'{key} {count}' for key, count in value.items())}")
        else:
            lines.append(f"{label:<28} {'–' if value is None else value}")
    for text, count in figures["tracebacks_in_logs"].items():
        lines.append(f"{'traceback in a log':<28} {count} × {text}")
    for kind, found in figures["anomalies"].items():
        lines += [f"ANOMALY {kind}: {text}" for text in found]
    return "\n".join(lines)
