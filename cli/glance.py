"""The overview as lines of a terminal: what every VP is doing, what waits for somebody, what happened last.

Each line is cut to the terminal's width, and what does not fit its height gives way from below: the latest events
first, then what waits, never the VPs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from rich.text import Text

from vp_queue.cli import fleet, output
from vp_queue.cli.output import STATUS_STYLES
from vp_queue.cli.showing import event_text
from vp_queue.contracts.overview import CardView, NeedView, OverviewAnswer, RunningView, SeriesView
from vp_queue.contracts.views import EventView
from vp_queue.wording import cells, duration, line

BARS, PLAIN_BARS = "▁▂▃▄▅▆▇█", ".:-=+*#@"
NEEDS_STYLES: Final = {"failed": "red", "paused": "yellow", "needs_input": "magenta"}
LEAST_EVENTS: Final = 3
LEAST_NEEDS: Final = 4
OVERVIEW_LINE_CELLS: Final = 400
SLIMMEST_CHART: Final = 10
INDENT: Final = "  "


def lines(overview: OverviewAnswer, width: int, height: int | None) -> list[Text]:
    """The overview, one :class:`Text` a line.

    Args:
        width: the cells of a line.
        height: how many lines there is room for; None: as many as there are.
    """
    top = [*_head(overview, width), *(each for card in overview.cards for each in _card(card, overview.at, width))]
    needs = [row for need in overview.needs for row in _need(need, overview.at, width)]
    events = [_event(event, width) for event in overview.events]
    if height is not None:
        left = max(0, height - len(top) - 2 - 2)  # each of both has a blank line and a heading above it
        for_events = min(len(events), max(LEAST_EVENTS, left - len(needs)))
        needs, events = _cut(needs, left - for_events), events[:for_events]
    found = [*top, Text(), _heading(_needs_title(overview), width), *needs]
    if events:
        found += [Text(), _heading("Latest", width), *events]
    return found if height is None else found[:height]


def _cut(rows: list[Text], room: int) -> list[Text]:
    room = max(LEAST_NEEDS, room)
    if len(rows) <= room:
        return rows
    return [*rows[: room - 1], Text(f"… {len(rows) - room + 1} more", style="dim")]


def _needs_title(overview: OverviewAnswer) -> str:
    if not overview.needs:
        return "Nothing waits for you"
    return f"Needs you: {len(overview.needs)}{' and more' if overview.needs_more else ''}"


def _heading(text: str, width: int) -> Text:
    return Text(line(text, width), style="bold")


def _head(overview: OverviewAnswer, width: int) -> Iterator[Text]:
    alive = any(not keeper.stale for keeper in overview.keepers)
    live = (f"{overview.counts[status]} {status.replace('_', ' ')}" for status in ("queued", "running", "needs_input"))
    at = overview.at.astimezone().strftime("%H:%M:%S")
    for told in _wrapped((f"vp-queue {at}", *live, "keeper alive" if alive else "no keeper"), width, ""):
        yield Text(told, style="bold" if alive else "bold yellow")
    yield from _chart(overview.series, width)


def _chart(series: SeriesView, width: int) -> Iterator[Text]:
    """What ended, as bars over the time that is shown, and how much it was."""
    ended = [sum(of) for of in zip(series.completed, series.failed, series.other_ended, strict=True)]
    minutes = len(ended) * series.step_seconds // 60
    told = f"{sum(series.completed)} done, {sum(series.failed)} failed in {minutes} min"
    room = width - cells(told) - 1
    beside = room >= SLIMMEST_CHART
    yield Text.assemble((_bars(ended, room if beside else width), "cyan"), f" {told}" if beside else "")
    if not beside:
        yield Text(line(told, width))


def _wrapped(parts: Sequence[str], width: int, indent: str) -> Iterator[str]:
    """The parts, with dots between them, on as many lines as they take."""
    row = ""
    for part in parts:
        if row and cells(f"{indent}{row} · {part}") > width:
            yield indent + line(row, width - len(indent))
            row = part
        else:
            row = f"{row} · {part}" if row else part
    yield indent + line(row, width - len(indent))


def _bars(values: Sequence[int], room: int) -> str:
    """The values as bars, as many as there is room for: several fall into one where it is less."""
    levels = BARS if "utf" in (sys.stdout.encoding or "").lower() else PLAIN_BARS
    per = -(-len(values) // room)
    sums = [sum(values[at : at + per]) for at in range(0, len(values), per)]
    most = max(sums, default=0) or 1
    return "".join(levels[-(-value * (len(levels) - 1) // most)] for value in sums)


def _card(card: CardView, at: datetime, width: int) -> Iterator[Text]:
    yield Text()
    vp = card.vp
    state = fleet.state(vp.dump())
    title = Text(vp.vp_id, style="bold")
    title.append(f" {state}", style="dim" if state == "ready" else "yellow")
    yield _fitted(title, width)
    for told in _wrapped(_depth(card), width, INDENT):
        yield Text(told)
    history = _history(card)
    if history:
        for told in _wrapped(history, width, INDENT):
            yield Text(told, style="dim")
    for running in card.running:
        yield from _running(running, at, width)
    hidden = vp.running + vp.needs_input - len(card.running)
    if hidden > 0:
        yield Text(f"  … {hidden} more", style="dim")


def _depth(card: CardView) -> list[str]:
    vp = card.vp
    oldest = f", oldest {duration(card.oldest_due_seconds)}" if card.oldest_due_seconds is not None else ""
    workers = f"{len(vp.workers)} worker{'' if len(vp.workers) == 1 else 's'}"
    if vp.workers:
        workers += f", {fleet.heartbeat([worker.dump() for worker in vp.workers])}"
    return [f"{vp.running} of {vp.concurrency} running", f"{vp.queued} queued{oldest}", workers]


def _history(card: CardView) -> list[str]:
    """How it went of late, where there is anything to tell."""
    told = [f"{count} {status}" for status, count in card.ended_24h.items()]
    if told:
        told[0] = f"24 h: {told[0]}"
    if card.success_rate_24h is not None:
        told.append(f"success {card.success_rate_24h:.0%}")
    if card.cost_today_usd is not None:
        told.append(f"today ${card.cost_today_usd:,.2f}")
    if card.tokens_today is not None:
        told.append(f"{card.tokens_today:,} tokens")
    return told


def _running(running: RunningView, at: datetime, width: int) -> Iterator[Text]:
    mission = running.mission
    elapsed = duration((at - running.attempt_started_at).total_seconds())
    head = Text("  ")
    head.append(f"{mission.mission_id} ", style=STATUS_STYLES.get(mission.status, ""))
    head.append(f"{elapsed} ", style="red" if mission.stalled else "")
    if cells(head.plain) + output.SLIMMEST_WIDTH <= width:
        head.append(line(mission.objective, width - cells(head.plain)))
        yield _fitted(head, width)
    else:
        yield _fitted(head, width)
        yield Text("    " + line(mission.objective, width - 4))
    said = _said(running)
    if said:
        yield Text("    " + line(said, width - 4), style="dim")


def _said(running: RunningView) -> str | None:
    """The last that is known of it: what it asks, how far it says it is, what it printed."""
    mission = running.mission
    if mission.question is not None:
        return f"asks: {mission.question.question}"
    words = running.last_words.split("\n")[-1] if running.last_words else None
    progress = mission.progress
    if progress is None:
        return words
    told = " ".join(
        each for each in (f"{progress.fraction:.0%}" if progress.fraction is not None else "", progress.message) if each
    )
    return f"{told} · {words}" if words else told


def _need(need: NeedView, at: datetime, width: int) -> list[Text]:
    kind = need.kind.replace("_", " ")
    age = duration(max(0.0, (at - need.since).total_seconds())) if need.since is not None else ""
    row = Text(f"{kind:<12} ", style=NEEDS_STYLES.get(need.kind, "yellow"))
    row.append(f"{age:>6} ", style="dim")
    about = f"{need.mission.mission_id} " if need.mission is not None else ""
    if width - cells(row.plain + about) >= output.SLIMMEST_WIDTH:
        row.append(line(about + need.text, width - cells(row.plain)))
        return [row]
    row.append(line(about, max(1, width - cells(row.plain))))
    return [_fitted(row, width), Text("    " + line(need.text, max(1, width - 4)))]


def _event(event: EventView, width: int) -> Text:
    at = event.at.astimezone().strftime("%H:%M:%S")
    row = Text(f"{at} ", style="dim")
    row.append(event.type.removeprefix("mission."), style=STATUS_STYLES.get(event.type.removeprefix("mission."), ""))
    row.append(f" {line(f'{event.mission_id or event.vp_id} {event_text(event.dump())}', OVERVIEW_LINE_CELLS)}")
    return _fitted(row, width)


def _fitted(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    text.no_wrap = True
    return text
