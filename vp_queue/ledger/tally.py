"""What is counted, and the statement that counts it.

A tally is kept in the transaction of what it counts: both are there after a crash, or neither; and it stays when
retention removes missions and events. Whoever changes something says so by ``transaction.count(vp_id, measure)``,
and :func:`~vp_queue.ledger.database.write_transaction` adds up all of it in one statement before it commits.

    event:<type>        events recorded
    attempt:<outcome>   attempts that ended so
    failure:<code>      attempts that failed, or were lost, with this code
    rescue:requeued     lost attempts after which the mission was queued again …
    rescue:ended        … or ended
    wait.sum            seconds that missions were due before they were claimed, …
    wait.upto:<bound>   … and how many waited up to so many seconds, but more than the bound before
    run.sum, run.upto:… the same of attempts, from claim to end
    input_tokens, output_tokens, cost_usd    what attempts reported

``accounts`` reads them. Migration 0005 counted what there was before; bounds cannot change without a migration.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from vp_queue import clock
from vp_queue.contracts import EventType, Outcome

if TYPE_CHECKING:
    from vp_queue.ledger.database import Transaction

DAY_US: Final = 86_400_000_000
BOUNDS_SECONDS: Final = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400)
EVENT: Final = {event: f"event:{event}" for event in EventType}
ATTEMPT: Final[dict[Outcome, str]] = {
    outcome: f"attempt:{outcome}" for outcome in Outcome if outcome != Outcome.RUNNING
}
RESCUE_REQUEUED, RESCUE_ENDED = "rescue:requeued", "rescue:ended"
USED: Final = ("input_tokens", "output_tokens", "cost_usd")
WAIT, RUN = "wait", "run"
UPTO: Final = {
    kind: tuple(f"{kind}.upto:{bound:g}" for bound in (*BOUNDS_SECONDS, float("inf"))) for kind in (WAIT, RUN)
}

Counts = dict[tuple[str, str], float]  # by VP and measure


def day_of(instant: datetime) -> int:
    """The UTC day of an instant, in days since 1970."""
    return clock.to_micros(instant) // DAY_US


def failure(code: str) -> str:
    """The measure of a failure code."""
    return f"failure:{code}"


def claimed(tx: Transaction, vp_id: str, due_at: datetime) -> None:
    """A mission that was due since then was claimed."""
    _took(tx, vp_id, WAIT, due_at)


def attempt_ended(
    tx: Transaction,
    vp_id: str,
    started_at: datetime,
    outcome: Outcome,
    event: EventType,
    failure_code: str | None,
    usage: Mapping[str, Any] | None,
) -> None:
    """An attempt ended.

    Args:
        started_at: when it was claimed.
        event: what that meant for its mission.
        failure_code: why it failed or was lost, if it did.
        usage: what it reported.
    """
    tx.count(vp_id, ATTEMPT[outcome])
    _took(tx, vp_id, RUN, started_at)
    if failure_code is not None:
        tx.count(vp_id, failure(failure_code))
    if outcome == Outcome.LOST:
        tx.count(vp_id, RESCUE_REQUEUED if event == EventType.RETRYING else RESCUE_ENDED)
    for name in USED:
        if usage and usage.get(name):
            tx.count(vp_id, name, usage[name])


def _took(tx: Transaction, vp_id: str, kind: str, since: datetime) -> None:
    seconds = max(0.0, (tx.now - since).total_seconds())  # a wall clock that was set back makes it nothing, not less
    tx.count(vp_id, UPTO[kind][bisect_left(BOUNDS_SECONDS, seconds)])
    tx.count(vp_id, f"{kind}.sum", seconds)


def write(connection: Any, counts: Counts, now: datetime) -> None:
    """Add these counts to their day's, within the open transaction of the driver's connection."""
    day = day_of(now)
    values = [cell for (vp_id, measure), value in counts.items() for cell in (vp_id, day, measure, value)]
    connection.execute(_statement(len(counts)), values)


@lru_cache(maxsize=64)
def _statement(rows: int) -> str:
    # Not by Peewee: rendering it costs more than running it, and a slot would be needed for each number of rows.
    return (
        "INSERT INTO vp_tally (vp_id, day, measure, value) VALUES "  # noqa: S608  of constants
        f"{', '.join(['(?, ?, ?, ?)'] * rows)} "
        "ON CONFLICT (vp_id, day, measure) DO UPDATE SET value = vp_tally.value + excluded.value"
    )
