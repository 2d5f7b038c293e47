"""What an attempt leaves in ``work_products/``: collected once, then read with suspicion.

:func:`collect` walks the folder by open descriptors, hashes and fsyncs what qualifies, and names
the rest with a reason. Whatever the program left there (links to secrets, FIFOs, a sparse terabyte,
a hundred thousand files) costs bounded time and memory. Readers later trust the recorded hash, not
the file: bytes that no longer match are withheld.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import itertools
import mimetypes
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from vp_queue.contracts import limits as contract
from vp_queue.contracts import paths
from vp_queue.contracts.paths import check_relative_path, has_control_characters, matches_any, printable
from vp_queue.worker import confined
from vp_queue.worker.confined import closing

# Left out by name, folders and files alike.
EXCLUDED_NAMES: Final = frozenset(map(os.fsencode, paths.EXCLUDED_NAMES))
EXCLUDED_SUFFIXES: Final = tuple(map(os.fsencode, paths.EXCLUDED_SUFFIXES))

SNIFF_BYTES: Final = 4_096
# <vp folder>/<mission id>/attempt-<n>/work_products: where a link is refused.
_BELOW_ROOT: Final = 4

# Python's own table, without the host's /etc/mime.types: the same answer on every worker.
_MEDIA_TYPES: Final[dict[str, str]] = {
    **mimetypes.MimeTypes().types_map[1],
    **dict.fromkeys((".diff", ".patch"), "text/x-diff"),
    **dict.fromkeys((".jsonl", ".ndjson"), "application/jsonl"),
    **dict.fromkeys((".log", ".ts", ".tsx", ".rs", ".go"), "text/plain"),
    **dict.fromkeys((".md", ".markdown"), "text/markdown"),
    **dict.fromkeys((".yaml", ".yml"), "application/yaml"),
    **{".bz2": "application/x-bzip2", ".gz": "application/gzip", ".xz": "application/x-xz", ".zst": "application/zstd"},
    **{".csv": "text/csv", ".json": "application/json", ".toml": "application/toml", ".webp": "image/webp"},
}

Reason = Literal[
    "symlink",
    "hard link",
    "another owner",
    "special file",
    "cache or .git",
    "name not UTF-8",
    "control characters in name",
    "too large",
    "too many files",
    "total size",
    "too deep",
    "changed while reading",
    "unreadable",
    "missing",
    "not a folder",
]

# What the program can cause; any other error is the storage's, and must not pass for a skipped file.
_REASONS: Final[dict[int | None, Reason]] = {
    errno.EACCES: "unreadable",
    errno.EPERM: "unreadable",
    errno.ELOOP: "changed while reading",
    errno.ENOTDIR: "changed while reading",
    errno.ENOENT: "changed while reading",
    errno.ENXIO: "changed while reading",
}


@dataclass(frozen=True)
class ArtifactLimits:
    """How much is collected.

    Attributes:
        count: artifacts.
        file_bytes: size of one.
        total_bytes: size of all.
        entries: directory entries looked at, artifacts or not.
        depth: components of a path.
    """

    count: int = contract.ARTIFACT_COUNT
    file_bytes: int = contract.ARTIFACT_FILE_BYTES
    total_bytes: int = contract.ARTIFACT_TOTAL_BYTES
    entries: int = contract.ARTIFACT_WALK_ENTRIES
    depth: int = contract.ARTIFACT_DEPTH


@dataclass(frozen=True)
class Artifact:
    """One published file; ``path`` is relative to work_products/, ``size`` in bytes."""

    path: str
    size: int
    media_type: str
    sha256: str
    role: str = "work_product"


@dataclass(frozen=True)
class Skipped:
    """One file or folder left out; ``path`` is made printable (backslash escapes, bounded)."""

    path: str
    reason: Reason


@dataclass(frozen=True)
class Collection:
    """What :func:`collect` found: artifacts by path, and the first of what was left out."""

    artifacts: tuple[Artifact, ...]
    skipped: tuple[Skipped, ...]
    skipped_total: int


def collect(
    work_products: Path, *, limits: ArtifactLimits = ArtifactLimits(), owner_uid: int | None = None
) -> Collection:
    """Find, hash and fsync the artifacts of an attempt whose program has ended.

    Args:
        work_products: the attempt's folder for them; neither it nor the three folders above it may be
            links. If it was exchanged, the collection is empty and says so.
        limits: how much is taken; the rest is skipped.
        owner_uid: only this user's files are taken (``run_as``): what a program moved here of others' may be
            what it could not have read, while we can. None = any.

    Raises:
        OSError: the storage failed (EIO, ENOSPC, no descriptors left): nothing may be called published.
    """
    walk = _Walk(limits, owner_uid)
    name = work_products.name.encode()
    try:
        folder = confined.open_link_free(work_products, _BELOW_ROOT)
    except OSError as error:
        walk.skip(name, _why_no_folder(work_products, error))
    else:
        with closing(folder):
            walk.folder(folder, b"")
    return walk.collection()


def _why_no_folder(path: Path, error: OSError) -> Reason:
    if error.errno == errno.ENOENT:
        return "missing"
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        mode = os.lstat(path).st_mode
        return "symlink" if stat.S_ISLNK(mode) or stat.S_ISDIR(mode) else "not a folder"
    reason = _REASONS.get(error.errno)
    if reason is None:
        raise error
    return reason


@dataclass
class _Walk:
    limits: ArtifactLimits
    owner_uid: int | None = None
    artifacts: list[Artifact] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    skipped_total: int = 0
    entries: int = 0
    total_bytes: int = 0

    def collection(self) -> Collection:
        found = sorted(self.artifacts, key=lambda artifact: artifact.path)
        return Collection(tuple(found), tuple(self.skipped), self.skipped_total)

    def skip(self, path: bytes, reason: Reason) -> None:
        self.skipped_total += 1
        if len(self.skipped) < contract.SKIPPED_LISTED:
            self.skipped.append(Skipped(printable(path), reason))

    def folder(self, folder: int, path: bytes) -> None:
        for name in self._names(folder, path):
            self._entry(folder, name, path + b"/" + name if path else name)
        confined.sync_folder(folder)

    def _names(self, folder: int, path: bytes) -> list[bytes]:
        left = self.limits.entries - self.entries
        with os.scandir(folder) as entries:
            names = [os.fsencode(entry.name) for entry in itertools.islice(entries, left + 1)]
        if len(names) > left:
            names.pop()
            self.skip(path or b".", "too many files")
        self.entries += len(names)
        return sorted(names)

    def _entry(self, folder: int, name: bytes, path: bytes) -> None:
        reason = self._name_reason(name, path)
        if reason is not None:
            self.skip(path, reason)
            return
        try:
            about = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(about.st_mode):
                self._subfolder(folder, name, path)
            else:
                self._file(folder, name, path, about)
        except confined.NotRegular:
            self.skip(path, "changed while reading")
        except OSError as error:
            reason = _REASONS.get(error.errno)
            if reason is None:
                raise
            self.skip(path, reason)

    def _name_reason(self, name: bytes, path: bytes) -> Reason | None:
        if name in EXCLUDED_NAMES or name.endswith(EXCLUDED_SUFFIXES):
            return "cache or .git"
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return "name not UTF-8"
        if has_control_characters(text):
            return "control characters in name"
        try:
            check_relative_path(path.decode())
        except ValueError:
            return "too deep"
        return "too deep" if path.count(b"/") >= self.limits.depth else None

    def _subfolder(self, folder: int, name: bytes, path: bytes) -> None:
        with closing(confined.open_folder(folder, name.decode())) as subfolder:
            self.folder(subfolder, path)

    def _file(self, folder: int, name: bytes, path: bytes, about: os.stat_result) -> None:
        reason = self._file_reason(about)
        if reason is not None:
            self.skip(path, reason)
            return
        opened, about = confined.open_regular(folder, name)
        with closing(opened):
            # Asked again of the descriptor: the name may have been another file a moment ago.
            reason = self._file_reason(about)
            artifact = None if reason else _read(opened, about, path.decode())
        if artifact is None:
            self.skip(path, reason or "changed while reading")
        else:
            self.artifacts.append(artifact)
            self.total_bytes += artifact.size

    def _file_reason(self, about: os.stat_result) -> Reason | None:
        if stat.S_ISLNK(about.st_mode):
            return "symlink"
        if not stat.S_ISREG(about.st_mode):
            return "special file"
        if about.st_nlink != 1:
            return "hard link"
        if self.owner_uid not in (None, about.st_uid):
            return "another owner"
        if about.st_size > self.limits.file_bytes:
            return "too large"
        if len(self.artifacts) >= self.limits.count:
            return "too many files"
        if self.total_bytes + about.st_size > self.limits.total_bytes:
            return "total size"
        return None


def _read(opened: int, about: os.stat_result, path: str) -> Artifact | None:
    digest, head, size = hashlib.sha256(), b"", 0
    for piece in confined.chunks(opened, about.st_size):
        head = head or piece[:SNIFF_BYTES]
        digest.update(piece)
        size += len(piece)
    os.fsync(opened)
    if size != about.st_size or _version(os.fstat(opened)) != _version(about):
        return None
    return Artifact(path, size, media_type(path, head, whole=size <= SNIFF_BYTES), digest.hexdigest())


def _version(about: os.stat_result) -> tuple[int, int, int]:
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns


def media_type(path: str, head: bytes, *, whole: bool) -> str:
    """The media type by extension; failing that, text/plain or application/octet-stream by content.

    Args:
        path: of the artifact.
        head: its first bytes (``SNIFF_BYTES`` are enough).
        whole: whether that is all of it.
    """
    known = _MEDIA_TYPES.get(os.path.splitext(path)[1].lower())
    if known:
        return known
    return "application/octet-stream" if as_text(head, whole=whole) is None else "text/plain"


def as_text(data: bytes, *, whole: bool) -> str | None:
    """The text of UTF-8 bytes (an incomplete last character is cut if there is more to come), or None."""
    if b"\0" in data:
        return None
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data, final=whole)
    except UnicodeDecodeError:
        return None


def missing_required(collection: Collection, patterns: Sequence[str]) -> list[str]:
    """Which globs of ``constraints.require_artifacts`` match no artifact.

    Args:
        collection: what was published.
        patterns: relative to work_products/; ``*``, ``?`` and ``[…]`` stay within one component, a
            component ``**`` stands for any number of folders. Case matters; hidden names count.
    """
    paths = [artifact.path for artifact in collection.artifacts]
    return [pattern for pattern in patterns if not matches_any(paths, pattern)]
