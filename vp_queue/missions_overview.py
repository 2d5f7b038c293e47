"""The overview: what every VP is doing, what goes on, and what waits for a person, in one snapshot of the ledger.

What the snapshot says is read in one transaction; the logs of running missions are read after it, so that no slow disk
keeps the snapshot open. Missions in it are shown in brief: an objective may have 100,000 characters, an overview holds
a hundred missions.
"""

from __future__ import annotations

import socket
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from vp_queue import missions
from vp_queue.contracts import TERMINAL, Status, limits
from vp_queue.contracts.overview import CardView, OverviewAnswer, RunningView, SeriesView
from vp_queue.contracts.views import MissionView, VpView
from vp_queue.errors import ValidationError
from vp_queue.ledger import accounts, database, lists, queries, tally
from vp_queue.ledger import overview as glance
from vp_queue.ledger.models import Attempt, Mission
from vp_queue.missions import ready, stall_limits
from vp_queue.missions_needs import brief, needs_of
from vp_queue.wording import clean, line

DAY: Final = timedelta(days=1)
LAST_WORDS_LINES: Final = 2
LAST_WORDS_BYTES: Final = 4_096


def overview(
    *,
    window_seconds: int = 3_600,
    step_seconds: int = 60,
    events_limit: int = 20,
    needs_limit: int = limits.NEEDS_LISTED,
) -> OverviewAnswer:
    """Everything at one instant.

    Args:
        window_seconds: how far the series goes back; up to ``limits.SERIES_SECONDS``. Of missions that retention has
            removed meanwhile nothing is counted.
        step_seconds: the length of its steps; at most ``limits.SERIES_STEPS`` of them.
        events_limit: how many of the newest events; up to ``limits.OVERVIEW_EVENTS``.
        needs_limit: how much of what waits for a person; up to ``limits.NEEDS_LISTED``.

    Raises:
        ValidationError: an argument is out of bounds.
        LedgerUnavailable: it cannot be read.
    """
    count = _steps_of(window_seconds, step_seconds)
    _bounded("events_limit", events_limit, 0, limits.OVERVIEW_EVENTS)
    _bounded("needs_limit", needs_limit, 0, limits.NEEDS_LISTED)
    settings = ready()
    with database.read_transaction() as now:
        roster, keepers = missions.vps().vps, missions.keepers()
        counts = lists.status_counts(lists.Filter())
        used = accounts.tallied(tally.day_of(now))
        executing = {vp.vp_id: glance.executing(vp.vp_id, limits.CARD_RUNNING) for vp in roster}
        stalls = stall_limits(settings)
        views = {
            vp_id: queries.mission_views([row for row, _ in pairs], now, stalls) for vp_id, pairs in executing.items()
        }
        cards = [_card(vp, now, used.get(vp.vp_id, {})) for vp in roster]
        needs = needs_of(now, cards, keepers, counts, stalls, needs_limit + 1)
        series = _series(now, count, step_seconds, sum(n for status, n in counts.items() if status not in TERMINAL))
        events = queries.event_views(glance.newest_events(events_limit))
    return OverviewAnswer(
        at=now,
        cards=[
            card.model_copy(update={"running": _running(views[card.vp.vp_id], executing[card.vp.vp_id])})
            for card in cards
        ],
        series=series,
        counts=counts,
        keepers=keepers,
        needs=needs[:needs_limit],
        needs_more=len(needs) > needs_limit,
        events=events,
    )


def _steps_of(window_seconds: int, step_seconds: int) -> int:
    _bounded("window_seconds", window_seconds, 1, limits.SERIES_SECONDS)
    _bounded("step_seconds", step_seconds, 1, window_seconds)
    count = window_seconds // step_seconds
    if count > limits.SERIES_STEPS:
        raise ValidationError(
            f"step_seconds: makes {count:,} steps; at most {limits.SERIES_STEPS} are shown, so make them longer.",
            field="step_seconds",
        )
    return count


def _bounded(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValidationError(f"{name}: must be {least} to {most}", field=name)


def _card(vp: VpView, now: datetime, used: dict[str, float]) -> CardView:
    ended = glance.ended_since(vp.vp_id, now - DAY)
    completed, failed = ended.get(Status.COMPLETED, 0), ended.get(Status.FAILED, 0)
    since = glance.waiting_since(vp.vp_id, now)
    tokens = [used[name] for name in ("input_tokens", "output_tokens") if name in used]
    return CardView(
        vp=vp,
        running=[],
        oldest_due_seconds=max(0.0, (now - since).total_seconds()) if since else None,
        ended_24h=ended,
        success_rate_24h=completed / (completed + failed) if completed + failed else None,
        cost_today_usd=used.get("cost_usd"),
        tokens_today=int(sum(tokens)) if tokens else None,
    )


def _running(views: list[MissionView], pairs: list[tuple[Mission, Attempt]]) -> list[RunningView]:
    return [
        RunningView(mission=brief(view), attempt_started_at=attempt.started_at, last_words=_last_words(attempt))
        for view, (_, attempt) in zip(views, pairs, strict=True)
    ]


def _last_words(attempt: Attempt) -> str | None:
    """The end of what an attempt has printed, if its workspace is on this host."""
    from vp_queue.worker.log import tail_text

    if attempt.workspace is None or attempt.host != socket.gethostname():
        return None
    return last_words(tail_text(Path(attempt.workspace), LAST_WORDS_BYTES))


def last_words(text: str) -> str | None:
    """The last lines of a log that say something, each on one line, or None."""
    lines = [line(each, limits.LAST_WORDS_CELLS) for each in clean(text).split("\n")]
    return "\n".join([each for each in lines if each][-LAST_WORDS_LINES:]) or None


def _series(now: datetime, count: int, step_seconds: int, open_now: int) -> SeriesView:
    """The steps up to now; how many were open is reckoned back from how many are."""
    seen = glance.steps(now, count, step_seconds)
    ended = [sum(of_step) for of_step in zip(*seen.ended.values(), strict=True)]
    still_open = [open_now] * count
    for number in range(count - 1, 0, -1):
        still_open[number - 1] = max(0, still_open[number] + ended[number] - seen.dispatched[number])
    completed, failed = seen.ended[Status.COMPLETED], seen.ended[Status.FAILED]
    return SeriesView(
        step_seconds=step_seconds,
        at=[now - timedelta(seconds=step_seconds * (count - 1 - number)) for number in range(count)],
        dispatched=seen.dispatched,
        completed=completed,
        failed=failed,
        other_ended=[all_of - c - f for all_of, c, f in zip(ended, completed, failed, strict=True)],
        open=still_open,
    )
