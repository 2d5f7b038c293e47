"""Writes event rows. Only ``transitions``, ``leases`` and ``fleet`` call it, inside their transactions."""

from __future__ import annotations

from typing import Any, Final

from vp_queue.contracts import EventType, limits
from vp_queue.ledger.database import Transaction
from vp_queue.ledger.models import Event, JsonText, Mission, as_json
from vp_queue.ledger.statements import Insertion
from vp_queue.ledger.tally import EVENT

_INSERT: Final = Insertion(Event)


def record_mission_event(
    transaction: Transaction, mission: Mission, event_type: EventType, data: dict[str, Any] | None = None
) -> None:
    """Write the event of a change just made to ``mission``.

    Args:
        transaction: the open write transaction; the event is announced after its commit.
        mission: the row as changed; its ``events`` count, already raised, is the ``mission_seq``.
        event_type: what happened.
        data: JSON-able details; bounded by ``limits.EVENT_DATA_BYTES``.
    """
    _record(transaction, event_type, mission.vp_id, mission.id, mission.events, mission.attempt or None, data)


def record_vp_event(
    transaction: Transaction, vp_id: str, event_type: EventType, data: dict[str, Any] | None = None
) -> None:
    """Write an event about a VP or one of its workers."""
    _record(transaction, event_type, vp_id, None, None, None, data)


def _record(
    transaction: Transaction,
    event_type: EventType,
    vp_id: str,
    mission_id: str | None,
    mission_seq: int | None,
    attempt: int | None,
    data: dict[str, Any] | None,
) -> None:
    data, text = _bounded(data or {})
    row = {
        "mission": mission_id,
        "mission_seq": mission_seq,
        "vp_id": vp_id,
        "attempt": attempt,
        "type": event_type,
        "at": transaction.now,
        "data": data,
    }
    row["seq"] = _INSERT.insert(**{**row, "data": JsonText(text)})
    row["mission_id"] = row.pop("mission")
    transaction.events.append(row)
    transaction.count(vp_id, EVENT[event_type])


def _bounded(data: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The data within its limit: long lists are cut first, then long texts; what remains is still told.

    Returns:
        the data, and the same as JSON.
    """
    shortened = dict(data)
    text = as_json(shortened)
    for keep_items, keep_chars in ((20, 2_000), (5, 500), (0, 200)):
        if len(text.encode()) <= limits.EVENT_DATA_BYTES:
            break
        shortened = {key: _shortened(value, keep_items, keep_chars) for key, value in data.items()} | {
            "truncated": True
        }
        text = as_json(shortened)
    return shortened, text


def _shortened(value: Any, keep_items: int, keep_chars: int) -> Any:
    if isinstance(value, str):
        return value[:keep_chars]
    if isinstance(value, list):
        return [_shortened(item, keep_items, keep_chars) for item in value[:keep_items]]
    if isinstance(value, dict):
        return {key: _shortened(item, keep_items, keep_chars) for key, item in value.items()}
    return value
