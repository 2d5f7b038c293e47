"""up, down, status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vp_queue import config
from vp_queue.cli import completing, hints, options, output, tables
from vp_queue.cli.fleet import heartbeat, show_vps, tell_running
from vp_queue.cli.output import disk_line
from vp_queue.config_web import Web
from vp_queue.contracts import limits
from vp_queue.operations import installation, supervision


@click.command("up")
@click.option("--detach", is_flag=True, help="Return when everything runs, and leave it running.")
@output.json_option
def up_command(detach: bool, as_json: bool) -> None:
    """Start the keeper and a consumer per VP under supervisord.

    In the foreground, Ctrl-C stops everything in order. If supervisord runs already, this brings it up to
    date with vp_queue.toml (VPs added, removed, disabled), starts what stopped, and says what changed. A
    consumer that runs keeps the profile it started with.

    \b
    Example:
      vp up --detach
    """
    if as_json and not detach:
        raise click.UsageError("--json needs --detach: in the foreground supervisord's log is what is printed.")
    settings = config.load()
    answer = supervision.up(settings, detach)
    if as_json:
        output.print_json({"ok": True, **answer})
        return
    how = "started" if answer["started"] else "runs already"
    click.echo(f"supervisord {how} (pid {answer['supervisord']['pid']}).")
    for what, names in answer["changes"].items():
        if names:
            click.echo(f"{what}: {', '.join(names)}")
    if not answer["started"] and not any(answer["changes"].values()):
        click.echo("Nothing had changed.")
    _show_programs(answer["programs"])
    dashboard = _dashboard(settings.web, answer["programs"])
    if dashboard:
        click.echo(f"Dashboard: {output.line(dashboard, 400)}")


@click.command("down")
@output.json_option
def down_command(as_json: bool) -> None:
    """Stop everything that `vp up` started.

    Running missions are released: their programs are ended, and they run again after the next `vp up`.

    \b
    Example:
      vp down
    """
    answer = supervision.down(config.load())
    if as_json:
        output.print_json({"ok": True, **answer})
    elif answer["was_running"]:
        click.echo(f"Stopped supervisord and {', '.join(answer['stopped']) or 'no programs'}.")
    else:
        click.echo("supervisord is not running.")


@click.command("restart")
@click.argument("vp_id", shell_complete=completing.vps)
@click.option(
    "--timeout",
    type=options.Seconds(limits.DURATION_SECONDS),
    default=3_600.0,
    show_default=True,
    help="Wait so many seconds for its missions; 0 releases them, and they run again.",
)
@output.json_option
def restart_command(vp_id: str, timeout: float, as_json: bool) -> int:
    """Restart a VP's consumer when its missions have ended.

    For new code or a changed profile: it drains the VP, restarts its consumer under supervisord, and lets it
    take missions again. If missions still run when the time is up (exit code 5), or at Ctrl-C, it goes on as
    before.

    \b
    Example:
      vp restart vp.coder.primary
    """
    from vp_queue.operations import restarting

    answer = restarting.restart(config.load(), vp_id, timeout, lambda vp: None if as_json else tell_running(vp.dump()))
    if as_json:
        output.print_json(answer)
    elif answer["restarted"]:
        still = answer["vp"]["draining"] or answer["vp"]["paused"]
        click.echo(f"{vp_id} was restarted." + (f" It is still on hold: vp resume {vp_id}" if still else ""))
    else:
        click.echo(f"{vp_id} was not restarted: its missions still run. It goes on as before.")
    return 0 if answer["restarted"] else output.WAIT_TIMED_OUT


@click.command("status")
@output.json_option
def status_command(as_json: bool) -> None:
    """Show supervisord's programs, VPs, keeper and ledger.

    \b
    Example:
      vp status --json
    """
    settings = config.load()
    answer = installation.status(settings, supervision.report(settings))
    if as_json:
        output.print_json(answer)
        return
    daemon, ledger = answer["supervisord"], answer["ledger"]
    running = f"{daemon['state']}, pid {daemon['pid']}" if daemon else "not running (start it: vp up --detach)"
    keeper = f"last heartbeat {heartbeat(answer['keepers'])}" if answer["keepers"] else "none running"
    tables.fields(
        [
            ("supervisord", running),
            ("keeper", keeper),
            ("ledger", ledger["path"] + ("" if ledger["exists"] else " (not there yet: vp init)")),
            ("", ledger["error"] and ledger["error"]["message"]),
            *(("disk", disk_line(disk)) for disk in answer["disks"]),
            ("notify", _untold(answer["notifications"])),
            ("dashboard", _dashboard(settings.web, answer["programs"])),
            ("configuration", hints.not_set_up()),
        ]
    )
    if answer["programs"]:
        click.echo()
        _show_programs(answer["programs"])
    if answer["vps"]:
        click.echo()
        show_vps(answer["vps"])


def _dashboard(web: Web, programs: list[dict[str, Any]]) -> str | None:
    """Where it is, or why it is not, as far as supervisord runs it."""
    program = next((each for each in programs if each["name"] == "web"), None)
    if program is None:
        return None
    if program["state"] != "RUNNING":
        return f"down: {program['detail']}"
    host = f"[{web.host}]" if ":" in web.host else web.host
    return f"http://{host}:{web.port}/" if web.port else f"its address stands in {program['log']}"


def _untold(sinks: list[dict[str, Any]]) -> str | None:
    """What waits to be told or was given up, if anything."""
    waiting, dead = (sum(sink[name] for sink in sinks) for name in ("pending", "dead"))
    return f"{waiting:,} waiting to be told, {dead:,} given up (vp notify list)" if waiting or dead else None


def _show_programs(programs: list[dict[str, Any]]) -> None:
    tables.table(
        ("program", "state", "pid", "uptime", "detail"),
        ((p["name"], p["state"], p["pid"] or "–", output.duration(p["uptime_seconds"]), _detail(p)) for p in programs),
        last_column_folds=True,
    )
    for folder in sorted({str(Path(p["log"]).parent) for p in programs}):
        click.echo(f"Logs: {output.line(folder, 4_096)}/<program>.log")


def _detail(program: dict[str, Any]) -> str:
    """What supervisord says of a program that does not simply run."""
    return "" if program["state"] == "RUNNING" else program["detail"] or ""
