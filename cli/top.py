"""top: the overview, live."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Final

import click

from vp_queue import clock, missions, missions_overview
from vp_queue.cli import output
from vp_queue.errors import LedgerBusy

if TYPE_CHECKING:
    from rich.console import Console, Group

    from vp_queue.contracts.overview import OverviewAnswer

# As soon as something changes, but no more often than this; and this often though nothing changes: time goes on.
SOONEST_SECONDS: Final = 0.25
LATEST_SECONDS: Final = 2.0


@click.command("top")
@click.option("--once", is_flag=True, help="Print it once and end, as it does where the output is no terminal.")
@output.json_option
def top_command(once: bool, as_json: bool) -> None:
    """Watch all VPs live: what runs, what waits for you.

    Each VP with its queue, workers and running missions with what they printed last; what waits for a person; the
    latest events. It follows the ledger until q or Ctrl-C. --json prints it once.

    \b
    Example:
      vp top
    """
    if as_json:
        output.print_json(missions_overview.overview().dump())
    elif once or not output.can_redraw():
        _print(missions_overview.overview())
    else:
        with contextlib.suppress(KeyboardInterrupt):
            _watch()


def _print(overview: OverviewAnswer) -> None:
    from vp_queue.cli import glance

    console = output.console()
    for line in glance.lines(overview, console.width, None):
        console.print(line, no_wrap=True, crop=True)


def _watch() -> None:
    from rich.live import Live

    from vp_queue.ledger import watch

    missions.ready()
    changes = watch.current()
    console = output.console(resizes=True)
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _leave)
    with _keys(), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            token, drawn_at = changes.token(), clock.monotonic()
            with contextlib.suppress(LedgerBusy):  # it is shown as it was, and looked at again
                live.update(_screen(missions_overview.overview(), console), refresh=True)
            while clock.monotonic() - drawn_at < LATEST_SECONDS:
                changed = changes.wait(token, SOONEST_SECONDS)
                if _quit_pressed(max(0.0, drawn_at + SOONEST_SECONDS - clock.monotonic())):
                    return
                if changed:
                    break


def _leave(number: int, _: FrameType | None) -> None:
    """End by way of what gives the terminal back as it was."""
    raise SystemExit(128 + number)


def _screen(overview: OverviewAnswer, console: Console) -> Group:
    from rich.console import Group

    from vp_queue.cli import glance

    return Group(*glance.lines(overview, console.width, console.height))


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """A key is there as soon as it is pressed, and is not shown."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _quit_pressed(seconds: float) -> bool:
    """Wait so many seconds, or less if a key is pressed; whether it was q, or the terminal has gone."""
    keyboard = [sys.stdin.fileno()] if sys.stdin.isatty() else []
    if not select.select(keyboard, [], [], seconds)[0]:
        return False
    # Not by sys.stdin: what it had read beyond a key, select would not tell of.
    pressed = os.read(keyboard[0], 64)
    return not pressed or b"q" in pressed.lower()
