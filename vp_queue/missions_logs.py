"""What a mission's program prints, read piece by piece while it runs and afterwards.

An offset counts the bytes that the program printed before, whether they are kept still or not: the middle of a very
long log is not, and a line in the text says how much is missing there.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from vp_queue.contracts import TERMINAL, Outcome, limits
from vp_queue.contracts.views import AttemptView
from vp_queue.errors import ArtifactNotFound, ValidationError
from vp_queue.ledger import database, queries
from vp_queue.missions import ready


@dataclass(frozen=True)
class LogPiece:
    """A piece of a log.

    Attributes:
        text: raw bytes: a piece may begin or end within a character. It comes from a program: clean it before it is
            shown.
        attempt: whose log; None before the first attempt.
        offset: where it was read from.
        next_offset: where to go on from.
        tail_offset: where the last ``tail_bytes`` asked for began as it was read.
        over: nothing more will be printed, and this piece reaches the end.
    """

    text: bytes
    attempt: int | None
    offset: int
    next_offset: int
    tail_offset: int
    over: bool


def read(
    mission_id: str,
    attempt: int | None = None,
    offset: int = 0,
    limit_bytes: int = 256 * 1024,
    *,
    tail_bytes: int = 64 * 1024,
) -> LogPiece:
    """A piece of what an attempt has printed.

    Args:
        attempt: its number; None: the last there is, which may be another at the next call: whoever goes on from an
            offset gives the piece's ``attempt`` with it.
        offset: in bytes; 0, or an earlier piece's ``next_offset`` or ``tail_offset``.
        limit_bytes: at most so much; up to ``limits.LOG_READ_BYTES``.
        tail_bytes: for ``tail_offset``.

    Raises:
        MissionNotFound: there is no such mission.
        ValidationError: it has no such attempt, or an argument is out of bounds.
        ArtifactNotFound: the log is not here (any more); the message says where it was.
    """
    for name, value, most in (("offset", offset, 2**62), ("tail_bytes", tail_bytes, 2**62)):
        if not 0 <= value <= most:
            raise ValidationError(f"{name}: must be 0 or more", field=name)
    if not 1 <= limit_bytes <= limits.LOG_READ_BYTES:
        raise ValidationError(f"limit_bytes: must be 1 to {limits.LOG_READ_BYTES}", field="limit_bytes")
    ready()
    with database.read_transaction():
        row = queries.mission_row(mission_id)
        attempts = queries.attempt_views(row.id)
        last = row.status in TERMINAL
    chosen = attempt_of(mission_id, attempts, attempt)
    if chosen is None:
        return LogPiece(b"", None, offset, offset, 0, over=last)
    # Looked at before the log: what has ended prints no more, so nothing can come after what is then read.
    ended = chosen.outcome != Outcome.RUNNING and (last or attempt is not None)
    return _piece(chosen, offset, limit_bytes, tail_bytes, ended)


def attempt_of(mission_id: str, attempts: list[AttemptView], number: int | None) -> AttemptView | None:
    """The attempt of this number, or the last; None before the first.

    Raises:
        ValidationError: there is none of this number.
    """
    if number is None:
        return attempts[-1] if attempts else None
    for each in attempts:
        if each.number == number:
            return each
    raise ValidationError(
        f"{mission_id} has no attempt {number}; it has had {len(attempts)}.", field="attempt", mission_id=mission_id
    )


def _piece(attempt: AttemptView, offset: int, limit_bytes: int, tail_bytes: int, ended: bool) -> LogPiece:
    from vp_queue.worker.log import log_end, read_log

    if attempt.workspace is None:
        return LogPiece(b"", attempt.number, offset, offset, 0, over=ended)
    workspace = Path(attempt.workspace)
    where = f" It was on host {attempt.host}." if attempt.host != socket.gethostname() else ""
    mission_id = workspace.parent.name
    if attempt.outcome != Outcome.RUNNING and not workspace.is_dir():
        raise ArtifactNotFound(f"The workspace {workspace} is not there any more.{where}", mission_id=mission_id)
    try:
        text, after = read_log(workspace, offset, limit_bytes)
        end = log_end(workspace)
    except OSError as error:
        raise ArtifactNotFound(
            f"The log in {workspace} cannot be read ({error.strerror}).{where}", mission_id=mission_id
        ) from None
    over = ended and after >= end
    return LogPiece(text, attempt.number, offset, after, max(0, end - tail_bytes), over)
