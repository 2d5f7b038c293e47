"""inbox: what a reader has not acknowledged yet; with --format context, for an agent and its host's hooks."""

from __future__ import annotations

from typing import Any, Final

import click

from vp_queue.cli import output
from vp_queue.contracts import limits

NEWEST: Final = "newest"


class Seq(click.ParamType[Any]):
    """A seq, or the word for the newest there is."""

    name = "SEQ"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == NEWEST or isinstance(value, int):
            return value
        return click.IntRange(min=0).convert(value, param, ctx)


@click.command("inbox")
@click.argument("reader")
@click.option("--limit", type=click.IntRange(1, limits.EVENTS_PAGE), default=100, help="How many events at most (100).")
@click.option("--session", metavar="ID", help="Only missions of this session.")
@click.option("--ack", type=Seq(), help="First acknowledge up to this seq, or up to the `newest` there is.")
@click.option("--ack-shown", is_flag=True, help="Acknowledge what was printed, after it was.")
@click.option(
    "--wait", type=click.FloatRange(0, limits.FEED_WAIT_SECONDS), metavar="SECONDS", help="Wait for a first event."
)
@click.option("--format", "form", type=click.Choice(["text", "context"]), default="text", help="context: for an agent.")
@click.option("--tell-session", is_flag=True, help="In a SessionStart hook, tell the agent its session's id.")
@output.json_option
def inbox_command(
    reader: str,
    limit: int,
    session: str | None,
    ack: Any,
    ack_shown: bool,
    wait: float | None,
    form: str,
    tell_session: bool,
    as_json: bool,
) -> None:
    """Read a reader's inbox; as a hook, tell an agent of it.

    The inbox holds the events that the reader has not acknowledged. Reading acknowledges nothing: the same
    comes again until --ack or --ack-shown. With --format context it prints what ended, shortened, for an
    agent; given a host's hook as JSON on stdin, it answers that hook, and the session's next call
    acknowledges.

    \b
    Examples:
      vp inbox simone
      vp inbox simone --ack 120 --wait 30
      vp inbox simone --format context
    """
    if form == "context":
        _context(reader, session, ack_shown, tell_session, exclusive={"--json": as_json, "--ack": ack, "--wait": wait})
        return
    if tell_session:
        raise click.UsageError("--tell-session goes with --format context.")
    from vp_queue import missions, tools

    answer = output.checked(
        tools.vp_read_events(
            reader=reader,
            limit=limit,
            acknowledge=missions.newest_seq() if ack == NEWEST else ack,
            source_session_id=session,
            wait_seconds=wait or 0,
        )
    )
    if as_json:
        output.print_json(answer)
    else:
        _show(reader, answer, ack_shown)
    if ack_shown and answer["last_seq"]:
        output.checked(tools.vp_read_events(reader=reader, acknowledge=answer["last_seq"], limit=1))


def _context(reader: str, session: str | None, ack_shown: bool, tell_session: bool, exclusive: dict[str, Any]) -> None:
    for option, given in exclusive.items():
        if given:
            raise click.UsageError(f"{option} does not go with --format context.")
    from vp_queue.hooks import process

    process.run(process.Asked(reader, session, tell_session), acknowledge_shown=ack_shown)


def _show(reader: str, answer: dict[str, Any], ack_shown: bool) -> None:
    from vp_queue.cli.feed import event_line

    if answer["pruned"]:
        click.echo(f"{answer['pruned']} events were pruned before {output.line(reader)} read them.", err=True)
    for event in answer["events"]:
        click.echo(event_line(event))
    if not answer["events"]:
        click.echo("Nothing new. Wait for it: --wait 30")
    elif not ack_shown:
        click.echo(f"Handled? vp inbox {output.line(reader)} --ack {answer['last_seq']}", err=True)
