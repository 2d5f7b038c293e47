"""artifacts: list, show, save."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vp_queue import missions_artifacts, tools
from vp_queue.cli import completing, output, tables
from vp_queue.cli.tables import Column
from vp_queue.contracts import TERMINAL, limits
from vp_queue.errors import ArtifactNotFound, ValidationError


@click.command("artifacts")
@click.argument("mission_id", shell_complete=completing.missions("completed", "failed", "cancelled", "expired"))
@click.argument("paths", nargs=-1, shell_complete=completing.artifacts)
@click.option("--save", type=click.Path(file_okay=False, path_type=Path), help="Copy them into this folder.")
@click.option("--force", is_flag=True, help="With --save: replace files that exist.")
@output.json_option
def artifacts_command(mission_id: str, paths: tuple[str, ...], save: Path | None, force: bool, as_json: bool) -> None:
    """List, show or save what a mission made.

    Without PATHS lists them. With PATHS prints them: to a terminal as text (control characters removed), to a
    pipe or file byte for byte. --save copies all, or those of PATHS. What is handed out is verified against
    its recorded hash.

    \b
    Examples:
      vp artifacts m-0mdq3v8k2f-7x0k3w9c2h1 poem.md
      vp artifacts m-0mdq3v8k2f-7x0k3w9c2h1 chart.png > chart.png
      vp artifacts m-0mdq3v8k2f-7x0k3w9c2h1 --save ./results
    """
    if force and save is None:
        raise click.UsageError("--force goes together with --save DIR.")
    if save is not None:
        _save(mission_id, paths, save, force, as_json)
    elif paths and not as_json and not sys.stdout.isatty():
        _write(mission_id, paths)
    else:
        _read(mission_id, paths, as_json)


def _read(mission_id: str, paths: Sequence[str], as_json: bool) -> None:
    wanted: dict[str, Any] = {"paths": list(paths)} if paths else {}
    most = limits.READ_BYTES[1] if paths else limits.READ_BYTES[0]  # without paths, names are enough
    given = wanted if as_json and not paths else {"max_bytes": most, **wanted}
    answer = output.checked(tools.vp_read_result_artifacts(mission_id=mission_id, max_files=limits.READ_FILES, **given))
    if as_json:
        output.print_json(answer)
    elif paths:
        _check_ended(mission_id, answer["status"], paths)
        _show(answer)
    else:
        _list(answer)


def _list(answer: dict[str, Any]) -> None:
    mission_id = answer["mission_id"]
    if answer["result"]:
        click.echo(output.clean(answer["result"]) + "\n")
    if not answer["artifacts"]:
        _say_none(mission_id, answer["status"])
        return
    rows = [
        (output.size(a["size"]), a["media_type"], a["problem"] or "ok", a["sha256"], a["path"])
        for a in answer["artifacts"]
    ]
    heads = ("size", Column("type", least=16), "bytes", Column("sha256", least=12), "path")
    tables.table(heads, rows, last_column_folds=True)
    left = answer["files_total"] - len(answer["artifacts"])
    if left:
        click.echo(f"… and {left} more. Copy them all: vp artifacts {mission_id} --save DIR")


def _say_none(mission_id: str, status: str) -> None:
    known = f"See: vp get {mission_id}" if status in TERMINAL else f"They come at its end: vp wait {mission_id}"
    click.echo(f"No artifacts: the mission is {status}. {known}")


def _status(mission_id: str) -> str:
    answer = output.checked(tools.vp_get_mission(mission_id=mission_id, events_limit=0))
    return str(answer["mission"]["status"])


def _check_ended(mission_id: str, status: str, paths: Sequence[str]) -> None:
    if status not in TERMINAL:
        raise ArtifactNotFound(
            f"{mission_id} is {status}; its artifacts come at its end.",
            field="paths",
            status=status,
            path=paths[0],
            mission_id=mission_id,
        )


def _show(answer: dict[str, Any]) -> None:
    """Print text to a terminal; what is no text would do who knows what to it."""
    mission_id, artifacts = answer["mission_id"], answer["artifacts"]
    for artifact in artifacts:
        about = {"field": "paths", "path": artifact["path"], "mission_id": mission_id}
        if artifact["problem"]:
            raise ArtifactNotFound(
                f"The bytes of {artifact['path']} are {artifact['problem']}; they are withheld.", **about
            )
        if artifact["encoding"] != "utf-8":
            raise ValidationError(
                f"{artifact['path']} is no text ({artifact['media_type']}, {output.size(artifact['size'])}) and is not "
                f"shown on a terminal.",
                save=f"vp artifacts {mission_id} {artifact['path']} > FILE, or with --save DIR",
                **about,
            )
    for artifact in artifacts:
        if len(artifacts) > 1:
            click.echo(f"==> {output.line(artifact['path'], limits.PATH_CHARS)} <==")
        click.echo(output.clean(artifact["content"]), nl=not artifact["content"].endswith("\n"))
        if artifact["truncated"]:
            click.echo(f"(cut off here; all of it: vp artifacts {mission_id} … > FILE)", err=True)


def _write(mission_id: str, paths: Sequence[str]) -> None:
    """Write exact bytes, one file after the other."""
    _check_ended(mission_id, _status(mission_id), paths)
    stream = sys.stdout.buffer
    for path in dict.fromkeys(paths):
        with missions_artifacts.open_artifact(mission_id, path) as file:
            for piece in file.pieces():
                stream.write(piece)
    stream.flush()


def _save(mission_id: str, paths: Sequence[str], folder: Path, force: bool, as_json: bool) -> None:
    status = _status(mission_id)
    if paths:
        _check_ended(mission_id, status, paths)
    saved = missions_artifacts.save(mission_id, list(paths) or None, folder, replace=force)
    if as_json:
        listed = [
            {"path": each.path, "file": str(each.file), "size": each.size, "sha256": each.sha256} for each in saved
        ]
        output.print_json({"ok": True, "mission_id": mission_id, "saved": listed})
        return
    for each in saved:
        click.echo(f"saved {output.line(each.file, 2 * limits.PATH_CHARS)} ({output.size(each.size)})")
    if not saved:
        _say_none(mission_id, status)
