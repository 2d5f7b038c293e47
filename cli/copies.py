"""backup, restore."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

from vp_queue import config
from vp_queue.cli import output, tables
from vp_queue.operations import copies


@click.command("backup")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@output.json_option
def backup_command(file: Path, force: bool, as_json: bool) -> None:
    """Copy the ledger to one file, while everything runs.

    FILE is there only when it is complete, checked and on the disk. It holds missions, events and the queue;
    workspaces and vp_queue.toml are copied by other means.

    \b
    Example:
      vp backup ~/vp-2026-11-25.db
    """
    _end_tidily_on_sigterm()
    answer = copies.backup(config.load(), file, force)
    if as_json:
        output.print_json(answer)
        return
    tables.fields([("backup", answer["file"]), ("size", output.size(answer["size_bytes"])), *_contents(answer)])


@click.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Even though processes have the ledger open.")
@output.json_option
def restore_command(file: Path, force: bool, as_json: bool) -> None:
    """Put a backup in the ledger's place.

    Stop everything first (vp down). The old ledger, however broken, is kept beside it. What happened since the
    backup was made is forgotten: missions that ran then run again, if their max_attempts allows.

    \b
    Example:
      vp restore ~/vp-2026-11-25.db
    """
    _end_tidily_on_sigterm()
    answer = copies.restore(config.load(), file, force)
    if as_json:
        output.print_json(answer)
        return
    rows = [("restored", answer["ledger"]), ("from", answer["file"]), *_contents(answer)]
    moved = f"{len(answer['moved'])} folders of later attempts" if answer["moved"] else None
    migrated = ", ".join(answer["applied"]) or None
    tables.fields([*rows, ("migrated", migrated), ("kept", answer["kept"]), ("moved", moved)])
    click.echo("\nNext: vp up --detach")


def _contents(answer: dict[str, Any]) -> list[tuple[str, Any]]:
    newest = answer["newest_event"]
    told = f"{newest['seq']}, {newest['type']} at {output.instant(newest['at'])}" if newest else "none"
    return [("missions", answer["missions"]), ("newest event", told)]


def _end_tidily_on_sigterm() -> None:
    """As Ctrl-C does: the half-written copy goes, where Python's default would leave it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
