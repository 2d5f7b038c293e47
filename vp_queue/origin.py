"""Who acts, and through which face: noted in the events of what people and agents do.

A face says it once around what it calls::

    with origin.acting("http", "ops"):
        missions.pause(vp_id)

It is a context variable: it goes along into ``asyncio`` tasks and ``anyio.to_thread``, and ends with the block. What
it says is told, not proved: an MCP client names itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

PYTHON: Final = "python"  # whoever calls the functions directly
FACE_CHARS: Final = 20
ACTOR_CHARS: Final = 100


@dataclass(frozen=True)
class Origin:
    """A face (``cli``, ``mcp``, ``http``, ``dashboard``, ``adapter``, ``python``), and who acts through it if known."""

    face: str
    actor: str | None = None


_acting: ContextVar[Origin | None] = ContextVar("vp_queue_acting", default=None)


@contextlib.contextmanager
def acting(face: str, actor: str | None = None) -> Iterator[None]:
    """Within the block, this is who acts.

    Args:
        face: which face.
        actor: a login name, a client's name; text of any kind, shortened and cleaned before it is stored.
    """
    token = _acting.set(Origin(face, actor))
    try:
        yield
    finally:
        _acting.reset(token)


def current() -> Origin:
    """Who acts now, with texts that may be stored and shown."""
    # Imported where it is needed: faces say who they are before they know whether anything is done.
    from vp_queue.wording import line

    told = _acting.get() or Origin(PYTHON)
    actor = line(told.actor, ACTOR_CHARS) if told.actor else ""
    return Origin(line(told.face, FACE_CHARS) or PYTHON, actor or None)


def as_data() -> dict[str, str | None]:
    """The same as it stands in an event's data."""
    told = current()
    return {"face": told.face, "actor": told.actor}
