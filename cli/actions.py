"""actions: who did what, when, through which face."""

from __future__ import annotations

from typing import Any, Final

import click

from vp_queue import missions_actions
from vp_queue.cli import completing, output
from vp_queue.cli.showing import event_text, who
from vp_queue.contracts import limits

FACES: Final = ("cli", "mcp", "http", "dashboard", "adapter", "python")


@click.command("actions")
@click.option("--vp", "vp_id", shell_complete=completing.vps, help="Only what concerns this VP.")
@click.option("--face", type=click.Choice(FACES), help="Only through this face.")
@click.option("--limit", type=click.IntRange(1, limits.ACTIONS_PAGE), default=50, help="How many at most (50).")
@click.option("--before", type=click.IntRange(min=0), metavar="SEQ", help="Only what came before this seq.")
@output.json_option
def actions_command(vp_id: str | None, face: str | None, limit: int, before: int | None, as_json: bool) -> None:
    """Show who did what, through which face.

    Dispatches and retries, cancels, answers, and what was paused, drained or resumed, newest first. What a client says
    of itself is told, not proved.

    \b
    Example:
      vp actions --face mcp
    """
    answer = missions_actions.actions(limit, before, vp_id=vp_id, face=face).dump()
    if as_json:
        output.print_json(answer)
        return
    for event in answer["events"]:
        click.echo(_line(event))
    if answer["next_before"] is not None:
        click.echo(f"Older: --before {answer['next_before']}")
    elif not answer["events"]:
        click.echo("Nobody did anything of the kind yet.")


def _line(event: dict[str, Any]) -> str:
    by = event["data"].get("by")
    about = event["mission_id"] or event["vp_id"]
    rest = {**event, "data": {name: value for name, value in event["data"].items() if name != "by"}}
    head = f"{output.instant(event['at'])} {who(by) if by else 'unknown'} {event['type']}"
    return output.headed(head, f"{about} {event_text(rest)}")
