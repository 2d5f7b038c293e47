"""How figures, times and states read on a page: the templates' filters."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from vp_queue import clock, wording
from vp_queue.contracts import EventType, views

HEADLINE_CHARS: Final = 160
NONE: Final = "–"

_EVENT_KINDS: Final[Mapping[str, str]] = {
    EventType.COMPLETED: "ok",
    EventType.FAILED: "bad",
    EventType.WORKER_LOST: "bad",
    EventType.MESSAGE_REJECTED: "bad",
    EventType.NEEDS_INPUT: "ask",
    EventType.STARTED: "busy",
    EventType.PROGRESS: "busy",
    EventType.DISPATCHED: "queued",
}
_NEED_KINDS: Final[Mapping[str, str]] = {"needs_input": "ask", "failed": "bad", "worker_lost": "bad"}


def _instant(at: datetime | str) -> datetime:
    return datetime.fromisoformat(at) if isinstance(at, str) else at


def age(at: datetime | str) -> str:
    """How long ago."""
    return wording.duration((clock.now() - _instant(at)).total_seconds())


def instant(at: datetime | str) -> str:
    """To the second, in UTC; the page's script puts it in the reader's own time."""
    return _instant(at).strftime("%Y-%m-%d %H:%M:%S UTC")


def headline(text: str) -> str:
    """The beginning of a text on one line."""
    return wording.line(text, HEADLINE_CHARS) or "(empty)"


def percent(share: float | None) -> str:
    """A share of one."""
    return NONE if share is None else f"{share:.0%}"


def money(usd: float | None) -> str:
    """US dollars, to the cent and below a dollar finer."""
    if usd is None:
        return NONE
    if not 0 < usd < 0.1:
        return f"${usd:,.2f}"
    finer = f"${usd:.4f}".rstrip("0")
    return finer.ljust(len("$0.00"), "0")


def count(number: float | None) -> str:
    """A number that may be large."""
    if number is None:
        return NONE
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (10_000, "k")):
        if number >= size:
            return f"{number / (1_000 if unit == 'k' else size):,.1f}{unit}"
    return f"{number:,.0f}"


def event_kind(event: views.EventView) -> str:
    """The colour of an event; its word stands beside it."""
    return _EVENT_KINDS.get(event.type, "warn" if event.type.startswith("mission.") else "")


def need_kind(kind: str) -> str:
    """The colour of what needs a person."""
    return _NEED_KINDS.get(kind, "warn")


def event_words(event: views.EventView) -> str:
    """What an event says besides its type."""
    data, said = event.data, []
    failure = data.get("failure")
    if isinstance(failure, Mapping):
        said.append(f"{failure.get('code')}: {failure.get('message')}")
    for key in ("message", "question", "answer", "reason"):
        if isinstance(data.get(key), str) and data[key]:
            said.append(data[key])
    if isinstance(data.get("fraction"), int | float):
        said.insert(0, f"{data['fraction']:.0%}")
    if data.get("retry_at"):
        said.append(f"again at {data['retry_at']}")
    if data.get("retry_of"):
        said.append(f"retry of {data['retry_of']}")
    by = data.get("by")
    if isinstance(by, Mapping):
        said.append(f"by {by.get('actor') or 'somebody'} ({by.get('face')})")
    return wording.line(", ".join(said), 400)


def vp_badges(vp: views.VpView) -> list[tuple[str, str]]:
    """Whether a VP works, or why not, as (colour, words)."""
    found = []
    if not vp.enabled:
        found.append(("warn", "disabled"))
    if vp.paused:
        found.append(("warn", f"paused{f': {vp.pause_reason}' if vp.pause_reason else ''}"))
    if vp.draining:
        found.append(("warn", f"draining{f': {vp.drain_reason}' if vp.drain_reason else ''}"))
    if vp.enabled and not vp.available.ok:
        found.append(("bad", "cannot run"))
    if vp.enabled and not vp.workers:
        found.append(("bad", "no worker"))
    elif any(worker.stale for worker in vp.workers):
        found.append(("bad", "a worker is silent"))
    if any(worker.outdated for worker in vp.workers):
        found.append(("warn", "restart due"))
    return [(kind, wording.line(words, 60)) for kind, words in found] or [("ok", "running" if vp.running else "ready")]


def series_json(series: Any) -> str:
    """A chart's data, as the page's script reads it: times in seconds since 1970."""
    return json.dumps(
        {
            "at": [int(at.timestamp()) for at in series.at],
            "completed": list(series.completed),
            "failed": list(series.failed),
            "open": list(series.open),
        }
    )


def tojson_text(value: Any) -> str:
    """A value as JSON for people; a text, which is escaped like any other."""
    return json.dumps(value, indent=2, ensure_ascii=False)


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "age": age,
    "instant": instant,
    "headline": headline,
    "percent": percent,
    "money": money,
    "count": count,
    "event_kind": event_kind,
    "need_kind": need_kind,
    "event_words": event_words,
    "vp_badges": vp_badges,
    "series_json": series_json,
    "tojson_text": tojson_text,
    "duration": wording.duration,
    "size": wording.size,
}
