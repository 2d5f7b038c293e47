"""artifacts: list, show, save."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vp_queue import missions, tools
from vp_queue.cli import output
from vp_queue.contracts import limits
from vp_queue.errors import ArtifactNotFound, ValidationError
from vp_queue.ledger import database, queries
from vp_queue.worker import confined
from vp_queue.worker.published import open_artifact


@click.command("artifacts")
@click.argument("mission_id")
@click.argument("paths", nargs=-1)
@click.option("--save", type=click.Path(file_okay=False, path_type=Path), help="Copy them into this folder.")
@click.option("--force", is_flag=True, help="With --save: replace files that exist.")
@output.json_option
def artifacts_command(mission_id: str, paths: tuple[str, ...], save: Path | None, force: bool, as_json: bool) -> None:
    """List, show or save what a mission made.

    Without PATHS lists them; with PATHS prints their text (control characters removed). --save copies the
    exact bytes, all or those of PATHS, each verified against its recorded hash.

    \b
    Examples:
      vp artifacts m-0mdq3v8k2f-7x0k3w9c2h1 poem.md
      vp artifacts m-0mdq3v8k2f-7x0k3w9c2h1 --save ./results
    """
    if save is not None:
        _save(mission_id, paths, save, force, as_json)
        return
    wanted: dict[str, Any] = {"max_bytes": limits.READ_BYTES[1], "paths": list(paths)} if paths else {}
    if not paths and not as_json:
        wanted = {"max_bytes": limits.READ_BYTES[0]}  # names only
    answer = output.checked(
        tools.vp_read_result_artifacts(mission_id=mission_id, max_files=limits.READ_FILES, **wanted)
    )
    if as_json:
        output.print_json(answer)
    elif paths:
        for artifact in answer["artifacts"]:
            _show(artifact, len(paths) > 1)
    else:
        _list(answer)


def _list(answer: dict[str, Any]) -> None:
    if answer["result"]:
        click.echo(output.clean(answer["result"]) + "\n")
    if not answer["artifacts"]:
        click.echo(f"No artifacts: the mission is {answer['status']}.")
        return
    rows = [
        (output.size(a["size"]), a["media_type"], a["problem"] or "ok", a["sha256"][:12], a["path"])
        for a in answer["artifacts"]
    ]
    output.table(("size", "type", "bytes", "sha256", "path"), rows, last_column_folds=True)
    left = answer["files_total"] - len(answer["artifacts"])
    if left:
        click.echo(f"… and {left} more; --save DIR copies them all.")


def _show(artifact: dict[str, Any], named: bool) -> None:
    if named:
        click.echo(f"==> {output.line(artifact['path'])} <==")
    if artifact["problem"]:
        raise ArtifactNotFound(
            f"The bytes of {artifact['path']} are {artifact['problem']}; they are withheld.", field="paths"
        )
    if artifact["encoding"] != "utf-8":
        about = f"{artifact['media_type']}, {output.size(artifact['size'])}"
        click.echo(f"(not shown: {about}; --save DIR copies it)", err=True)
        return
    click.echo(output.clean(artifact["content"]), nl=not artifact["content"].endswith("\n"))
    if artifact["truncated"]:
        click.echo("(cut off here; --save DIR copies all of it)", err=True)


def _save(mission_id: str, paths: Sequence[str], folder: Path, force: bool, as_json: bool) -> None:
    # The tool checks the id and the paths; the rows give what it does not answer with, beyond 200 files.
    output.checked(
        tools.vp_read_result_artifacts(
            mission_id=mission_id, max_bytes=limits.READ_BYTES[0], **({"paths": list(paths)} if paths else {})
        )
    )
    settings = missions.ready()
    with database.read_transaction():
        mission = queries.mission_row(mission_id)
        rows = [row for row in queries.artifacts(mission_id, mission.attempt) if not paths or row.path in paths]
    folder.mkdir(parents=True, exist_ok=True)
    saved: list[dict[str, Any]] = []
    with confined.closing(confined.open_trusted(folder)) as top:
        for row in rows:
            source = open_artifact(settings.workspaces_root, mission.vp_id, mission_id, row.attempt, row.path, row)
            with confined.closing(source):
                _copy(source, top, row.path, folder, force)
            saved.append({"path": row.path, "file": str(folder / row.path), "size": row.size, "sha256": row.sha256})
    if as_json:
        output.print_json({"ok": True, "mission_id": mission_id, "saved": saved})
    else:
        for each in saved:
            click.echo(f"saved {output.line(each['file'], limits.PATH_CHARS)} ({output.size(each['size'])})")
        if not saved:
            click.echo(f"No artifacts: the mission is {mission.status}.")


def _copy(source: int, top: int, path: str, folder: Path, force: bool) -> None:
    """Copy into the folder without following a link below it; an existing file is replaced whole or refused."""
    *parents, name = path.split("/")
    try:
        place = os.dup(top)
        for parent in parents:
            below = confined.make_folder(place, parent, new=False)
            os.close(place)
            place = below
        with confined.closing(place):
            _write(source, place, name, force)
    except FileExistsError:
        raise ValidationError(f"{folder / path} exists; --force replaces it.", field="save") from None
    except OSError as error:
        raise ValidationError(f"{folder / path} cannot be written: {error.strerror or error}.", field="save") from None


def _write(source: int, place: int, name: str, force: bool) -> None:
    temporary = f".vp-{os.getpid()}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(temporary, flags, 0o666, dir_fd=place), "wb") as file:
        try:
            for piece in confined.chunks(source, limits.ARTIFACT_FILE_BYTES):
                file.write(piece)
            file.flush()
            if force:
                os.rename(temporary, name, src_dir_fd=place, dst_dir_fd=place)
            else:
                # link() is the rename that refuses to replace.
                os.link(temporary, name, src_dir_fd=place, dst_dir_fd=place, follow_symlinks=False)
        finally:
            with contextlib.suppress(FileNotFoundError):  # renamed
                os.unlink(temporary, dir_fd=place)
