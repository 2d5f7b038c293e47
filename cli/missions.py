"""get, list, wait, cancel, retry."""

from __future__ import annotations

from typing import Any

import click

from vp_queue import tools
from vp_queue.cli import output
from vp_queue.cli.options import given
from vp_queue.contracts import Status


@click.command("get")
@click.argument("mission_id")
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
    show_mission(answer["mission"])
    if answer["attempts"]:
        click.echo()
        output.table(
            ("attempt", "outcome", "started", "exit", "cpu", "workspace"),
            (
                (a["number"], a["outcome"], output.instant(a["started_at"]), ended(a), cpu(a), a["workspace"] or "–")
                for a in answer["attempts"]
            ),
            last_column_folds=True,
        )
    if answer["events"]:
        click.echo()
        show_events(answer["events"])


@click.command("list")
@click.option("--vp", "vp_id", help="Only this VP's.")
@click.option("--status", multiple=True, type=click.Choice([str(s) for s in Status]), help="Only these; repeatable.")
@click.option("--session", help="Only of this source session.")
@click.option("--limit", type=int, help="How many at most (50).")
@click.option("--cursor", help="next_cursor of the page before.")
@output.json_option
def list_command(
    vp_id: str | None,
    status: tuple[str, ...],
    session: str | None,
    limit: int | None,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List missions, newest first.

    \b
    Example:
      vp list --vp vp.coder.primary --status queued --status running
    """
    answer = output.checked(
        tools.vp_list_missions(
            **given(vp_id=vp_id, status=list(status) or None, source_session_id=session, limit=limit, cursor=cursor)
        )
    )
    if as_json:
        output.print_json(answer)
        return
    if answer["missions"]:
        output.table(
            ("mission", "VP", "status", "age", "objective"),
            (
                (m["mission_id"], m["vp_id"], m["status"], output.age(m["created_at"]), m["objective"])
                for m in answer["missions"]
            ),
        )
    else:
        click.echo('No missions. Dispatch one: vp dispatch vp.general.primary "…"')
    click.echo(" · ".join(f"{status}: {count}" for status, count in answer["counts"].items() if count))
    if answer["next_cursor"]:
        click.echo(f"More: --cursor {answer['next_cursor']}")


@click.command("wait")
@click.argument("mission_id")
@click.option("--timeout", "timeout_seconds", type=float, help="Seconds to wait at most (45; up to 3600).")
@output.json_option
def wait_command(mission_id: str, timeout_seconds: float | None, as_json: bool) -> int:
    """Wait until a mission ends.

    Returns early if it needs input. Exit code 0 if it completed, 1 if it did not, 5 if the time was up.

    \b
    Example:
      vp wait m-0mdq3v8k2f-7x0k3w9c2h1 --timeout 600
    """
    answer = output.checked(tools.vp_wait_mission(mission_id=mission_id, **given(timeout_seconds=timeout_seconds)))
    if as_json:
        output.print_json(answer)
    elif answer["timed_out"]:
        click.echo(
            f"Still {answer['mission']['status']}. Wait again, or follow: vp events --follow --mission {mission_id}"
        )
    else:
        show_mission(answer["mission"])
    return outcome_code(answer["mission"], answer["timed_out"])


@click.command("cancel")
@click.argument("mission_id")
@click.option("--reason", help="Why; stands in the event.")
@output.json_option
def cancel_command(mission_id: str, reason: str | None, as_json: bool) -> None:
    """Cancel a mission.

    A queued one ends at once; a running one when its program is proved dead (`vp wait` says when).

    \b
    Example:
      vp cancel m-0mdq3v8k2f-7x0k3w9c2h1 --reason "no longer needed"
    """
    answer = output.checked(tools.vp_cancel_mission(mission_id=mission_id, **given(reason=reason)))
    if as_json:
        output.print_json(answer)
        return
    mission = answer["mission"]
    if not answer["changed"]:
        click.echo(f"Nothing changed: {mission['mission_id']} is {mission['status']}.")
    elif mission["terminal"]:
        click.echo(f"{mission['mission_id']} is {mission['status']}.")
    else:
        click.echo(f"Cancel requested; its program is being ended. Follow: vp wait {mission['mission_id']}")


@click.command("retry")
@click.argument("mission_id")
@click.option("--guidance", help="What to do differently; stands in the new briefing.")
@click.option("--key", help="Idempotency key: repeating this command makes no second mission.")
@output.json_option
def retry_command(mission_id: str, guidance: str | None, key: str | None, as_json: bool) -> None:
    """Dispatch an ended mission again.

    A new mission with the same objective, constraints, budget and priority; only failed, cancelled and
    expired ones.

    \b
    Example:
      vp retry m-0mdq3v8k2f-7x0k3w9c2h1 --guidance "Use the other API"
    """
    answer = output.checked(
        tools.vp_retry_mission(mission_id=mission_id, **given(guidance=guidance, idempotency_key=key))
    )
    if as_json:
        output.print_json(answer)
        return
    new = answer["mission"]["mission_id"]
    click.echo(f"Dispatched {new}." if answer["created"] else f"This key was used already: {new}.")
    click.echo(f"Follow: vp wait {new}")


def outcome_code(mission: dict[str, Any], timed_out: bool) -> int:
    """The exit code of waiting for a mission."""
    if timed_out:
        return output.WAIT_TIMED_OUT
    return 0 if mission["status"] == Status.COMPLETED else output.NOT_COMPLETED


def show_mission(mission: dict[str, Any]) -> None:
    """A mission for people."""
    progress, failure, usage = mission["progress"], mission["failure"], mission["usage"]
    output.fields(
        [
            ("mission", mission["mission_id"]),
            ("VP", mission["vp_id"]),
            ("status", mission["status"]),
            ("", "cancel requested" if mission["cancel_requested"] and not mission["terminal"] else None),
            ("", "stalled: no output or progress for a while" if mission["stalled"] else None),
            ("objective", mission["objective"]),
            ("attempt", _attempt_line(mission)),
            ("created", output.instant(mission["created_at"])),
            ("not before", mission["not_before"] and output.instant(mission["not_before"])),
            ("expires", mission["expires_at"] and output.instant(mission["expires_at"])),
            ("duration", output.duration(mission["duration_seconds"]) if mission["started_at"] else None),
            ("progress", progress and progress_text(progress)),
            ("question", mission["question"] and mission["question"]["question"]),
            ("result", mission["result"]),
            ("failure", failure and f"{failure['code']}: {failure['message']}"),
            ("log", failure and failure["log_tail"]),
            ("usage", usage and ", ".join(f"{name} {value}" for name, value in usage.items() if value is not None)),
            ("retry of", mission["retry_of"]),
        ]
    )


def _attempt_line(mission: dict[str, Any]) -> str | None:
    """Which attempt it is; a released one is not charged, so the number may pass ``max_attempts``."""
    if not mission["attempt"]:
        return None
    return f"{mission['attempt']} ({mission['attempts_charged']} of {mission['max_attempts']} charged)"


def show_events(events: list[dict[str, Any]]) -> None:
    """Events for people."""
    output.table(
        ("at", "event", ""),
        ((output.instant(e["at"]), e["type"], event_text(e)) for e in events),
    )


def event_text(event: dict[str, Any]) -> str:
    """What an event's data says, in short."""
    data = event["data"]
    if event["type"] == "mission.progress":
        return progress_text(data)
    told = {name: value for name, value in data.items() if value not in (None, "", [], {})}
    failure = told.pop("failure", None)
    words = [f"{failure['code']}: {failure['message']}"] if isinstance(failure, dict) else []
    return ", ".join(words + [f"{name}={_short(value)}" for name, value in told.items()])


def _short(value: object) -> str:
    """A value of an event in a line for people; lists by their length."""
    return f"{len(value)} entries" if isinstance(value, list | dict) else str(value)


def progress_text(progress: dict[str, Any]) -> str:
    """``40 % message``."""
    fraction = progress.get("fraction")
    parts = (f"{fraction:.0%}" if fraction is not None else "", progress.get("message") or "")
    return " ".join(part for part in parts if part)


def ended(attempt: dict[str, Any]) -> str:
    """An attempt's exit code or signal."""
    if attempt["signal"] is not None:
        return f"signal {attempt['signal']}"
    return "–" if attempt["exit_code"] is None else str(attempt["exit_code"])


def cpu(attempt: dict[str, Any]) -> str:
    """An attempt's CPU time."""
    return output.duration(attempt["cpu_seconds"])
