"""notify list, notify retry, notify test."""

from __future__ import annotations

from typing import Any

import click

from vp_queue import config
from vp_queue.cli import completing, output, tables
from vp_queue.cli.tables import Column
from vp_queue.operations import notifications


@click.group("notify")
def notify_command() -> None:
    """Who is told of what happens, and what could not be told.

    Whom and what says [notify] in vp_queue.toml.

    \b
    Example:
      vp notify test vp.coder.primary
      vp notify list --dead
    """


@notify_command.command("list")
@click.option("--dead", is_flag=True, help="Only what was given up.")
@output.json_option
def list_command(dead: bool, as_json: bool) -> None:
    """List what waits to be told, and what was given up.

    \b
    Example:
      vp notify list --dead
    """
    answer = notifications.report(config.load(), dead=dead)
    if as_json:
        output.print_json(answer)
        return
    if answer["sinks"]:
        tables.table(
            (Column("receiver", least=24, folds=True), "waiting", "given up", "what it is"),
            ((s["sink"], f"{s['pending']:,}", f"{s['dead']:,}", s["label"]) for s in answer["sinks"]),
        )
        click.echo()
    if not answer["deliveries"]:
        click.echo("Nothing was given up." if dead else "Nothing waits to be told, and nothing was given up.")
        return
    tables.table(
        ("id", "state", "tries", Column("event", least=18, folds=True), Column("about", least=18, folds=True), "error"),
        (
            (d["id"], d["state"], d["attempts"], d["type"], d["mission_id"] or d["vp_id"], d["error"] or "–")
            for d in answer["deliveries"]
        ),
        last_column_folds=True,
    )
    if answer["truncated"]:
        click.echo("There are more.")
    if any(d["state"] == "dead" for d in answer["deliveries"]):
        click.echo("To try again what was given up: vp notify retry ID, or vp notify retry --all")


@notify_command.command("retry")
@click.argument("delivery_id", metavar="ID", type=click.IntRange(1, 2**62), required=False)
@click.option("--all", "retry_all", is_flag=True, help="Everything that was given up.")
@output.json_option
def retry_command(delivery_id: int | None, retry_all: bool, as_json: bool) -> None:
    """Try again now what was given up, or what waits.

    The keeper does it; each begins anew to count its attempts.

    \b
    Example:
      vp notify retry 17
      vp notify retry --all
    """
    if retry_all == (delivery_id is not None):
        raise click.UsageError("Give an ID (see vp notify list), or --all.")
    answer = notifications.retry(config.load(), delivery_id)
    if as_json:
        output.print_json(answer)
    else:
        click.echo(f"To be tried again by the keeper: {answer['revived']:,}.")


@notify_command.command("test")
@click.argument("vp_id", shell_complete=completing.vps)
@output.json_option
def test_command(vp_id: str, as_json: bool) -> int:
    """Tell everybody who is told of a VP that this is a test.

    It is sent from here, once, in the way the keeper does it; the key and the variables are those of this
    environment. The exit code is 1 if somebody was not told.

    \b
    Example:
      vp notify test vp.coder.primary
    """
    answer = notifications.test(config.load(), vp_id)
    if as_json:
        output.print_json(answer)
    else:
        for result in answer["results"]:
            click.echo(_told(result))
    return 0 if all(result["delivered"] for result in answer["results"]) else 1


def _told(result: dict[str, Any]) -> str:
    whom = f"{result['kind']} {output.line(result['label'], 100)}"
    return f"told: {whom}" if result["delivered"] else f"not told: {whom}: {output.line(result['error'], 300)}"
