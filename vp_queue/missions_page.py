"""One mission with everything around it, in one snapshot: for whoever looks at it, rather than delegates."""

from __future__ import annotations

from vp_queue.contracts import limits
from vp_queue.contracts.overview import MissionPage, ReaderView
from vp_queue.contracts.views import EventView
from vp_queue.ledger import database, lineage, queries, seen
from vp_queue.missions import ready, stall_limits
from vp_queue.missions_needs import brief


def mission_page(mission_id: str) -> MissionPage:
    """A mission, its attempts, its retries to both sides, and who has acknowledged its end.

    Raises:
        MissionNotFound: there is none.
    """
    settings = ready()
    with database.read_transaction() as now:
        row = queries.mission_row(mission_id)
        # One more than is shown tells whether there are more.
        before = lineage.ancestors(row, limits.LINEAGE_MISSIONS + 1)
        after = lineage.descendants(row, limits.LINEAGE_MISSIONS + 1)
        more = max(len(before), len(after)) > limits.LINEAGE_MISSIONS
        before, after = before[-limits.LINEAGE_MISSIONS :], after[: limits.LINEAGE_MISSIONS]
        views = queries.mission_views([row, *before, *after], now, stall_limits(settings))
        outcome_seq = lineage.outcome_seq(row.id)
        readers = lineage.readers() if outcome_seq is not None else []
        told = [
            ReaderView(reader=each.reader, acknowledged_seq=each.acknowledged_seq, at=each.updated_at)
            for each in readers
        ]
        return MissionPage(
            mission=views[0],
            attempts=queries.attempt_views(row.id),
            guidance=row.guidance,
            seen=seen.is_seen(row.id),
            ancestors=[brief(view) for view in views[1 : 1 + len(before)]],
            descendants=[brief(view) for view in views[1 + len(before) :]],
            lineage_more=more,
            outcome_seq=outcome_seq,
            acknowledged_by=[each for each in told if outcome_seq is not None and each.acknowledged_seq >= outcome_seq],
            not_acknowledged_by=[
                each for each in told if outcome_seq is not None and each.acknowledged_seq < outcome_seq
            ],
        )


def events_before(mission_id: str, mission_seq: int | None, limit: int) -> list[EventView]:
    """A page of a mission's events, oldest of them first.

    Args:
        mission_seq: those before this position; None: the newest.
        limit: of events.
    """
    ready()
    with database.read_transaction():
        return queries.newest_events(mission_id, limit, before=mission_seq)
