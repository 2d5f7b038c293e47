"""dispatch, with live progress while it waits."""

from __future__ import annotations

import sys
from typing import Any

import click

from vp_queue import tools
from vp_queue.cli import completing, following, hints, output
from vp_queue.cli.options import UNTIL_IT_ENDS, JsonObject, SecondsOrForEver, given, pairs
from vp_queue.cli.showing import show_mission
from vp_queue.contracts import limits


class DispatchCommand(click.Command):
    """Lets ``--wait`` go without a value anywhere, not only at the end; knows what is most often mistyped."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for index, (arg, after) in enumerate(zip(args, [*args[1:], ""], strict=False)):
            if arg == "--":
                break
            if arg == "--wait" and not after.replace(".", "", 1).isdecimal():
                args[index] = f"--wait={UNTIL_IT_ENDS}"
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if "extra argument" not in error.message:
                raise
            ctx.fail(f'{error.message}. An objective of several words is quoted: vp dispatch VP_ID "Write a poem"')


@click.command("dispatch", cls=DispatchCommand)
@click.argument("vp_id", shell_complete=completing.vps)
@click.argument("objective")
@click.option(
    "--type",
    "mission_type",
    shell_complete=completing.mission_types,
    help='"task" (the default), or "command" with constraints.command.',
)
@click.option(
    "--constraints",
    type=JsonObject('{"require_artifacts": ["*.md"]}'),
    help="JSON object or @file, e.g. target_path, command, files.",
)
@click.option(
    "--budget",
    type=JsonObject('{"max_duration_seconds": 600}'),
    help="JSON object or @file, e.g. max_duration_seconds, max_cost_usd.",
)
@click.option("--key", help="Idempotency key: repeating this command makes no second mission.")
@click.option("--priority", type=int, help="-100 to 100, higher runs first (0).")
@click.option("--not-before", metavar="TIME", help="Do not start before, e.g. 2026-11-22T10:00:00Z.")
@click.option("--expires-at", metavar="TIME", help="Expire if not started by then.")
@click.option("--max-attempts", type=int, help="1 to 10; a rerun repeats side effects (1).")
@click.option("--session", help="Your session, to filter lists and events by.")
@click.option("--metadata", multiple=True, metavar="KEY=VALUE", callback=pairs, help="Kept with it; repeatable.")
@click.option(
    "--wait",
    type=SecondsOrForEver(limits.DURATION_SECONDS),
    is_flag=False,
    flag_value=UNTIL_IT_ENDS,
    metavar="[SECONDS]",
    help="Wait for the end, with progress.",
)
@output.json_option
def dispatch_command(
    vp_id: str,
    objective: str,
    key: str | None,
    session: str | None,
    wait: float | None,
    as_json: bool,
    **others: Any,
) -> int:
    """Delegate a mission to a VP.

    OBJECTIVE "-" reads it from standard input. Without --wait this returns at once. With --wait the exit
    code is 0 if it completed, 1 if it did not, 5 if the time was up; Ctrl-C leaves the mission running.

    \b
    Examples:
      vp dispatch vp.general.primary "Summarise today's news" --wait
      vp dispatch vp.coder.primary - --budget '{"max_turns": 50}' < task.md
      vp dispatch vp.coder.primary Tests --type command --constraints @tests.json
    """
    if objective == "-":
        objective = _from_stdin()
    answer = output.checked(
        tools.vp_dispatch_mission(
            vp_id=vp_id, objective=objective, **given(idempotency_key=key, source_session_id=session, **others)
        )
    )
    mission_id = answer["mission"]["mission_id"]
    if wait is None:
        if as_json:
            output.print_json(answer)
        else:
            click.echo(_acknowledged(answer))
            click.echo(f"Follow: vp wait {mission_id}")
            _remark(answer["mission"])
        return 0
    try:
        return _wait(answer, wait, as_json)
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"\n{mission_id} goes on.\nFollow: vp wait {mission_id}\nCancel: vp cancel {mission_id}", err=True)
        return 130


def _from_stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise click.BadParameter("standard input is not UTF-8 text; convert it first", param_hint="OBJECTIVE") from None


def _remark(mission: dict[str, Any]) -> None:
    """What may keep it waiting, for somebody who is not going to look."""
    for why in (hints.why_it_waits(mission), hints.not_set_up()):
        if why:
            click.echo(f"Hint: {output.clean(why)}", err=True)


def _acknowledged(answer: dict[str, Any]) -> str:
    mission = answer["mission"]
    if answer["created"]:
        return f"Dispatched {mission['mission_id']} to {mission['vp_id']}."
    return f"This key was dispatched before: {mission['mission_id']} is {mission['status']}."


def _wait(answer: dict[str, Any], seconds: float, as_json: bool) -> int:
    mission_id = answer["mission"]["mission_id"]
    if as_json:
        following.wait_silently(mission_id, seconds)
    else:
        click.echo(_acknowledged(answer))
        following.show_progress(mission_id, seconds)
    final = output.checked(tools.vp_wait_mission(mission_id=mission_id, timeout_seconds=0))
    mission = final["mission"]
    if as_json:
        output.print_json({**answer, "mission": mission, "timed_out": final["timed_out"]})
    elif final["timed_out"]:
        click.echo(f"Still {mission['status']}; it goes on. Follow: vp wait {mission_id}")
    else:
        show_mission(mission, brief=True)
        _name_artifacts(mission_id)
    return output.outcome_code(mission, final["timed_out"])


def _name_artifacts(mission_id: str) -> None:
    answer = output.checked(tools.vp_read_result_artifacts(mission_id=mission_id, max_files=20, max_bytes=256))
    for artifact in answer["artifacts"]:
        click.echo(f"artifact  {output.line(artifact['path'])} ({output.size(artifact['size'])})")
    if answer["files_total"]:
        click.echo(f"Read: vp artifacts {mission_id} PATH")
        click.echo(f"Save: vp artifacts {mission_id} --save DIR")
