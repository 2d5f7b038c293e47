"""Lists of missions: a page for the tools, and one that knows both of its neighbours for faces that people turn."""

from __future__ import annotations

from vp_queue.contracts import requests as asked
from vp_queue.contracts import views
from vp_queue.contracts.overview import MissionsPage
from vp_queue.contracts.selections import Selection
from vp_queue.ledger import database, lists, queries
from vp_queue.missions import ready, stall_limits


def list_missions(request: asked.ListMissions) -> views.ListAnswer:
    """A page of missions, newest first, with counts."""
    turned = page(request)
    return views.ListAnswer(missions=turned.missions, next_cursor=turned.next_cursor, counts=turned.counts)


def page(request: asked.ListMissions, *, newer_than: str | None = None) -> MissionsPage:
    """A page of missions, newest first, with counts, and cursors to both sides.

    Args:
        request: its ``cursor`` asks for what is older than that.
        newer_than: a mission's id: the page that ends just before it. Then ``cursor`` counts for nothing.
    """
    settings = ready()
    wanted = filter_of(request)
    older_than = request.cursor if newer_than is None else None
    with database.read_transaction() as now:
        found = lists.missions_page(wanted, request.limit, older_than=older_than, newer_than=newer_than)
        return MissionsPage(
            missions=queries.mission_views(found.rows, now, stall_limits(settings)),
            next_cursor=found.older,
            previous_cursor=found.newer,
            counts=lists.status_counts(wanted),
        )


def filter_of(request: asked.ListMissions | Selection) -> lists.Filter:
    """What a request filters by, as the ledger has it."""
    return lists.Filter(
        vp_id=request.vp_id,
        statuses=request.statuses,
        source_session_id=request.source_session_id,
        text=request.text,
        created_after=request.created_after,
        created_before=request.created_before,
    )
