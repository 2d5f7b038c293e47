"""``run.log``: what a program printed, bounded on disk and in memory.

Every byte has a logical offset: how many bytes the program printed before it. While the program runs,
the first ``head_bytes`` stand in ``run.log``; what follows goes to segments beside it, named
``run.log.<logical start>``, of which only the newest two are kept. At the end all is composed into one
``run.log``: head, a line that says how much is missing, tail. Since the missing-line can only stand at
exactly ``head_bytes``, where no printed byte ever lands before composing, the program cannot forge it,
and logical offsets stay valid across composition: ``logs --follow`` never breaks.

The program runs as the same user in the same folder and may replace or remove these files. So the
writer works on descriptors of its own and puts ``run.log`` back at the end; the reader opens nothing
but regular files, and never waits on a FIFO. Only cheap standard modules are imported: the launcher
writes the log.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "run.log"
COPY_BYTES = 1024 * 1024
_MODE = 0o600
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO that a program put there must not wait for a writer.
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GAP = re.compile(rb"\n\[vp-queue: (\d+) bytes left out here\]\n")
_GAP_BYTES = 80


def _gap_line(missing: int) -> bytes:
    return b"\n[vp-queue: %d bytes left out here]\n" % missing


class BoundedLog:
    """Writes one log; the launcher's side.

    A disk that is full or failing costs log text, never the program: ``write`` does not raise for it,
    and ``problem`` keeps the first error.

    Attributes:
        total: bytes given to :meth:`write` so far, kept or not.
        problem: the first I/O error as text, or None.
    """

    def __init__(self, path: str, head_bytes: int, tail_bytes: int) -> None:
        """Create the file.

        Args:
            path: absolute path; its folder must exist, the file must not.
            head_bytes: how much of the beginning is kept.
            tail_bytes: how much of the end is kept; twice as much may be on disk while running.

        Raises:
            OSError: the folder is missing or a link, or something with this name is there already.
        """
        folder, self._name = os.path.split(path)
        self.head_bytes, self.tail_bytes = head_bytes, tail_bytes
        self.total = 0
        self.problem: str | None = None
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._head = os.open(self._name, _CREATE, _MODE, dir_fd=self._folder)
        except OSError:
            os.close(self._folder)
            raise
        self._segments: list[tuple[int, int]] = []  # (logical start, descriptor), at most two

    def write(self, data: bytes) -> None:
        """Append what the program printed; keeps head and tail, counts all."""
        view = memoryview(data)
        while view:
            room, fd, position = self._place()
            part = view[:room]
            if fd is not None:
                self._write_at(fd, part, position)
            self.total += len(part)
            view = view[len(part) :]

    def close(self) -> None:
        """Compose the final ``run.log`` and remove the segments."""
        try:
            if self._segments or not self._still_there():
                self._compose()
                self._remove_segments()
        except OSError as error:
            self._note(error)  # the parts stay as they are, and stay readable
        finally:
            for fd in (self._head, self._folder, *(fd for _, fd in self._segments)):
                os.close(fd)
            self._segments = []

    def _place(self) -> tuple[int, int | None, int]:
        """(bytes that fit, descriptor, position in it) for the byte at ``total``."""
        if self.total < self.head_bytes:
            return self.head_bytes - self.total, self._head, self.total
        if not self._segments or self.total >= self._segments[-1][0] + self.tail_bytes:
            try:
                self._rotate()
            except OSError as error:
                self._note(error)
                return self.tail_bytes, None, 0
        start, fd = self._segments[-1]
        return start + self.tail_bytes - self.total, fd, self.total - start

    def _rotate(self) -> None:
        name = f"{self._name}.{self.total}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._folder)  # the program may have guessed the name
        fd = os.open(name, _CREATE, _MODE, dir_fd=self._folder)
        self._segments.append((self.total, fd))
        if len(self._segments) > 2:
            start, old = self._segments.pop(0)
            os.close(old)
            self._remove(f"{self._name}.{start}")

    def _write_at(self, fd: int, part: memoryview, position: int) -> None:
        try:
            while part:
                written = os.pwrite(fd, part, position)
                part, position = part[written:], position + written
        except OSError as error:
            self._note(error)

    def _still_there(self) -> bool:
        try:
            named = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._head)) and named.st_nlink == 1

    def _compose(self) -> None:
        temporary = f"{self._name}.{os.urandom(6).hex()}.tmp"
        fd = os.open(temporary, _CREATE, _MODE, dir_fd=self._folder)
        try:
            _copy(self._head, 0, min(self.total, self.head_bytes), fd)
            if self.total > self.head_bytes:
                self._compose_tail(fd)
            self._put_in_place(temporary)
        except OSError:
            self._remove(temporary)
            raise
        finally:
            os.close(fd)

    def _compose_tail(self, fd: int) -> None:
        oldest = self._segments[0][0] if self._segments else self.total
        begin = max(oldest, self.total - self.tail_bytes)
        # Written even for 0 bytes: the reader tells a composed file by this line.
        _write_all(fd, _gap_line(begin - self.head_bytes))
        for start, segment in self._segments:
            end = min(start + self.tail_bytes, self.total)
            if end > begin:
                _copy(segment, max(begin - start, 0), end - max(begin, start), fd)

    def _put_in_place(self, temporary: str) -> None:
        try:
            os.rename(temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except (IsADirectoryError, FileExistsError):
            aside = f"{self._name}.replaced-{os.urandom(6).hex()}"
            os.rename(self._name, aside, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            os.rename(temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def _remove_segments(self) -> None:
        for start, _ in self._segments:
            self._remove(f"{self._name}.{start}")

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._folder)

    def _note(self, error: OSError) -> None:
        if self.problem is None:
            self.problem = f"{type(error).__name__}: {error.strerror}"


def _copy(source: int, position: int, count: int, target: int) -> None:
    """Copy exactly ``count`` bytes; what is missing in the source becomes NUL, so offsets hold."""
    while count > 0:
        chunk = os.pread(source, min(count, COPY_BYTES), position)
        if not chunk:
            chunk = b"\0" * min(count, COPY_BYTES)
        _write_all(target, chunk)
        position, count = position + len(chunk), count - len(chunk)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class _Piece:
    """A stretch of the log that is on disk: ``length`` bytes from logical ``start``."""

    def __init__(self, start: int, length: int, fd: int, position: int) -> None:
        self.start, self.length, self.fd, self.position = start, length, fd, position

    @property
    def end(self) -> int:
        return self.start + self.length


def read_log(workspace: Path, offset: int, max_bytes: int, head_bytes: int | None = None) -> tuple[bytes, int]:
    """Read the log, while it grows or afterwards.

    Args:
        workspace: the attempt's folder.
        offset: logical offset: bytes the program printed before; 0 or an earlier answer's.
        max_bytes: at most so much is returned (a line about missing bytes may come on top).
        head_bytes: as the log was written; the limit of the contract by default.

    Returns:
        the bytes, and the offset to go on from. Nothing new (or no log yet, or something that is no
        regular file in its place): ``(b"", offset)``.
    """
    text: list[bytes] = []
    with _pieces(workspace, _head_limit(head_bytes)) as pieces:
        for piece in pieces:
            if max_bytes <= 0 or piece.end <= offset:
                continue
            if piece.start > offset:
                text.append(_gap_line(piece.start - offset))
                offset = piece.start
            wanted = min(max_bytes, piece.end - offset, COPY_BYTES * 16)
            data = os.pread(piece.fd, wanted, piece.position + offset - piece.start)
            text.append(data)
            offset, max_bytes = offset + len(data), max_bytes - len(data)
            if len(data) < wanted:
                break
    return b"".join(text), offset


def log_tail(workspace: Path, max_bytes: int, head_bytes: int | None = None) -> bytes:
    """The last bytes of the log.

    Args:
        workspace: the attempt's folder.
        max_bytes: how many at most.
        head_bytes: as in :func:`read_log`.
    """
    if max_bytes <= 0:
        return b""
    end = log_end(workspace, head_bytes)
    text, _ = read_log(workspace, max(0, end - max_bytes), max_bytes, head_bytes)
    return text[-max_bytes:]


def log_end(workspace: Path, head_bytes: int | None = None) -> int:
    """The logical offset at which the log ends now: how much was printed in all; 0 where there is none.

    Args:
        workspace: the attempt's folder.
        head_bytes: as in :func:`read_log`.
    """
    with _pieces(workspace, _head_limit(head_bytes)) as pieces:
        return max((piece.end for piece in pieces), default=0)


def _head_limit(head_bytes: int | None) -> int:
    if head_bytes is not None:
        return head_bytes
    # Imported here: the launcher has no site-packages, and the contracts need pydantic.
    from vp_queue.contracts import limits

    return limits.LOG_HEAD_BYTES


@contextlib.contextmanager
def _pieces(workspace: Path, head_bytes: int) -> Iterator[list[_Piece]]:
    """What there is of the log, in logical order, opened."""
    with contextlib.ExitStack() as stack:
        pieces: list[_Piece] = []
        try:
            folder = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            yield pieces
            return
        stack.callback(os.close, folder)
        size, fd = _open_regular(folder, NAME, stack)
        missing = None
        if fd is not None:
            pieces.append(_Piece(0, min(size, head_bytes), fd, 0))
            missing = _GAP.match(os.pread(fd, _GAP_BYTES, head_bytes))
        if fd is not None and missing:
            position = head_bytes + missing.end()
            pieces.append(_Piece(head_bytes + int(missing[1]), size - position, fd, position))
        else:
            pieces += _segments(folder, head_bytes, stack)
        yield pieces


def _segments(folder: int, head_bytes: int, stack: contextlib.ExitStack) -> list[_Piece]:
    prefix = f"{NAME}."
    names = (name for name in os.listdir(folder) if name.startswith(prefix))
    starts = sorted(int(digits) for name in names if re.fullmatch(r"\d{1,18}", digits := name[len(prefix) :], re.ASCII))
    found: list[_Piece] = []
    for start in starts[-2:]:
        size, fd = _open_regular(folder, f"{prefix}{start}", stack)
        if fd is not None and start >= head_bytes:
            found.append(_Piece(start, size, fd, 0))
    return found


def _open_regular(folder: int, name: str, stack: contextlib.ExitStack) -> tuple[int, int | None]:
    try:
        fd = os.open(name, _OPEN, dir_fd=folder)
    except OSError:
        return 0, None
    stack.callback(os.close, fd)
    status = os.fstat(fd)
    return (status.st_size, fd) if stat.S_ISREG(status.st_mode) else (0, None)


def tail_text(workspace: Path, max_bytes: int) -> str:
    """The end of an attempt's log as text, for a failure; empty where there is none."""
    try:
        return log_tail(workspace, max_bytes).decode("utf-8", "replace")
    except OSError:
        return ""
