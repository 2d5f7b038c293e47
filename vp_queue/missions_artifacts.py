"""What missions made, for every face: contents in an answer, files to hand out whole, copies in a folder.

A mission's artifacts are there once it has ended. Each is reached without following a link and checked
against the hash that the ledger recorded; what no longer matches is withheld.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vp_queue.config import Settings
from vp_queue.contracts import TERMINAL, Status, views
from vp_queue.contracts import requests as asked
from vp_queue.errors import ArtifactNotFound, ValidationError
from vp_queue.ledger import database, queries
from vp_queue.ledger.models import Artifact, Mission
from vp_queue.missions import ready

if TYPE_CHECKING:
    from vp_queue.worker.published import PublishedFile


@dataclass(frozen=True)
class Saved:
    """A copy that was made of an artifact."""

    path: str
    file: Path
    size: int
    sha256: str


def read_result(request: asked.ReadResultArtifacts) -> views.ReadAnswer:
    """The result, and artifacts with as much content as fits ``max_bytes`` in all.

    Raises:
        ArtifactNotFound: a path asked for is none of the mission's artifacts.
    """
    from vp_queue.worker.published import read_content

    settings = ready()
    row, published = _published(request.mission_id)
    over = row.status in TERMINAL
    wanted = published if request.paths is None or not over else _chosen(row, published, request.paths)
    shown, left = [], request.max_bytes
    for artifact in wanted[: request.max_files]:
        content = read_content(settings.workspaces_root, row.vp_id, row.id, artifact, artifact.attempt, left)
        left -= content.bytes_used
        shown.append(
            queries.artifact_view(
                artifact,
                row.vp_id,
                content=content.content,
                encoding=content.encoding,
                truncated=content.truncated,
                problem=content.problem,
            )
        )
    return views.ReadAnswer(
        mission_id=row.id,
        status=Status(row.status),
        result=row.result if over else None,
        artifacts=shown,
        files_total=len(published),
        truncated=len(wanted) > len(shown) or any(artifact.truncated for artifact in shown),
    )


@contextlib.contextmanager
def open_artifact(mission_id: str, path: str) -> Iterator[PublishedFile]:
    """One artifact's bytes, to hand out whole: verified before the first, and again while they are read.

    Raises:
        MissionNotFound, ArtifactNotFound: there is none, it is not there yet, or it is not what was published.
    """
    settings = ready()
    row, published = _published(mission_id)
    (artifact,) = _chosen(row, published, [path])
    with _opened(settings, row, artifact) as file:
        yield file


def artifact_paths(mission_id: str) -> list[str]:
    """The names of a mission's artifacts; none before it has ended."""
    ready()
    return [artifact.path for artifact in _published(mission_id)[1]]


def listed(mission_id: str, check_bytes: int) -> list[views.ArtifactView]:
    """A mission's artifacts without their contents; none before it has ended.

    Args:
        check_bytes: so many bytes are compared with what was published, beginning with the first artifact;
            ``problem`` of the others is not known, and found when they are read.
    """
    from vp_queue.worker.published import read_content

    settings = ready()
    row, published = _published(mission_id)
    found, left = [], check_bytes
    for artifact in published:
        left -= artifact.size
        problem = None
        if left >= 0:
            problem = read_content(settings.workspaces_root, row.vp_id, row.id, artifact, artifact.attempt, 0).problem
        found.append(queries.artifact_view(artifact, row.vp_id, problem=problem))
    return found


def save(mission_id: str, paths: Sequence[str] | None, folder: Path, *, replace: bool) -> list[Saved]:
    """Copy artifacts into a folder, under their paths; each appears there whole and verified, or not at all.

    Args:
        mission_id: the mission; if it has not ended, there is nothing to copy.
        paths: these only; None for all.
        folder: is made if need be. No link below it is followed.
        replace: overwrite files that exist.

    Raises:
        MissionNotFound, ArtifactNotFound: nothing was copied, or not those that come after.
        ValidationError: a file exists or cannot be written.
    """
    from vp_queue.worker.published import copy_into

    settings = ready()
    row, published = _published(mission_id)
    wanted = published if paths is None else _chosen(row, published, paths)
    saved = []
    for artifact in wanted:
        target = folder / artifact.path
        with _opened(settings, row, artifact) as file:
            try:
                copy_into(folder, file, replace=replace)
            except FileExistsError:
                raise ValidationError(f"{target} exists and is not replaced.", field="save", exists=True) from None
            except OSError as error:
                reason = error.strerror or error
                raise ValidationError(f"{target} cannot be written: {reason}.", field="save") from None
        saved.append(Saved(artifact.path, target, artifact.size, artifact.sha256))
    return saved


def _published(mission_id: str) -> tuple[Mission, list[Artifact]]:
    with database.read_transaction():
        row = queries.mission_row(mission_id)
        return row, queries.artifacts(row.id, row.attempt) if row.status in TERMINAL else []


def _chosen(row: Mission, published: list[Artifact], paths: Sequence[str]) -> list[Artifact]:
    by_path = {artifact.path: artifact for artifact in published}
    missing = next((path for path in paths if path not in by_path), None)
    if missing is not None:
        known = "call without paths to list what it has" if row.status in TERMINAL else f"it is {row.status} still"
        raise ArtifactNotFound(
            f"Mission {row.id} has no artifact {missing!r}; {known}.", field="paths", path=missing, mission_id=row.id
        )
    return [by_path[path] for path in dict.fromkeys(paths)]


@contextlib.contextmanager
def _opened(settings: Settings, row: Mission, artifact: Artifact) -> Iterator[PublishedFile]:
    from vp_queue.worker.confined import closing
    from vp_queue.worker.published import PublishedFile
    from vp_queue.worker.published import open_artifact as open_verified

    try:
        opened = open_verified(
            settings.workspaces_root, row.vp_id, row.id, artifact.attempt, artifact.path, expected=artifact
        )
    except ArtifactNotFound as error:
        raise ArtifactNotFound(
            f"{artifact.path} of mission {row.id} is not handed out: {error.message}",
            field="paths",
            path=artifact.path,
            mission_id=row.id,
        ) from error
    with closing(opened):
        yield PublishedFile(opened, artifact.path, artifact.size, artifact.sha256, artifact.media_type)
