"""dispatch, with live progress while it waits."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Final

import click

from vp_queue import clock, missions, tools
from vp_queue.cli import output
from vp_queue.cli.missions import event_text, outcome_code, show_mission
from vp_queue.cli.options import JsonObject, given, pairs
from vp_queue.contracts import TERMINAL_EVENTS, EventType, limits

UNTIL_IT_ENDS: Final = "until-it-ends"
ENDINGS: Final = (*TERMINAL_EVENTS, EventType.NEEDS_INPUT)
REFRESH_SECONDS: Final = 1.0
QUIET_WAIT_SECONDS: Final = 30.0


class DispatchCommand(click.Command):
    """Lets ``--wait`` go without a value anywhere, not only at the end."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for index, (arg, after) in enumerate(zip(args, [*args[1:], ""], strict=False)):
            if arg == "--":
                break
            if arg == "--wait" and not after.replace(".", "", 1).isdecimal():
                args[index] = f"--wait={UNTIL_IT_ENDS}"
        return super().parse_args(ctx, args)


@click.command("dispatch", cls=DispatchCommand)
@click.argument("vp_id")
@click.argument("objective")
@click.option("--type", "mission_type", help='"task" (the default), or "command" with constraints.command.')
@click.option("--constraints", type=JsonObject(), help="JSON object or @file, e.g. target_path, command, files.")
@click.option("--budget", type=JsonObject(), help="JSON object or @file, e.g. max_duration_seconds, max_cost_usd.")
@click.option("--key", help="Idempotency key: repeating this command makes no second mission.")
@click.option("--priority", type=int, help="-100 to 100, higher runs first (0).")
@click.option("--not-before", metavar="TIME", help="Do not start before (RFC 3339 with offset).")
@click.option("--expires-at", metavar="TIME", help="Expire if not started by then.")
@click.option("--max-attempts", type=int, help="1 to 10; a rerun repeats side effects (1).")
@click.option("--session", help="Your session, to filter lists and events by.")
@click.option("--metadata", multiple=True, metavar="KEY=VALUE", callback=pairs, help="Kept with it; repeatable.")
@click.option(
    "--wait", is_flag=False, flag_value=UNTIL_IT_ENDS, metavar="[SECONDS]", help="Wait for the end, with progress."
)
@output.json_option
def dispatch_command(
    vp_id: str,
    objective: str,
    key: str | None,
    session: str | None,
    wait: str | None,
    as_json: bool,
    **others: Any,
) -> int:
    """Delegate a mission to a VP.

    OBJECTIVE "-" reads it from standard input. Without --wait this returns at once. With --wait the exit
    code is 0 if it completed, 1 if it did not, 5 if the time was up; Ctrl-C leaves the mission running.

    \b
    Examples:
      vp dispatch vp.general.primary "Summarise today's news" --wait
      vp dispatch vp.coder.primary - --budget '{"max_duration_seconds": 900}' < task.md
      vp dispatch vp.coder.primary "List files" --type command --constraints '{"command": ["ls", "-l"]}'
    """
    seconds = _seconds(wait)
    if objective == "-":
        objective = _from_stdin()
    answer = output.checked(
        tools.vp_dispatch_mission(
            vp_id=vp_id, objective=objective, **given(idempotency_key=key, source_session_id=session, **others)
        )
    )
    mission_id = answer["mission"]["mission_id"]
    if seconds is None:
        if as_json:
            output.print_json(answer)
        else:
            click.echo(_acknowledged(answer))
            click.echo(f"Follow: vp wait {mission_id}")
        return 0
    try:
        return _wait(answer, seconds, as_json)
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"\n{mission_id} goes on. Follow: vp wait {mission_id}   Cancel: vp cancel {mission_id}", err=True)
        return 130


def _from_stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise click.BadParameter("standard input is not UTF-8 text", param_hint="OBJECTIVE") from None


