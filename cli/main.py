"""``vp``: the group of commands, and the one place where errors become messages and exit codes.

Commands are imported when they are used, so that ``vp --help`` and completion stay fast. Click runs
without its own error handling, because with ``--json`` an error too is one JSON document on stdout.
"""

from __future__ import annotations

import gc
import importlib
import io
import os
import pwd
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import click

from vp_queue import __version__, origin

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# name → (module, what it does in a line). The command itself is the module's attribute NAME_command.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "demo": ("demo", "Show the whole of it, in a temporary folder."),
    "init": ("setup", "Set up VP_HOME: configuration, token, ledger."),
    "up": ("services", "Start the keeper and a consumer per VP under supervisord."),
    "down": ("services", "Stop everything that `vp up` started."),
    "status": ("services", "Show supervisord's programs, VPs, keeper and ledger."),
    "doctor": ("setup", "Check the installation and say what to do."),
    "top": ("top", "Watch all VPs live: what runs, what waits for you."),
    "dispatch": ("dispatching", "Delegate a mission to a VP."),
    "get": ("missions", "Show one mission with its attempts and events."),
    "list": ("missions", "List missions, newest first."),
    "wait": ("missions", "Wait until a mission ends."),
    "cancel": ("missions", "Cancel a mission, or all that match."),
    "retry": ("missions", "Dispatch an ended mission again, or all that match."),
    "artifacts": ("artifacts", "List, show or save what a mission made."),
    "events": ("feed", "Show or follow the event feed."),
    "actions": ("actions", "Show who did what, through which face."),
    "logs": ("feed", "Show or follow what a mission's program prints."),
    "inbox": ("inbox", "Read a reader's inbox; as a hook, tell an agent of it."),
    "vps": ("fleet", "Show the VPs: queue depth, workers, availability."),
    "pause": ("fleet", "Take nothing more from a VP's queue."),
    "drain": ("fleet", "Let a VP finish what runs, and start nothing more."),
    "restart": ("services", "Restart a VP's consumer when its missions have ended."),
    "resume": ("fleet", "Take from a VP's queue again, after a pause or a drain."),
    "worker": ("fleet", "Run one VP's consumer in the foreground."),
    "serve": ("serve", "Serve the HTTP API and the dashboard."),
    "mcp": ("mcp", "Serve the tools to an agent host over MCP."),
    "keeper": ("fleet", "Run the keeper, which repairs, in the foreground."),
    "notify": ("notify", "Who is told of what happens, and what could not be told."),
    "skill": ("skill", "The skill that tells an agent how to delegate."),
    "prompt-rule": ("skill", "Print the rule for an agent's system prompt."),
    "usage": ("housekeeping", "Show what takes room: missions, workspaces, ledger, logs."),
    "prune": ("housekeeping", "Remove old missions now, with their workspaces."),
    "model": ("model", "The local demonstration model."),
    "backup": ("copies", "Copy the ledger to one file, while everything runs."),
    "restore": ("copies", "Put a backup in the ledger's place."),
    "migrate": ("setup", "Bring the ledger to this version's schema."),
    "schema": ("setup", "Print the JSON Schemas of a tool."),
    "completion": ("setup", "Print the shell's completion script."),
}
INTERRUPTED: Final = 130


class LazyGroup(click.Group):
    """Imports a command's module only when that command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = without_collecting(f"vp_queue.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of this name; a mistyped one is answered with what was probably meant."""
        name = args[0]
        if name in COMMANDS or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        import difflib

        near = ["--help"] if name == "help" else difflib.get_close_matches(name, COMMANDS, n=3, cutoff=0.5)
        meant = f" Did you mean: {', '.join(f'vp {each}' for each in near)}?" if near else ""
        ctx.fail(f"There is no command {name!r}.{meant}")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands of the table, without importing each; and the group's options."""
        from click.shell_completion import CompletionItem

        commands = [
            CompletionItem(name, help=line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; a reader that has what it wanted (`| head`) is no failure."""
        try:
            result: object = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return result

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def without_collecting(module: str) -> ModuleType:
    """Import a module. What it makes stays for good, so looking for garbage meanwhile, or later in that, is vain."""
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vp")
def vp() -> None:
    """Delegate long work to VPs (agents with a queue of their own), and watch over it.

    \b
    A first mission:
      vp init
      vp up --detach
      vp dispatch vp.general.primary "Write a poem about queues" --wait

    Every command takes --json (the tools' own JSON) and --help (with an example). Exit codes: 0 ok,
    1 the mission did not complete, 2 usage, 3 not found, 4 refused, 5 wait timed out, 70 internal
    error, 75 try again.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: runs a command and exits with its code."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows no "–" shows "?" in its place, and no traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run(args))


def run(args: list[str]) -> int:
    """Run a command; what went wrong is printed, as JSON on stdout where ``--json`` was asked for."""
    as_json = "--json" in (args[: args.index("--")] if "--" in args else args)
    if "_VP_COMPLETE" in os.environ:
        from vp_queue.cli import completing

        completing.prepare()
    try:
        with origin.acting("cli", _login_name()):
            code = vp.main(args=args, prog_name="vp", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        return _usage(error, as_json)
    except Exception as error:
        return _failed(error, as_json, args)


def _login_name() -> str:
    """Whose process this is; what variables say of it is not asked."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a user without an entry, as in many containers
        return f"uid {os.getuid()}"


def _usage(error: click.ClickException, as_json: bool) -> int:
    from vp_queue.cli import output
    from vp_queue.errors import ValidationError

    if not as_json:
        shown = io.StringIO()
        error.show(file=shown)
        click.echo(output.clean(shown.getvalue()), nl=False, err=True)
        return 2
    parameter = getattr(error, "param", None)
    field = getattr(parameter, "name", None)
    context = getattr(error, "ctx", None)
    message = error.format_message() + (f" See: {context.command_path} --help" if context else "")
    return output.failure(ValidationError(message, field=field).as_dict(), as_json=True)


def _failed(error: Exception, as_json: bool, args: Sequence[str]) -> int:
    from vp_queue.cli import output
    from vp_queue.errors import InternalError, VpError

    if isinstance(error, output.ToolFailed):
        document = error.error
    elif isinstance(error, VpError):
        document = error.as_dict()
    else:
        document = _unexpected(error, InternalError).as_dict()
    name = next((arg for arg in args if arg in COMMANDS), None)
    command = vp.get_command(click.Context(vp), name) if name and isinstance(vp, LazyGroup) else None
    return output.failure(document, as_json, command)


def _unexpected(error: Exception, kind: Any) -> Any:
    import logging

    from vp_queue import clock

    error_id = clock.new_token()[:12]
    logging.getLogger("vp_queue.cli").error("error id %s", error_id, exc_info=error)
    return kind(f"vp failed inside: {type(error).__name__}; the traceback has error id {error_id}.", error_id=error_id)


if __name__ == "__main__":
    main()
