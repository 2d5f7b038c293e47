"""prune, usage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import click

from vp_queue import config
from vp_queue.cli import completing, options, output, tables
from vp_queue.cli.output import disk_line, size
from vp_queue.cli.tables import Column
from vp_queue.operations import housekeeping


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="Only say what would go; nothing is written.")
@click.option(
    "--older-than", type=options.Age(), help="Also what ended longer ago than this (12h, 30d), failed or not."
)
@click.option("--vp", "vp_id", metavar="VP_ID", shell_complete=completing.vps, help="One VP's missions only.")
@output.json_option
def prune_command(dry_run: bool, older_than: timedelta | None, vp_id: str | None, as_json: bool) -> None:
    """Remove old missions now, with their workspaces.

    What [retention] in vp_queue.toml no longer keeps; the keeper does the same once a minute. A mission stays
    that has not ended, that ended within the hour, or whose end a reader of the inbox has not acknowledged
    (for twice its age limit).

    \b
    Example:
      vp prune --dry-run
      vp prune --older-than 7d --vp vp.coder.primary
    """
    with _progress(enabled=not as_json and not dry_run and output.can_redraw()) as progress:
        answer = housekeeping.prune(
            config.load(), dry_run=dry_run, vp_id=vp_id, older_than=older_than, progress=progress
        )
    if as_json:
        output.print_json(answer)
    else:
        _show_pruned(answer)


@contextmanager
def _progress(*, enabled: bool) -> Iterator[Callable[[int, int], None]]:
    """A line that counts, and is gone at the end."""

    def show(missions: int, workspaces: int) -> None:
        if enabled:
            click.echo(f"\r\x1b[2K{missions:,} missions, {workspaces:,} workspaces removed …", nl=False)

    yield show
    if enabled:
        click.echo("\r\x1b[2K", nl=False)


def _show_pruned(answer: dict[str, Any]) -> None:
    groups = answer["groups"]
    if groups:
        rows = [(g["vp_id"], g["why"], f"{g['missions']:,}", size(g["bytes"])) for g in groups]
        if len(rows) > 1:
            rows.append(("total", "", f"{answer['missions_total']:,}", size(answer["bytes_total"])))
        heads = (Column("VP", least=18, folds=True), Column("why", least=18, folds=True), "missions", "workspaces")
        tables.table(heads, rows)
    click.echo(_conclusion(answer))
    held = answer["held"]
    if held["missions"]:
        click.echo(
            f"{held['missions']:,} more are old enough, but stay until the reader "
            f"{output.line(held['reader'], 100)} acknowledges their end."
        )
    _show_left(answer["left"])


def _conclusion(answer: dict[str, Any]) -> str:
    """What it came to, in one sentence."""
    removed = answer["removed"]
    if not answer["dry_run"]:
        if not answer["groups"] and not removed["workspaces"]:
            return "There was nothing to remove."
        workspaces = f"{removed['workspaces']:,} workspaces with {size(removed['bytes'])}"
        return f"Removed {answer['missions_total']:,} missions and {workspaces}."
    if not answer["groups"]:
        return "Nothing would go."
    counted = "" if answer["complete"] else "\nNot every workspace was counted: it may be more."
    return f"Nothing was removed yet; --json names the missions. To remove them: vp prune{counted}"


def _show_left(left: dict[str, Any]) -> None:
    """Folders of pruned missions that could not be removed."""
    for folder in left["stuck"]:
        click.echo(f"Cannot be removed: {output.clean(folder['path'])}: {output.line(folder['problem'])}")
    if left["stuck"]:
        click.echo("The keeper tries again; with what stands in the way gone, or as root: rm -r FOLDER")


@click.command("usage")
@output.json_option
def usage_command(as_json: bool) -> None:
    """Show what takes room: missions, workspaces, ledger, logs.

    And what is free, at which point dispatches are refused, and what `vp prune` would remove now.

    \b
    Example:
      vp usage
    """
    answer = housekeeping.usage_report(config.load())
    if as_json:
        output.print_json(answer)
        return
    tables.table(
        (Column("VP", least=18, folds=True), "live", "on disk", "ended", "on disk", "prunable now"),
        ((vp["vp_id"], *_counts(vp["live"]), *_counts(vp["ended"]), _prunable(vp["prunable"])) for vp in answer["vps"]),
    )
    if not answer["complete"]:
        click.echo("Not every workspace was counted: there may be more on disk.")
    click.echo()
    ledger, huey = answer["ledger"], answer["huey"]
    reusable = f" ({size(ledger['free_bytes'])} of it free for reuse)" if ledger["free_bytes"] else ""
    left = answer["left"]["workspaces"]
    tables.fields(
        [
            ("ledger", f"{size(ledger['bytes'])}{reusable}, and {size(ledger['wal_bytes'])} of write-ahead log"),
            ("queue", f"{huey['task']:,} wake-ups, {huey['schedule'] + huey['kv']:,} other rows"),
            ("logs", f"{size(answer['logs']['bytes'])} in {answer['logs']['path']}"),
            *(("disk", disk_line(disk)) for disk in answer["disks"]),
            ("to remove", f"{left:,} workspaces of missions that were pruned" if left else None),
        ]
    )
    _show_left(answer["left"])


def _counts(part: dict[str, int]) -> tuple[str, str]:
    return f"{part['missions']:,}", size(part["bytes"])


def _prunable(part: dict[str, int]) -> str:
    return f"{part['missions']:,} ({size(part['bytes'])})" if part["missions"] else "–"
