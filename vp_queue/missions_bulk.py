"""Cancel and retry on all missions that match: each in a transaction of its own, as if somebody had done it one by one.

What is meant is fixed when it is decided: all that match up to the newest mission there was. A call changes so many, or
works so long, and says where it stopped; the next goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vp_queue import clock, missions
from vp_queue.contracts import limits
from vp_queue.contracts import requests as asked
from vp_queue.contracts.overview import BulkAnswer, BulkError
from vp_queue.contracts.selections import CancelMatching, RetryMatching, Selection
from vp_queue.errors import LedgerUnavailable, VpError
from vp_queue.ledger import database, lists
from vp_queue.missions_lists import filter_of

Find = Callable[[lists.Filter, str, str | None, int], list[str]]


def newest_mission_id() -> str | None:
    """What ``through_mission_id`` is to be for a decision made now; None: there are no missions."""
    missions.ready()
    with database.read_transaction():
        return lists.newest_id()


def count_matching(request: CancelMatching | RetryMatching) -> int:
    """How many missions it would concern now, counted up to ``limits.BULK_MATCHED``; nothing is changed."""
    missions.ready()
    find = lists.cancellable if isinstance(request, CancelMatching) else lists.retryable
    with database.read_transaction():
        return len(find(filter_of(request), request.through_mission_id, request.after_mission_id, limits.BULK_MATCHED))


def cancel_matching(request: CancelMatching) -> BulkAnswer:
    """Cancel all matching missions that have not ended; passed over are those that somebody asked to
    cancel already, and those whose status is none of the wanted any more as their turn comes.

    Raises:
        LedgerBusy, LedgerUnavailable: nothing was changed.
    """

    def cancel(mission_id: str) -> str | None:
        # Of those that were queued as they were found, some may run by now: nobody pressed for these.
        one = asked.CancelMission(mission_id=mission_id, reason=request.reason)
        return mission_id if missions.cancel(one, only=request.statuses).changed else None

    return _on_all(request, lists.cancellable, cancel)


def retry_matching(request: RetryMatching) -> BulkAnswer:
    """Dispatch all matching missions again that did not complete; those that were retried already are passed over.

    Raises:
        LedgerBusy, LedgerUnavailable: nothing was dispatched.
    """

    def retry(mission_id: str) -> str | None:
        key = f"bulk-retry:{request.token}:{mission_id}"
        again = asked.RetryMission(mission_id=mission_id, guidance=request.guidance, idempotency_key=key)
        answer = missions.retry(again)
        return answer.mission.mission_id if answer.created else None

    return _on_all(request, lists.retryable, retry)


def _on_all(request: Selection, find: Find, change: Callable[[str], str | None]) -> BulkAnswer:
    missions.ready()
    wanted, through = filter_of(request), request.through_mission_id
    deadline = clock.monotonic() + limits.BULK_SECONDS
    with database.read_transaction():
        matched = find(wanted, through, request.after_mission_id, limits.BULK_MATCHED)
    changed: list[str] = []
    errors: list[BulkError] = []
    done = 0
    for mission_id in matched[: request.limit]:
        if done and clock.monotonic() > deadline:
            break
        try:
            found = change(mission_id)
        except VpError as error:
            if error.retryable or isinstance(error, LedgerUnavailable):
                if not done:
                    raise
                break  # the ledger is in trouble, not this mission: it is left for the next call
            errors.append(BulkError(mission_id=mission_id, code=error.code, message=error.message))
        else:
            if found is not None:
                changed.append(found)
        done += 1
    return _answer(request, matched, done, changed, errors)


def _answer(
    request: Selection, matched: Sequence[str], done: int, changed: list[str], errors: list[BulkError]
) -> BulkAnswer:
    return BulkAnswer(
        matched=len(matched),
        changed=len(changed),
        left=len(matched) - done,
        continue_after=matched[done - 1] if done else request.after_mission_id,
        errors=errors[: limits.BULK_ERRORS],
        failed=len(errors),
        retried=changed if isinstance(request, RetryMatching) else [],
    )
