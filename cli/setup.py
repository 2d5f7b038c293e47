"""init, migrate, doctor, schema, completion."""

from __future__ import annotations

import click

from vp_queue.cli import completing, output

MARKS = {True: "✓", None: "!", False: "✗"}


@click.command("init")
@click.option("--new-ledger", is_flag=True, help="Make an empty ledger where one was removed.")
@output.json_option
def init_command(new_ledger: bool, as_json: bool) -> None:
    """Set up VP_HOME: configuration, token, ledger.

    What exists already is left as it is, so it may be repeated. A ledger that was there and is gone is not
    replaced by an empty one unless you say so: see vp restore.

    \b
    Example:
      VP_HOME=~/vp vp init
    """
    from vp_queue import config
    from vp_queue.operations import installation

    answer = installation.init(config.load(), new_ledger=new_ledger)
    if as_json:
        output.print_json(answer)
        return
    made = answer["created"]
    for name in ("configuration", "token", "ledger"):
        click.echo(f"{'made' if name in made else 'kept':<5} {name:<14} {answer[name]}")
    click.echo("\nNext:")
    click.echo("  in vp_queue.toml, give each VP its program")
    click.echo("  vp doctor         see what each VP still needs")
    click.echo("  vp up --detach    start the keeper and the consumers")
    click.echo('  vp dispatch vp.general.primary "…" --wait')


@click.command("migrate")
@output.json_option
def migrate_command(as_json: bool) -> None:
    """Bring the ledger to this version's schema.

    Every command does so on first use; this does nothing else, for an upgrade step by step.

    \b
    Example:
      vp migrate
    """
    from vp_queue import config
    from vp_queue.operations import installation

    answer = installation.migrate(config.load())
    if as_json:
        output.print_json(answer)
    elif answer["applied"]:
        click.echo(f"Applied {', '.join(answer['applied'])} to {answer['ledger']}.")
    else:
        click.echo(f"{answer['ledger']} is up to date.")


@click.command("doctor")
@output.json_option
def doctor_command(as_json: bool) -> int:
    """Check the installation and say what to do.

    Looks only. Exit code 1 if something will not work (✗); warnings (!) do not count.

    \b
    Example:
      vp doctor
    """
    from vp_queue import config
    from vp_queue.cli import tables
    from vp_queue.operations import doctor, supervision

    settings = config.load()
    checks = doctor.examine(settings, supervision.report(settings))
    failed = any(check["ok"] is False for check in checks)
    if as_json:
        output.print_json({"ok": not failed, "checks": checks})
    else:
        rows = ((MARKS[c["ok"]], c["name"], c["detail"] + (f"\n→ {c['fix']}" if c["fix"] else "")) for c in checks)
        tables.table(("", tables.Column("check", least=20, folds=True), "finding"), rows, last_column_folds=True)
    return 1 if failed else 0


@click.command("schema")
@click.argument("tool", required=False, shell_complete=completing.tool_names)
@output.json_option
def schema_command(tool: str | None, as_json: bool) -> None:
    """Print the JSON Schemas of a tool.

    Of its arguments, its answer and an error. Without TOOL, lists the tools.

    \b
    Example:
      vp schema vp_dispatch_mission
    """
    import json

    from vp_queue import tools
    from vp_queue.cli import tables

    if tool is None:
        listed = [{"tool": d.name, "description": d.description} for d in tools.DEFINITIONS.values()]
        if as_json:
            output.print_json({"ok": True, "tools": listed})
        else:
            tables.table(
                ("tool", "description"), ((t["tool"], t["description"]) for t in listed), last_column_folds=True
            )
    elif as_json:
        output.print_json({"ok": True, **tools.schema(tool)})
    else:
        click.echo(json.dumps(tools.schema(tool), indent=2))


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@output.json_option
def completion_command(shell: str, as_json: bool) -> None:
    """Print the shell's completion script.

    It completes commands, options, VPs, missions, artifacts and statuses. bash needs version 4.4.

    \b
    To have it in every new shell:
      bash  echo 'eval "$(vp completion bash)"' >> ~/.bashrc
      zsh   echo 'eval "$(vp completion zsh)"' >> ~/.zshrc   (after compinit)
      fish  vp completion fish > ~/.config/fish/completions/vp.fish

    \b
    Example, for this shell only:
      eval "$(vp completion bash)"
    """
    from click.shell_completion import get_completion_class

    from vp_queue.cli.main import vp

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click knows no completion for {shell}.")
    script = kind(vp, {}, "vp", "_VP_COMPLETE").source()
    if as_json:
        output.print_json({"ok": True, "shell": shell, "script": script})
    else:
        click.echo(script)
