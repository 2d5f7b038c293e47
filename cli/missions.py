"""get, list, wait, cancel, retry.

What prints for people is imported by what prints: `vp list --json` starts without.
"""

from __future__ import annotations

from typing import Any, Final

import click

from vp_queue import tools
from vp_queue.cli import completing, output
from vp_queue.cli.options import Seconds, filtered, filters, given, is_one, matching
from vp_queue.contracts import limits

WAIT_SECONDS: Final = 45.0


@click.command("get")
@click.argument("mission_id", shell_complete=completing.missions())
@click.option("--events", "events_limit", type=int, help="How many of the newest events (20).")
@output.json_option
def get_command(mission_id: str, events_limit: int | None, as_json: bool) -> None:
    """Show one mission with its attempts and events.

    \b
    Example:
      vp get m-0mdq3v8k2f-7x0k3w9c2h1
    """
    answer = output.checked(tools.vp_get_mission(mission_id=mission_id, **given(events_limit=events_limit)))
    if as_json:
        output.print_json(answer)
        return
    from vp_queue.cli import showing

    showing.show_mission(answer["mission"])
    if answer["attempts"]:
        click.echo()
        showing.show_attempts(answer["attempts"])
    if answer["events"]:
        click.echo()
        showing.show_events(answer["events"])


@click.command("list")
@filters
@click.option("--limit", type=int, help="How many at most (50).")
@click.option("--cursor", help="next_cursor of the page before.")
@output.json_option
def list_command(limit: int | None, cursor: str | None, as_json: bool, **chosen: Any) -> None:
    """List missions, newest first.

    \b
    Examples:
      vp list --vp vp.coder.primary --status queued --status running
      vp list --text invoice --since 7d
    """
    wanted = filtered(**chosen)
    answer = output.checked(tools.vp_list_missions(**wanted, **given(limit=limit, cursor=cursor)))
    if as_json:
        output.print_json(answer)
        return
    from vp_queue.cli import hints, showing

    if answer["missions"]:
        showing.show_missions(answer["missions"])
    elif wanted:
        click.echo("No such missions. All: vp list   The VPs: vp vps")
    else:
        click.echo('No missions. Dispatch one: vp dispatch vp.general.primary "…"')
        remark = hints.not_set_up()
        if remark:
            click.echo(f"Hint: {output.clean(remark)}", err=True)
    counts = " · ".join(f"{status}: {count}" for status, count in answer["counts"].items() if count)
    if counts:
        click.echo(counts)
    if answer["next_cursor"]:
        what = "More" if answer["missions"] else "Not looked through yet"
        click.echo(f"{what}: --cursor {answer['next_cursor']}")


@click.command("wait")
@click.argument("mission_id", shell_complete=completing.missions())
@click.option("--timeout", "timeout_seconds", type=Seconds(limits.WAIT_SECONDS), help="At most (45; up to 3600).")
@output.json_option
def wait_command(mission_id: str, timeout_seconds: float | None, as_json: bool) -> int:
    """Wait until a mission ends.

    Returns early if it needs input. Exit code 0 if it completed, 1 if it did not, 5 if the time was up.

    \b
    Example:
      vp wait m-0mdq3v8k2f-7x0k3w9c2h1 --timeout 600
    """
    timeout = given(timeout_seconds=timeout_seconds)
    if not as_json:
        timeout["timeout_seconds"] = _waited(mission_id, timeout)
    answer = output.checked(tools.vp_wait_mission(mission_id=mission_id, **timeout))
    if as_json:
        output.print_json(answer)
    elif answer["timed_out"]:
        click.echo(f"Still {answer['mission']['status']}; it goes on. Wait longer: vp wait {mission_id} --timeout 3600")
    else:
        from vp_queue.cli import showing

        showing.show_mission(answer["mission"], brief=True)
    return output.outcome_code(answer["mission"], answer["timed_out"])


def _waited(mission_id: str, timeout: dict[str, float]) -> float:
    """Show progress where the terminal can; returns how long is left to wait."""
    from vp_queue.cli import following, hints

    mission = output.checked(tools.vp_get_mission(mission_id=mission_id, events_limit=0))["mission"]
    seconds = timeout.get("timeout_seconds", WAIT_SECONDS)
    if not mission["terminal"] and output.can_redraw():
        following.show_progress(mission_id, seconds)
        return 0
    why = hints.why_it_waits(mission)
    if why:
        click.echo(f"Hint: {output.clean(why)}", err=True)
    return seconds


@click.command("cancel")
@click.argument("mission_id", required=False, shell_complete=completing.missions("queued", "running", "needs_input"))
@click.option("--reason", help="Why; stands in the event.")
@matching
@output.json_option
def cancel_command(mission_id: str | None, reason: str | None, as_json: bool, **chosen: Any) -> None:
    """Cancel a mission, or all that match.

    A queued one ends at once; a running one when its program is proved dead (`vp wait` says when).

    \b
    Examples:
      vp cancel m-0mdq3v8k2f-7x0k3w9c2h1 --reason "no longer needed"
      vp cancel --all --vp vp.coder.primary --status queued
    """
    if not is_one(mission_id, chosen):
        from vp_queue.cli import bulk

        bulk.cancel(chosen, reason, as_json)
        return
    answer = output.checked(tools.vp_cancel_mission(mission_id=mission_id, **given(reason=reason)))
    if as_json:
        output.print_json(answer)
        return
    mission = answer["mission"]
    if not answer["changed"]:
        ending = "" if mission["terminal"] else f", and its end is on the way: vp wait {mission['mission_id']}"
        click.echo(f"Nothing changed: {mission['mission_id']} is {mission['status']}{ending}.")
    elif mission["terminal"]:
        click.echo(f"{mission['mission_id']} is {mission['status']}.")
    else:
        click.echo(f"Cancel requested; its program is being ended. Follow: vp wait {mission['mission_id']}")


@click.command("retry")
@click.argument("mission_id", required=False, shell_complete=completing.missions("failed", "cancelled", "expired"))
@click.option("--guidance", help="What to do differently; stands in the new briefing.")
@click.option("--key", help="Idempotency key: repeating this command makes no second mission.")
@matching
@output.json_option
def retry_command(mission_id: str | None, guidance: str | None, key: str | None, as_json: bool, **chosen: Any) -> None:
    """Dispatch an ended mission again, or all that match.

    A new mission with the same objective, constraints, budget and priority; only failed, cancelled and
    expired ones, and with --all only those that were not retried yet.

    \b
    Examples:
      vp retry m-0mdq3v8k2f-7x0k3w9c2h1 --guidance "Use the other API"
      vp retry --all --status failed --since 2h
    """
    if not is_one(mission_id, chosen):
        from vp_queue.cli import bulk

        bulk.retry(chosen, guidance, key, as_json)
        return
    answer = output.checked(
        tools.vp_retry_mission(mission_id=mission_id, **given(guidance=guidance, idempotency_key=key))
    )
    if as_json:
        output.print_json(answer)
        return
    new = answer["mission"]["mission_id"]
    click.echo(f"Dispatched {new}." if answer["created"] else f"This key was used already: {new}.")
    click.echo(f"Follow: vp wait {new}")