def _seconds(wait: str | None) -> float | None:
    if wait is None or wait == UNTIL_IT_ENDS:
        return None if wait is None else float("inf")
    try:
        seconds = float(wait)
    except ValueError:
        raise click.BadParameter(f"{wait!r} is no number of seconds", param_hint="--wait") from None
    if not 0 <= seconds <= limits.DURATION_SECONDS:
        raise click.BadParameter(f"give 0 to {limits.DURATION_SECONDS:.0f} seconds", param_hint="--wait")
    return seconds


def _acknowledged(answer: dict[str, Any]) -> str:
    mission = answer["mission"]
    if answer["created"]:
        return f"Dispatched {mission['mission_id']} to {mission['vp_id']}."
    return f"This key was dispatched before: {mission['mission_id']} is {mission['status']}."


def _wait(answer: dict[str, Any], seconds: float, as_json: bool) -> int:
    mission_id = answer["mission"]["mission_id"]
    if as_json:
        for _ in _followed(mission_id, seconds, QUIET_WAIT_SECONDS):
            pass
    else:
        click.echo(_acknowledged(answer))
        _show_progress(mission_id, seconds)
    final = output.checked(tools.vp_wait_mission(mission_id=mission_id, timeout_seconds=0))
    mission = final["mission"]
    if as_json:
        output.print_json({**answer, "mission": mission, "timed_out": final["timed_out"]})
    elif final["timed_out"]:
        click.echo(f"Still {mission['status']}; it goes on. Follow: vp wait {mission_id}")
    else:
        show_mission(mission)
        _name_artifacts(mission_id)
    return outcome_code(mission, final["timed_out"])


def _followed(mission_id: str, seconds: float, slice_seconds: float) -> Iterator[list[dict[str, Any]]]:
    """The mission's events as they come, an empty list where a slice of time brought none, until its end."""
    deadline = clock.monotonic() + seconds
    seq = 0
    while True:
        left = deadline - clock.monotonic()
        wait_seconds = max(0.0, min(left, slice_seconds))
        events = missions.events_after(seq, limits.EVENTS_PAGE, mission_id=mission_id, wait_seconds=wait_seconds)
        seq = events[-1].seq if events else seq
        yield [event.dump() for event in events]
        if (events and events[-1].type in ENDINGS) or (left <= 0 and not events):
            return


def _show_progress(mission_id: str, seconds: float) -> None:
    if not sys.stdout.isatty():
        for events in _followed(mission_id, seconds, QUIET_WAIT_SECONDS):
            for event in events:
                click.echo(output.line(f"{output.instant(event['at'])} {event['type']} {event_text(event)}"))
        return
    with _status_line() as show:
        for events in _followed(mission_id, seconds, REFRESH_SECONDS):
            mission = output.checked(tools.vp_get_mission(mission_id=mission_id, events_limit=0))["mission"]
            said = (mission["progress"] or {}).get("message") or (event_text(events[-1]) if events else "")
            elapsed = output.age(mission["created_at"])
            attempt = f" · attempt {mission['attempt']}" if mission["attempt"] else ""
            show(f"{mission['status']}{attempt} · {elapsed}" + (f" · {said}" if said else ""))


@contextlib.contextmanager
def _status_line() -> Iterator[Any]:
    """One line of the terminal that is written over."""
    from rich.live import Live
    from rich.text import Text

    console = output.console()
    with Live(console=console, transient=True, auto_refresh=False) as live:
        yield lambda text: live.update(
            Text(output.line(text, console.width - 1), no_wrap=True, overflow="ellipsis"), refresh=True
        )


def _name_artifacts(mission_id: str) -> None:
    answer = output.checked(tools.vp_read_result_artifacts(mission_id=mission_id, max_files=20, max_bytes=256))
    for artifact in answer["artifacts"]:
        click.echo(f"artifact  {output.line(artifact['path'])} ({output.size(artifact['size'])})")
    if answer["files_total"]:
        click.echo(f"Read: vp artifacts {mission_id} PATH   Save: vp artifacts {mission_id} --save DIR")
