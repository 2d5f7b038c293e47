"""``vp notify``: what waits to be told, trying again what was given up, and a test that really tells.

The answers are JSON-able dicts; what cannot be done raises :class:`VpError`.
"""

from __future__ import annotations

from typing import Any, Final

from vp_queue import clock, missions
from vp_queue.config import Settings
from vp_queue.contracts import DeliveryState
from vp_queue.errors import ConfigurationError, ValidationError
from vp_queue.ledger import database, deliveries
from vp_queue.ledger.deliveries import Counts
from vp_queue.ledger.models import Delivery

LISTED: Final = 500


def report(settings: Settings, *, dead: bool) -> dict[str, Any]:
    """Who is told, and what waits or was given up, oldest first, ``LISTED`` at most.

    Args:
        settings: where the ledger is.
        dead: only what was given up.

    Raises:
        LedgerBusy, LedgerUnavailable: it cannot be read.
    """
    missions.ready(settings)
    with database.read_transaction():
        rows = deliveries.page(DeliveryState.DEAD if dead else None, LISTED)
        counts = deliveries.counts()
    return {
        "ok": True,
        "sinks": [_sink(each) for each in counts],
        "deliveries": [_delivery(row) for row in rows],
        "truncated": len(rows) == LISTED,
    }


def summary() -> list[dict[str, Any]]:
    """Of each sink, how much waits and was given up; the ledger is open."""
    with database.read_transaction():
        return [_sink(each) for each in deliveries.counts()]


def retry(settings: Settings, delivery_id: int | None) -> dict[str, Any]:
    """Try again now: one delivery, or (None) everything that was given up.

    Raises:
        ValidationError: there is no such delivery, or nobody is told by its sink any more.
        LedgerBusy, LedgerUnavailable: nothing was changed.
    """
    missions.ready(settings)
    with database.write_transaction() as tx:
        if delivery_id is not None and deliveries.find(delivery_id) is None:
            raise ValidationError(
                f"There is no delivery {delivery_id}: it was told, or is no longer kept. See: vp notify list",
                field="delivery_id",
            )
        revived = deliveries.revive(tx, delivery_id)
    if delivery_id is not None and not revived:
        raise ValidationError(
            f"[notify] no longer names the receiver of delivery {delivery_id}. Name it there again; when the keeper "
            "has seen that, try again.",
            field="delivery_id",
        )
    return {"ok": True, "revived": revived}


def test(settings: Settings, vp_id: str) -> dict[str, Any]:
    """Tell everybody who is told of this VP, once, that this is a test; from this process and its environment.

    Raises:
        UnknownVp: there is no such VP.
        ConfigurationError: nobody is told of it.
    """
    # Not for `vp status`, which shows how many wait: what tells somebody can start programs.
    from vp_queue.keeper.notice import test_notice
    from vp_queue.keeper.notifier import Teller
    from vp_queue.keeper.outcomes import Again, Given, Refused

    notify = settings.profile(vp_id).notify
    if not notify.sinks:
        raise ConfigurationError(
            f'Nobody is told of {vp_id}: give [notify] or [vp."{vp_id}".notify] in {settings.config_path} a command or '
            "a url",
            key="notify",
        )
    results = []
    for sink in notify.sinks:
        # A folder of its own: the keeper may run the same command now.
        teller = Teller(sink, settings.run_dir / f"notify-test-{clock.new_token()}", lambda: False)
        outcome = teller.tell(notify, test_notice(vp_id))
        results.append(
            {
                "sink": sink.key,
                "kind": sink.kind,
                "label": sink.label,
                "delivered": isinstance(outcome, Given),
                "error": outcome.error if isinstance(outcome, Again | Refused) else None,
            }
        )
    return {"ok": True, "vp_id": vp_id, "results": results}


def _sink(counts: Counts) -> dict[str, Any]:
    return {
        "sink": counts.sink,
        "label": counts.label,
        "pending": counts.pending,
        "dead": counts.dead,
        "failures": counts.failures,
        "rests_until": None if counts.rests_until is None else clock.as_text(counts.rests_until),
    }


def _delivery(row: Delivery) -> dict[str, Any]:
    return {
        "id": row.id,
        "state": row.state,
        "sink": row.sink,
        "type": row.type,
        "vp_id": row.vp_id,
        "mission_id": row.mission_id,
        "event_seq": row.event_seq,
        "event_at": clock.as_text(row.event_at),
        "attempts": row.attempts,
        "next_at": clock.as_text(row.next_at) if row.state == DeliveryState.PENDING else None,
        "tried_at": None if row.tried_at is None else clock.as_text(row.tried_at),
        "error": row.error,
    }
