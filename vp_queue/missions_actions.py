"""The action log: who did what, when, through which face."""

from __future__ import annotations

from vp_queue.contracts import limits
from vp_queue.contracts.overview import ActionsAnswer
from vp_queue.errors import ValidationError
from vp_queue.ledger import actions as log
from vp_queue.ledger import database, queries
from vp_queue.missions import ready


def actions(
    limit: int = 50, before_seq: int | None = None, *, vp_id: str | None = None, face: str | None = None
) -> ActionsAnswer:
    """A page of what was done, newest first.

    Args:
        limit: of events; up to ``limits.ACTIONS_PAGE``.
        before_seq: ``next_before`` of the page before.
        vp_id: only what concerns this VP.
        face: only through this face, such as ``cli`` or ``mcp``.

    Raises:
        ValidationError: an argument is out of bounds.
    """
    if not 1 <= limit <= limits.ACTIONS_PAGE:
        raise ValidationError(f"limit: must be 1 to {limits.ACTIONS_PAGE}", field="limit")
    if before_seq is not None and not 0 <= before_seq < 2**63:
        raise ValidationError("before_seq: must be the next_before of an earlier page", field="before_seq")
    ready()
    with database.read_transaction():
        rows, next_before = log.page(limit, before_seq, vp_id, face)
        return ActionsAnswer(events=queries.event_views(rows), next_before=next_before)
