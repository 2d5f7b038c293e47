"""What waits for a person: questions, missions that hang or failed, queues that nobody works on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final, get_args

from vp_queue.contracts import TERMINAL, limits
from vp_queue.contracts.overview import CardView, NeedKind, NeedView
from vp_queue.contracts.views import MissionView, WorkerView
from vp_queue.ledger import overview, queries
from vp_queue.ledger.models import Mission
from vp_queue.wording import line

TEXT_CELLS: Final = 300
# A mission as it is shown among others.
BRIEF_CELLS: Final = 400
_URGENCY: Final[tuple[NeedKind, ...]] = get_args(NeedKind)


def brief(mission: MissionView) -> MissionView:
    """A mission without what makes it large: texts are shortened, what it was asked with is left out."""
    failure = mission.failure
    if failure is not None:
        failure = failure.model_copy(update={"log_tail": None, "message": line(failure.message, BRIEF_CELLS)})
    return mission.model_copy(
        update={
            "objective": line(mission.objective, BRIEF_CELLS),
            "result": line(mission.result, BRIEF_CELLS) if mission.result is not None else None,
            "failure": failure,
            "constraints": {},
            "metadata": {},
        }
    )


def needs_of(
    now: datetime,
    cards: Sequence[CardView],
    keepers: Sequence[WorkerView],
    counts: dict[str, int],
    stalls: dict[str, float],
    limit: int,
) -> list[NeedView]:
    """What waits for a person, the most urgent first; in an open read transaction.

    Args:
        cards: of all VPs.
        keepers: that have not ended.
        counts: of missions, by status.
        stalls: per VP, the seconds of silence after which a running mission counts as stalled.
        limit: at most so many.
    """
    found = [
        *_missions(now, stalls, limit),
        *_no_keeper(keepers, counts),
        *(need for card in cards for need in _of_vp(now, card)),
        *_lost(cards),
    ]
    # Stable: within a kind they stand in the order they were found in.
    return sorted(found, key=lambda need: _URGENCY.index(need.kind))[:limit]


def _missions(now: datetime, stalls: dict[str, float], limit: int) -> Iterator[NeedView]:
    asking = overview.asking(limit)
    silent = overview.silent(now, stalls, limit)
    failed = _newest_first(overview.missions(overview.failed_unseen(now - timedelta(days=limits.NEEDS_DAYS), limit)))
    rows = [*asking, *overview.missions([mission_id for _, mission_id in silent]), *failed[:limit]]
    views = {view.mission_id: view for view in queries.mission_views(rows, now, stalls)}
    for row in asking:
        question = views[row.id].question
        text = question.question if question else "It waits for an answer."
        yield _need("needs_input", views[row.id], question.asked_at if question else None, text)
    for since, mission_id in silent:
        if mission_id in views:
            minutes = int((now - since).total_seconds() // 60)
            text = f"No output or progress for {minutes} min. Look at its log; cancel it if it hangs."
            yield _need("stalled", views[mission_id], since, text)
    for row in failed[:limit]:
        failure = views[row.id].failure
        yield _need("failed", views[row.id], row.finished_at, f"{failure.code}: {failure.message}" if failure else "")


def _newest_first(rows: list[Mission]) -> list[Mission]:
    return sorted(rows, key=lambda row: row.finished_at, reverse=True)


def _need(kind: NeedKind, mission: MissionView, since: datetime | None, text: str) -> NeedView:
    return NeedView(kind=kind, vp_id=mission.vp_id, mission=brief(mission), since=since, text=line(text, TEXT_CELLS))


def _no_keeper(keepers: Sequence[WorkerView], counts: dict[str, int]) -> Iterator[NeedView]:
    live = sum(count for status, count in counts.items() if status not in TERMINAL)
    if live and not any(not keeper.stale for keeper in keepers):
        since = max((keeper.heartbeat_at for keeper in keepers), default=None)
        text = "No keeper runs: nobody repairs what crashed workers leave, or starts what is due later. vp up --detach"
        yield NeedView(kind="no_keeper", vp_id=None, mission=None, since=since, text=text)


def _of_vp(now: datetime, card: CardView) -> Iterator[NeedView]:
    """Why a VP's queue does not move; the first reason, for the others may be its consequences."""
    vp = card.vp

    def need(kind: NeedKind, text: str, since: datetime | None) -> NeedView:
        return NeedView(kind=kind, vp_id=vp.vp_id, mission=None, since=since, text=line(text, TEXT_CELLS))

    stale = [worker for worker in vp.workers if worker.stale]
    if stale:
        since = max(worker.heartbeat_at for worker in stale)
        yield need("worker_stale", f"Worker {stale[0].worker_id} of {vp.vp_id} gives no sign of life: vp doctor", since)
    if not vp.enabled or card.oldest_due_seconds is None:
        return
    waiting = f"{vp.queued} {'mission waits' if vp.queued == 1 else 'missions wait'}"
    since = now - timedelta(seconds=card.oldest_due_seconds)
    if vp.paused or vp.draining:
        word, reason = ("paused", vp.pause_reason) if vp.paused else ("draining", vp.drain_reason)
        text = f"{vp.vp_id} is {word}{f' ({reason})' if reason else ''} and {waiting}: vp resume {vp.vp_id}"
        yield need("paused", text, overview.held_since(vp.vp_id))
    elif not vp.available.ok:
        yield need("unavailable", f"{waiting} for {vp.vp_id}, which cannot run here: {vp.available.reason}", since)
    elif not vp.workers:
        yield need("no_worker", f"{waiting} for {vp.vp_id}, and no worker of it runs: vp up --detach", since)


def _lost(cards: Sequence[CardView]) -> Iterator[NeedView]:
    """Of enabled VPs without another worker: nobody need start one of a VP that is switched off or gone."""
    unmanned = {card.vp.vp_id for card in cards if card.vp.enabled and not card.vp.workers}
    for worker in overview.lost_workers():
        if worker.vp_id not in unmanned:
            continue
        text = f"Worker {worker.worker_id} of {worker.vp_id} died, and none came after it: vp up --detach"
        yield NeedView(kind="worker_lost", vp_id=worker.vp_id, mission=None, since=worker.heartbeat_at, text=text)
