"""Following one mission to its end: its events, where it stands, and a hint if nobody takes it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import click

from vp_queue import clock, missions, tools
from vp_queue.cli import hints, output
from vp_queue.cli.showing import event_text
from vp_queue.contracts import TERMINAL_EVENTS, EventType, limits

ENDINGS: Final = (*TERMINAL_EVENTS, EventType.NEEDS_INPUT)
REFRESH_SECONDS: Final = 1.0
QUIET_WAIT_SECONDS: Final = 30.0
# A consumer takes a mission in milliseconds; one that starts up meanwhile in about a second.
HINT_AFTER_SECONDS: Final = 3.0


def follow(mission_id: str, seconds: float, slice_seconds: float) -> Iterator[list[dict[str, Any]]]:
    """The mission's events as they come, an empty list where a slice of time brought none, until its end."""
    begun = clock.monotonic()
    seq = 0
    while True:
        passed = clock.monotonic() - begun
        left = seconds - passed
        until_hint = HINT_AFTER_SECONDS - passed
        slice_now = min(slice_seconds, until_hint) if until_hint > 0 else slice_seconds
        events = missions.events_after(
            seq, limits.EVENTS_PAGE, mission_id=mission_id, wait_seconds=max(0.0, min(left, slice_now))
        )
        seq = events[-1].seq if events else seq
        yield [event.dump() for event in events]
        if (events and events[-1].type in ENDINGS) or (left <= 0 and not events):
            return


def wait_silently(mission_id: str, seconds: float) -> None:
    """Return when the mission ends, needs input, or the time is up."""
    for _ in follow(mission_id, seconds, QUIET_WAIT_SECONDS):
        pass


def show_progress(mission_id: str, seconds: float) -> None:
    """Show how a mission goes until it ends, needs input, or the time is up."""
    if output.can_redraw():
        _redraw(mission_id, seconds)
    else:
        _print_events(mission_id, seconds)


def _print_events(mission_id: str, seconds: float) -> None:
    hint = Hint(mission_id, lambda text: click.echo(text, err=True))
    for events in follow(mission_id, seconds, QUIET_WAIT_SECONDS):
        for event in events:
            click.echo(output.headed(f"{output.instant(event['at'])} {event['type']}", event_text(event)))
        hint.if_due()


def _redraw(mission_id: str, seconds: float) -> None:
    with _status_line() as (show, say):
        hint = Hint(mission_id, say)
        for _ in follow(mission_id, seconds, REFRESH_SECONDS):
            mission = hint.if_due()
            said = (mission["progress"] or {}).get("message")
            attempt = f" · attempt {mission['attempt']}" if mission["attempt"] else ""
            show(f"{mission['status']}{attempt} · {output.age(mission['created_at'])}" + (f" · {said}" if said else ""))


class Hint:
    """Says once, after a moment, why a mission is not taken."""

    def __init__(self, mission_id: str, say: Callable[[str], None]) -> None:
        self._mission_id, self._say = mission_id, say
        self._due = clock.monotonic() + HINT_AFTER_SECONDS
        self._said = False

    def if_due(self) -> dict[str, Any]:
        """Look at the mission, say so if need be, and return it."""
        mission: dict[str, Any] = output.checked(tools.vp_get_mission(mission_id=self._mission_id, events_limit=0))[
            "mission"
        ]
        if not self._said and clock.monotonic() >= self._due:
            why = hints.why_it_waits(mission)
            self._said = why is not None
            if why:
                self._say(f"Hint: {output.clean(why)}")
        return mission


@contextlib.contextmanager
def _status_line() -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """One line of the terminal that is written over, and a way to print above it."""
    from rich.live import Live
    from rich.text import Text

    console = output.console()

    def show(text: str) -> None:
        live.update(Text(output.line(text, console.width - 1), no_wrap=True, overflow="ellipsis"), refresh=True)

    with Live(console=console, transient=True, auto_refresh=False) as live:
        yield show, lambda text: console.print(Text(text))
