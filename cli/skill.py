"""skill install, skill show, prompt-rule: what an agent is told about the tools."""

from __future__ import annotations

from pathlib import Path

import click

from vp_queue.cli import output


@click.group("skill")
def skill_command() -> None:
    """The skill that tells an agent how to delegate.

    \b
    Example:
      vp skill install
      vp skill show
    """


@skill_command.command("install")
@click.option(
    "--project",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Into this project instead of your home.",
)
@click.option("--force", is_flag=True, help="Replace copies that were changed, too.")
@output.json_option
def install_command(project: Path | None, force: bool, as_json: bool) -> None:
    """Put the skill where agents look for it.

    Into .claude/skills and .agents/skills of your home, or of a project. May be repeated: after an upgrade it
    brings the copies up to date. A copy that somebody changed is left alone, and so is what a link leads to
    outside.

    \b
    Example:
      vp skill install
      vp skill install --project .
    """
    from vp_queue.operations import skill

    base = project.absolute() if project is not None else skill.home()
    answer = skill.install(base, force=force)
    if as_json:
        output.print_json(answer)
        return
    for file in answer["files"]:
        click.echo(f"{file['done']:<8} {output.clean(file['path'])}")
    click.echo("\nNext:")
    click.echo("  vp prompt-rule    five lines for the agent's system prompt, or its AGENTS.md")
    click.echo("  vp mcp            the tools, for the agent's list of MCP servers: docs/mcp.md")
    click.echo("  start the agent anew: agents look for skills when they start")


@skill_command.command("show")
@output.json_option
def show_command(as_json: bool) -> None:
    """Print the skill.

    \b
    Example:
      vp skill show > SKILL.md
    """
    from vp_queue.operations import skill

    if as_json:
        output.print_json({"ok": True, "name": skill.NAME, "text": skill.text()})
    else:
        click.echo(skill.text(), nl=False)


@click.command("prompt-rule")
@output.json_option
def prompt_rule_command(as_json: bool) -> None:
    """Print the rule for an agent's system prompt.

    Five lines that say what the tools are for; the skill has the rest.

    \b
    Example:
      vp prompt-rule >> AGENTS.md
    """
    from vp_queue.prompt_rule import PROMPT_RULE

    if as_json:
        output.print_json({"ok": True, "rule": PROMPT_RULE})
    else:
        click.echo(PROMPT_RULE, nl=False)
