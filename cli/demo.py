"""demo: the whole of vp-queue in half a minute, in a temporary folder."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from vp_queue.cli import output
from vp_queue.cli.showing import event_text
from vp_queue.operations import demo, local_model
from vp_queue.operations.demo import Demonstration

REFRESH_SECONDS: Final = 0.25
QUIET_SLICE_SECONDS: Final = 1.0
SHOWN_LINES: Final = 24
SIGNALLED: Final = 128

INTRODUCTION: Final = """\
vp-queue: durable delegation of missions to agents.

An orchestrating agent hands long work to VPs, agents with a queue of their
own. Here it is for real, in a temporary folder: supervisord runs a keeper and
a consumer per VP; two missions are dispatched through the tools an agent has,
carried out side by side, and their results are read back.

  vp.general.primary  writes a poem with a small local model
                      (a demonstration model, not to be trusted with work)
  vp.coder.primary    writes tested code in a git repository
                      (a script stands in for a coding agent)
"""
NEXT: Final = """\
What to try next:
{activation}
  vp init                      an installation of your own; it says where
  vp up --detach               start it
  vp dispatch vp.general.primary "Write a poem about tea" --wait
  vp list, vp get ID, vp artifacts ID, vp events --follow
  vp down                      stop it

To give a VP your own agent, a program or an OpenAI-compatible endpoint, edit
vp_queue.toml: it explains every key, and `vp doctor` says what is missing.
`vp --help` lists the commands."""


@click.command("demo")
@click.option("--keep", is_flag=True, help="Leave the temporary folder, with ledger, logs and workspaces.")
@click.option("--fetch", is_flag=True, help="Install the demonstration model first, if it is missing.")
@output.json_option
def demo_command(keep: bool, fetch: bool, as_json: bool) -> int:
    """Show the whole of it, in a temporary folder.

    Two missions, carried out under supervisord, in about ten seconds. Wants git, pytest, and the demonstration
    model (vp model fetch). Your own VP_HOME is not touched, and everything is stopped at the end; Ctrl-C stops
    it earlier.

    \b
    Example:
      vp demo --fetch
    """
    say = (lambda *_: None) if as_json else click.echo
    if fetch:
        local_model.fetch(quiet=as_json)
    say(INTRODUCTION)
    try:
        with demo.demonstration(keep=keep) as shown:
            document = _shown(shown, say, as_json)
            say("\nStopping everything …")
    except demo.Interrupted as interrupted:
        click.echo("Stopped, nothing is left running.", err=True)
        return SIGNALLED + interrupted.number
    completed = all(mission["status"] == "completed" for mission in document["missions"])
    if as_json:
        output.print_json({"ok": True, **document, "folder": str(shown.folder) if keep else None})
        return 0 if completed else output.NOT_COMPLETED
    say("Everything is stopped" + (f"; the folder is {shown.folder}" if keep else ", and the folder is gone."))
    say(
        f"\n{NEXT.format(activation=_activation())}"
        if completed
        else "\nA mission did not complete; its reason stands above. See also: vp doctor"
    )
    return 0 if completed else output.NOT_COMPLETED


def _activation() -> str:
    """The line that makes the shell find this ``vp``, if it does not; with a line break at each end."""
    here = Path(sys.executable).parent
    found = shutil.which("vp")
    if found is not None and Path(found).parent.resolve() == here.resolve():
        return ""
    folder = shlex.quote(str(here))
    command = f". {folder}/activate" if (here / "activate").is_file() else f"PATH={folder}:$PATH"
    return f"\n  {command:<28} so that this shell finds vp"


def _shown(shown: Demonstration, say: Callable[..., Any], as_json: bool) -> dict[str, Any]:
    say(f"Starting supervisord, keeper and consumers in {shown.folder} …")
    running = shown.start()
    say(f"supervisord started (pid {running['supervisord']['pid']}) with {len(running['programs'])} programs.\n")
    shown.dispatch()
    for vp_id, mission_id in shown.missions.items():
        say(f"Dispatched {mission_id} to {vp_id}.")
    _follow(shown, say, as_json)
    results = {vp_id: (shown.mission(vp_id), shown.artifacts(vp_id)) for vp_id in shown.missions}
    for vp_id, (mission, artifacts) in results.items():
        say()
        _show_result(vp_id, mission, artifacts, say)
    return {
        "missions": [mission for mission, _ in results.values()],
        "artifacts": {vp_id: artifacts for vp_id, (_, artifacts) in results.items()},
    }


# --- progress -----------------------------------------------------------------------------------


def _follow(shown: Demonstration, say: Callable[..., Any], as_json: bool) -> None:
    if as_json or not sys.stdout.isatty():
        for events in shown.follow(QUIET_SLICE_SECONDS):
            for event in events:
                told = event.dump()
                say(output.line(f"{output.instant(told['at'])} {event.vp_id} {event.type} {event_text(told)}"))
        return
    with _status_lines() as show:
        for _ in shown.follow(REFRESH_SECONDS):
            show([_status(shown.mission(vp_id)) for vp_id in shown.missions])


def _status(mission: dict[str, Any]) -> str:
    said = (mission["progress"] or {}).get("message") or ""
    took = output.duration(mission["duration_seconds"])
    return f"{mission['vp_id']:<20}{mission['status']:<11}{took:>6}  {output.line(said)}"


@contextlib.contextmanager
def _status_lines() -> Iterator[Callable[[list[str]], None]]:
    """One line of the terminal per mission, written over."""
    from rich.live import Live
    from rich.text import Text

    console = output.console()

    def as_text(lines: list[str]) -> Text:
        return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")

    with Live(console=console, auto_refresh=False) as live:
        yield lambda lines: live.update(as_text(lines), refresh=True)


# --- results ------------------------------------------------------------------------------------


def _show_result(vp_id: str, mission: dict[str, Any], artifacts: dict[str, str], say: Callable[..., Any]) -> None:
    took = output.duration(mission["duration_seconds"])
    say(f"{vp_id}: {mission['status']} in {took}")
    if mission["failure"]:
        say(f"  {mission['failure']['code']}: {output.clean(mission['failure']['message'])}")
        say(_indented(output.clean(mission["failure"]["log_tail"] or "")))
        return
    told = output.clean(mission["result"] or "").splitlines()
    say(_indented("\n".join(line for line in told if not any(line in text for text in artifacts.values()))))
    for path, text in sorted(artifacts.items()):
        if path == "report.xml":
            say(f"\n  {path}: {demo.tests_told(text)}")
        else:
            lines = output.clean(text).splitlines()
            more = len(lines) - SHOWN_LINES
            say(f"\n  {path}")
            say(_indented("\n".join(lines[:SHOWN_LINES]), "  | "))
            if more > 0:
                say(f"  | … {more} more lines")


def _indented(text: str, by: str = "  ") -> str:
    """The text with something before each line; lines too long for the terminal are broken between words."""
    width = max(40, output.console().width - len(by))
    lines = [part for line in text.strip().splitlines() for part in textwrap.wrap(line, width) or [""]]
    return "\n".join(by + line for line in lines)
