"""vps, pause, resume, worker, keeper."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from vp_queue import config, missions, missions_admission, tools
from vp_queue.cli import completing, options, output, tables
from vp_queue.cli.tables import Column
from vp_queue.contracts import limits
from vp_queue.operations import installation, supervision


@click.command("vps")
@output.json_option
def vps_command(as_json: bool) -> None:
    """Show the VPs: queue depth, workers, availability.

    \b
    Example:
      vp vps
    """
    answer = output.checked(tools.vp_list_vps())
    if as_json:
        output.print_json(answer)
    else:
        show_vps(answer["vps"])


@click.command("pause")
@click.argument("vp_id", shell_complete=completing.vps)
@click.option("--reason", help="Why; shown by `vp vps`.")
@output.json_option
def pause_command(vp_id: str, reason: str | None, as_json: bool) -> None:
    """Take nothing more from a VP's queue.

    What runs goes on, and dispatches still queue up.

    \b
    Example:
      vp pause vp.coder.primary --reason "API quota"
    """
    _answered(installation.pause(vp_id, reason), f"{vp_id} is paused. Resume: vp resume {vp_id}", as_json)


@click.command("drain")
@click.argument("vp_id", shell_complete=completing.vps)
@click.option("--reason", help="Why; shown by `vp vps`.")
@click.option(
    "--wait",
    type=options.Seconds(limits.DURATION_SECONDS),
    help="Wait until nothing of it runs, so long at most; exit code 5 if that was not enough.",
)
@output.json_option
def drain_command(vp_id: str, reason: str | None, wait: float | None, as_json: bool) -> int:
    """Let a VP finish what runs, and start nothing more.

    It holds until `vp resume`, also when the consumer is restarted meanwhile. Dispatches still queue up.

    \b
    Example:
      vp drain vp.coder.primary --wait 3600
    """
    answer = installation.drain(vp_id, reason)
    if wait is not None:
        for seen in missions.wait_until_idle(vp_id, wait):
            answer = {"ok": True, "vp": seen.dump()}
            if not as_json:
                tell_running(answer["vp"])
    vp = answer["vp"]
    _answered(answer, f"{vp_id} starts nothing more. Resume: vp resume {vp_id}", as_json)
    return output.WAIT_TIMED_OUT if wait is not None and vp["running"] + vp["needs_input"] else 0


def tell_running(vp: dict[str, Any]) -> None:
    """A line on how many missions of a draining VP are still to end."""
    left = vp["running"] + vp["needs_input"]
    click.echo(f"{vp['vp_id']}: {left or 'nothing'} running" + ("" if left else " any more"))


@click.command("resume")
@click.argument("vp_id", shell_complete=completing.vps)
@output.json_option
def resume_command(vp_id: str, as_json: bool) -> None:
    """Take from a VP's queue again, after a pause or a drain.

    \b
    Example:
      vp resume vp.coder.primary
    """
    _answered(installation.resume(vp_id), f"{vp_id} takes missions from its queue.", as_json)


@click.command("worker")
@click.argument("vp_id", shell_complete=completing.vps)
@output.json_option
def worker_command(vp_id: str, as_json: bool) -> None:
    """Run one VP's consumer in the foreground.

    Becomes huey_consumer; TERM stops it in good order (missions are released), INT (Ctrl-C) lets running
    missions finish. --json concerns errors only.

    \b
    Example:
      vp worker vp.general.primary
    """
    command, environment = supervision.consumer(missions.ready(), vp_id)
    sys.stdout.flush()
    os.execve(command[0], command, environment)


@click.command("keeper")
@output.json_option
def keeper_command(as_json: bool) -> None:
    """Run the keeper, which repairs, in the foreground.

    It requeues what crashed workers left, enqueues what is due and expires what is late. --json concerns
    errors only.

    \b
    Example:
      vp keeper
    """
    import logging

    from vp_queue.keeper import recovery

    logging.basicConfig(level=logging.INFO, format="[%(asctime)s] %(levelname)s:%(name)s:%(message)s")
    recovery.main(missions.ready(config.load()))


def _answered(answer: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        output.print_json(answer)
    else:
        click.echo(text)


def show_vps(vps: list[dict[str, Any]]) -> None:
    """The roster for people."""
    rows = (
        (
            each["vp_id"],
            each["queued"],
            f"{each['running']} of {each['concurrency']}",
            f"{len(each['workers'])}, {heartbeat(each['workers'])}" if each["workers"] else "–",
            each["executor"],
            each["title"],
            state(each),
        )
        for each in vps
    )
    heads = ("VP", "queued", "running", "workers", Column("executor", optional=True), Column("title", optional=True))
    tables.table((*heads, "state"), rows, last_column_folds=True)


def heartbeat(workers: list[dict[str, Any]]) -> str:
    """How long ago the last of these workers gave a sign of life."""
    newest = max((worker["heartbeat_at"] for worker in workers), default=None)
    return f"{output.age(newest)} ago" if newest else "–"


def state(vp: dict[str, Any]) -> str:
    """Whether a VP works, or why not."""
    words = []
    if not vp["enabled"]:
        words.append("disabled in vp_queue.toml")
    if vp["paused"]:
        words.append(f"paused{': ' + vp['pause_reason'] if vp['pause_reason'] else ''} (vp resume)")
    if vp["draining"]:
        words.append(f"draining{': ' + vp['drain_reason'] if vp['drain_reason'] else ''} (vp resume)")
    if any(worker["stale"] for worker in vp["workers"]):
        words.append("a worker is silent: see vp doctor")
    outdated = sorted({what for worker in vp["workers"] for what in worker["outdated"]})
    if outdated:
        words.append(f"a worker runs an older {' and '.join(outdated)}: vp restart {vp['vp_id']}")
    if vp["needs_input"]:
        words.append(f"{vp['needs_input']} need input")
    if not vp["available"]["ok"]:
        words.append("cannot run: see vp doctor")
    elif (vp["available"]["reason"] or "").startswith(missions_admission.COMMANDS_ONLY):
        words.append("commands only")
    elif vp["available"]["reason"]:
        words.append(vp["available"]["reason"])
    if vp["enabled"] and not vp["workers"]:
        words.append("no worker: vp up --detach")
    return output.line("; ".join(words) or "ready", 400)
