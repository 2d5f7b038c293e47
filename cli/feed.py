"""events and logs: what happens, and what programs print, now or as it comes."""

from __future__ import annotations

import codecs
import collections
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from vp_queue import missions, missions_logs, tools
from vp_queue.cli import completing, hints, output
from vp_queue.cli.showing import event_text
from vp_queue.contracts import EventType, Outcome, limits

FOLLOW_WAIT_SECONDS: Final = 30.0
CHUNK_BYTES: Final = 256 * 1024
# run.log is an ordinary file in a workspace; nothing announces that it grew.
LOG_POLL_SECONDS: Final = 0.2


@click.command("events")
@click.option("--follow", is_flag=True, help="Go on as they happen, until Ctrl-C.")
@click.option("--mission", "mission_id", shell_complete=completing.missions(), help="Only this mission's.")
@click.option(
    "--type",
    "types",
    multiple=True,
    type=click.Choice([str(kind) for kind in EventType]),
    metavar="TYPE",
    help="Only of this type, e.g. mission.failed; repeatable.",
)
@click.option("--since", type=click.IntRange(min=0), metavar="SEQ", help="After this seq. By default the newest.")
@click.option("--limit", type=click.IntRange(1, limits.EVENTS_PAGE), default=50, help="How many at most (50).")
@output.json_option
def events_command(
    follow: bool, mission_id: str | None, types: tuple[str, ...], since: int | None, limit: int, as_json: bool
) -> None:
    """Show or follow the event feed.

    With --follow --json prints one event per line. This reads the feed only: an orchestrator's own inbox,
    with acknowledgement, is `vp inbox`.

    \b
    Examples:
      vp events --mission m-0mdq3v8k2f-7x0k3w9c2h1
      vp events --follow --since 120 --type mission.failed
    """
    if mission_id is not None:  # a wrong id is an error here, not an empty feed for ever
        output.checked(tools.vp_get_mission(mission_id=mission_id, events_limit=0))
    if since is None:
        since = 0 if mission_id is not None else max(0, missions.newest_seq() - (0 if follow else limit))
    if follow:
        _follow_events(since, mission_id, types or None, as_json)
        return
    found = missions.events_after(since, limit, mission_id=mission_id, types=types or None)
    events = [event.dump() for event in found]
    if as_json:
        next_after = events[-1]["seq"] if events else since
        output.print_json({"ok": True, "events": events, "next_after": next_after})
    elif events:
        for event in events:
            click.echo(event_line(event))
    else:
        click.echo("No events. As they happen: vp events --follow")


def _follow_events(seq: int, mission_id: str | None, types: Sequence[str] | None, as_json: bool) -> None:
    while True:
        for event in missions.events_after(
            seq, limits.EVENTS_PAGE, mission_id=mission_id, types=types, wait_seconds=FOLLOW_WAIT_SECONDS
        ):
            seq = event.seq
            shown = event.dump()
            if as_json:
                output.print_json(shown)
            else:
                click.echo(event_line(shown))
        sys.stdout.flush()


def event_line(event: dict[str, Any]) -> str:
    """An event as one line of a feed, or two on a slim terminal."""
    about = event["mission_id"] or event["vp_id"]
    when, text = f"{event['seq']} {output.instant(event['at'])}", event_text(event)
    head = f"{when} {about} {event['type']}"
    if output.cells(head) > output.line_width():
        return output.headed(f"{when} {event['type']}", f"{about} {text}")
    return output.headed(head, text)


@click.command("logs")
@click.argument("mission_id", shell_complete=completing.missions())
@click.option("--attempt", type=click.IntRange(min=1), help="Of this attempt; by default the last.")
@click.option("--tail", type=click.IntRange(min=1), metavar="N", help="Only the last N lines.")
@click.option("--follow", is_flag=True, help="Go on until the mission ends.")
@output.json_option
def logs_command(mission_id: str, attempt: int | None, tail: int | None, follow: bool, as_json: bool) -> None:
    """Show or follow what a mission's program prints.

    \b
    Example:
      vp logs m-0mdq3v8k2f-7x0k3w9c2h1 --follow
    """
    if follow:
        _follow_log(mission_id, attempt, tail, as_json)
        return
    answer = output.checked(tools.vp_get_mission(mission_id=mission_id, events_limit=0))
    shown = attempt or _last_attempt(answer)
    text = "".join(piece for piece, _ in _read(mission_id, shown, 0)) if shown else ""
    if tail is not None:
        text = "".join(collections.deque(text.splitlines(keepends=True), tail))
    if as_json:
        output.print_json({"ok": True, "mission_id": mission_id, "attempt": shown, "log": text})
    elif text:
        click.echo(text, nl=not text.endswith("\n"))
    else:
        click.echo(_why_nothing(answer["mission"], shown is not None), err=True)


def _why_nothing(mission: dict[str, Any], started: bool) -> str:
    mission_id = mission["mission_id"]
    if mission["terminal"]:
        what = "printed nothing" if started else "never started"
        return f"{mission_id} is {mission['status']}, and {what}: vp get {mission_id}"
    what = "has printed nothing yet" if started else "has not started"
    why = hints.why_it_waits(mission)
    return f"{mission_id} {what}; follow it: vp logs {mission_id} --follow" + (
        f"\nHint: {output.clean(why)}" if why else ""
    )


def _last_attempt(answer: dict[str, Any]) -> int | None:
    return answer["attempts"][-1]["number"] if answer["attempts"] else None


def _read(mission_id: str, attempt: int, offset: int) -> Iterator[tuple[str, int]]:
    """What there is of a log from an offset, cleaned, with the offset to go on from after each piece."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        piece = missions_logs.read(mission_id, attempt, offset, CHUNK_BYTES)
        text = decoder.decode(piece.text, final=piece.over)
        offset = piece.next_offset
        if text:
            # A character whose rest is still to be printed is read again with it.
            yield output.clean(text), offset - len(decoder.getstate()[0])
        if piece.over or not piece.text:
            return


def _follow_log(mission_id: str, number: int | None, tail: int | None, as_json: bool) -> None:
    current, offset = None, 0
    while True:
        answer = output.checked(tools.vp_get_mission(mission_id=mission_id, events_limit=0))
        last = _last_attempt(answer)
        attempt = (number or last) if last else None
        if attempt is not None:
            if attempt != current:
                current, offset = attempt, 0
                click.echo(f"--- attempt {current} ---", err=True)
            for text, after in _latest(_read(mission_id, attempt, offset), tail):
                _print_log(text, attempt, after, as_json)
                offset = after
            tail = None
        # It was read once more after it was seen to have ended: nothing is printed after that.
        if answer["mission"]["terminal"] or _has_ended(answer, number):
            return
        time.sleep(LOG_POLL_SECONDS)


def _has_ended(answer: dict[str, Any], number: int | None) -> bool:
    outcomes = {attempt["number"]: attempt["outcome"] for attempt in answer["attempts"]}
    return bool(outcomes.get(number, Outcome.RUNNING) != Outcome.RUNNING)


def _latest(pieces: Iterator[tuple[str, int]], tail: int | None) -> Iterator[tuple[str, int]]:
    if tail is None:
        yield from pieces
        return
    text, last = "", 0
    for piece, offset in pieces:
        last = offset
        text = "".join(collections.deque((text + piece).splitlines(keepends=True), tail))
    yield text, last


def _print_log(text: str, attempt: int, offset: int, as_json: bool) -> None:
    if as_json:
        output.print_json({"attempt": attempt, "next_offset": offset, "log": text})
    else:
        click.echo(text, nl=False)
    sys.stdout.flush()
