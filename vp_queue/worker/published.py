"""Reads published artifacts back: confined, link-free, and only if they still are what was recorded."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from vp_queue.contracts.paths import check_relative_path
from vp_queue.errors import ArtifactNotFound
from vp_queue.worker import confined
from vp_queue.worker.artifacts import as_text
from vp_queue.worker.confined import closing
from vp_queue.worker.workspace import WORK_PRODUCTS, relative_attempt_path


class Stored(Protocol):
    """What the ledger keeps of an artifact; :class:`Artifact` and its table row both fit."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...


@dataclass(frozen=True)
class Content:
    """An artifact's content for an answer; ``bytes_used`` counts ``content`` as UTF-8."""

    content: str | None
    encoding: Literal["utf-8", "base64"] | None
    truncated: bool
    problem: Literal["changed", "missing"] | None
    bytes_used: int


@dataclass(frozen=True)
class PublishedFile:
    """An open artifact, at its beginning, that has been found to be what was published.

    Attributes:
        descriptor: whoever opened it closes it.
        path: relative to work_products/.
        size: in bytes, as recorded.
        sha256: as recorded.
        media_type: a guess from name and content.
    """

    descriptor: int
    path: str
    size: int
    sha256: str
    media_type: str

    def pieces(self) -> Iterator[bytes]:
        """Its bytes, once.

        Raises:
            ArtifactNotFound: after the last, if somebody wrote to the file meanwhile.
        """
        digest = hashlib.sha256()
        for piece in confined.chunks(self.descriptor, self.size):
            digest.update(piece)
            yield piece
        if digest.hexdigest() != self.sha256:
            raise ArtifactNotFound(f"{self.path} was changed while it was read.", field="path")


def read_content(root: Path, vp_id: str, mission_id: str, artifact: Stored, attempt: int, max_bytes: int) -> Content:
    """Read an artifact for an answer, provided it still is what was published.

    The whole file is hashed while only its beginning is kept, so memory is bounded by ``max_bytes``.

    Args:
        root: the workspaces root.
        vp_id: the VP.
        mission_id: the mission.
        artifact: as the ledger recorded it.
        attempt: the attempt that published it.
        max_bytes: how many bytes ``content`` may take (base64 counted as text).

    Returns:
        Text cut at a character's boundary, or base64. ``problem`` "missing": gone, or a link or
        special file by now; "changed": other bytes than the recorded hash. Content is withheld then.
    """
    try:
        opened = _open_published(root, vp_id, mission_id, attempt, artifact.path)
    except (OSError, ValueError):
        return Content(None, None, False, "missing", 0)
    with closing(opened):
        head = _verified_head(opened, artifact, max_bytes)
    if head is None:
        return Content(None, None, False, "changed", 0)
    text = as_text(head, whole=len(head) == artifact.size)
    if text is not None:
        return Content(text, "utf-8", len(head) < artifact.size, None, len(text.encode()))
    kept = head[: max_bytes // 4 * 3]
    encoded = base64.b64encode(kept).decode()
    return Content(encoded, "base64", len(kept) < artifact.size, None, len(encoded))


def open_artifact(
    root: Path, vp_id: str, mission_id: str, attempt: int, path: str, expected: Stored | None = None
) -> int:
    """Open an artifact to hand out its raw bytes (HTTP, ``vp artifacts``).

    Args:
        root: the workspaces root.
        vp_id: the VP.
        mission_id: the mission.
        attempt: the attempt that published it.
        path: relative to work_products/.
        expected: the ledger's record; if given, the whole file is hashed first and must match it.
            Without it a file with a second (hard) link is refused, for want of another proof.

    Returns:
        A descriptor (close-on-exec) at the file's beginning; the caller closes it.

    Raises:
        ArtifactNotFound: it is gone, is no regular file any more, or does not match ``expected``.
    """
    try:
        opened = _open_published(root, vp_id, mission_id, attempt, path)
    except (OSError, ValueError) as error:
        raise ArtifactNotFound("The file is gone, or a link or special file by now.", field="path") from error
    try:
        if expected is None and os.fstat(opened).st_nlink != 1:
            raise ArtifactNotFound("The file has a second (hard) link by now; it is not handed out.", field="path")
        if expected is not None and _verified_head(opened, expected, 0) is None:
            raise ArtifactNotFound("The file no longer matches its recorded hash; it is withheld.", field="path")
        os.lseek(opened, 0, os.SEEK_SET)
        os.set_blocking(opened, True)
    except BaseException:
        os.close(opened)
        raise
    return opened


def _open_published(root: Path, vp_id: str, mission_id: str, attempt: int, path: str) -> int:
    base = f"{relative_attempt_path(vp_id, mission_id, attempt)}/{WORK_PRODUCTS}"
    *parents, name = check_relative_path(path).split("/")
    with (
        closing(confined.open_trusted(root, confined.SEARCH)) as trusted,
        closing(confined.open_folder(trusted, base, confined.SEARCH)) as top,
        closing(confined.open_folder(top, "/".join(parents), confined.SEARCH) if parents else os.dup(top)) as folder,
    ):
        return confined.open_regular(folder, name.encode())[0]


def _verified_head(opened: int, expected: Stored, keep_bytes: int) -> bytes | None:
    """The first bytes of a file whose size and hash match the record; else None."""
    if os.fstat(opened).st_size != expected.size:
        return None
    digest, head = hashlib.sha256(), bytearray()
    for piece in confined.chunks(opened, expected.size):
        digest.update(piece)
        head += piece[: max(0, keep_bytes - len(head))]
    return bytes(head) if digest.hexdigest() == expected.sha256 else None


def copy_into(folder: Path, source: PublishedFile, *, replace: bool) -> None:
    """Copy an artifact to its path below a folder, which is made if need be.

    The copy gets its name once it is whole and verified, and no link below the folder is followed.

    Raises:
        FileExistsError: the name is taken, and ``replace`` is not set.
        OSError: it cannot be written.
        ArtifactNotFound: somebody wrote to the artifact meanwhile.
    """
    *parents, name = source.path.split("/")
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(closing(confined.open_trusted(folder)))
        for parent in parents:
            place = stack.enter_context(closing(confined.make_folder(place, parent, new=False)))
        temporary = f".vp-{secrets.token_hex(8)}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o666, dir_fd=place), "wb") as file:
            try:
                for piece in source.pieces():
                    file.write(piece)
                file.flush()
                if replace:
                    os.rename(temporary, name, src_dir_fd=place, dst_dir_fd=place)
                else:
                    # link() is the rename that refuses to replace.
                    os.link(temporary, name, src_dir_fd=place, dst_dir_fd=place, follow_symlinks=False)
            finally:
                with contextlib.suppress(FileNotFoundError):  # renamed
                    os.unlink(temporary, dir_fd=place)
