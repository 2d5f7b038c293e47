"""An event as others are told it: a CloudEvent 1.0 in its structured JSON form."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from vp_queue import clock
from vp_queue.contracts import EventType
from vp_queue.contracts.views import EventView, MissionView

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
TYPE_PREFIX: Final = "vp_queue."
TEST_TYPE: Final = "notify.test"
OBJECTIVE_CHARS: Final = 300
RESULT_CHARS: Final = 2_000


@dataclass(frozen=True)
class Notice:
    """One event for one sink.

    Attributes:
        id: the same each time the same event is sent to the same sink; what receivers tell repetitions by.
        type: of the event, without the prefix.
        vp_id: whose event it is.
        mission_id: of which mission, if any.
        body: the CloudEvent as JSON.
    """

    id: str
    type: str
    vp_id: str
    mission_id: str | None
    body: bytes


def notice(sink: str, event: EventView, mission: MissionView | None) -> Notice:
    """What a sink is told of an event.

    Args:
        sink: its key; a part of the id, so that each sink has repetitions of its own.
        event: what happened.
        mission: to which mission, as it is now.
    """
    # With its time: a ledger that was restored from a backup gives the same seq to another event.
    notice_id = f"{sink}-{event.seq}-{clock.to_micros(event.at)}"
    data = {"event": event.dump(), "mission": None if mission is None else _summary(mission)}
    return _made(notice_id, event.type, event.vp_id, event.mission_id, clock.as_text(event.at), data)


def test_notice(vp_id: str) -> Notice:
    """What ``vp notify test`` sends: of no event, with an id of its own."""
    data = {"event": None, "mission": None, "message": "This is a test of [notify], sent by vp notify test."}
    return _made(f"test-{clock.new_token()}", TEST_TYPE, vp_id, None, clock.as_text(clock.now()), data)


def _made(
    notice_id: str, event_type: EventType | str, vp_id: str, mission_id: str | None, time: str, data: dict[str, Any]
) -> Notice:
    event = {
        "specversion": "1.0",
        "id": notice_id,
        "source": f"vp-queue://{quote(platform.node() or 'localhost')}/{quote(vp_id)}",
        "type": f"{TYPE_PREFIX}{event_type}",
        **({} if mission_id is None else {"subject": mission_id}),
        "time": time,
        "datacontenttype": "application/json",
        "data": data,
    }
    body = json.dumps(event, ensure_ascii=True, separators=(",", ":")).encode()
    return Notice(notice_id, str(event_type), vp_id, mission_id, body)


def _summary(mission: MissionView) -> dict[str, Any]:
    """What a person is told of a mission; its texts are bounded, and its log stays where it is."""
    failure = mission.failure
    return {
        "mission_id": mission.mission_id,
        "vp_id": mission.vp_id,
        "mission_type": mission.mission_type,
        "objective": _cut(mission.objective, OBJECTIVE_CHARS),
        "status": str(mission.status),
        "attempt": mission.attempt,
        "result": None if mission.result is None else _cut(mission.result, RESULT_CHARS),
        "failure": None if failure is None else {"code": failure.code, "message": _cut(failure.message, RESULT_CHARS)},
        "question": None if mission.question is None else mission.question.dump(),
        "workspace": mission.workspace,
        "source_session_id": mission.source_session_id,
    }


def _cut(text: str, most_chars: int) -> str:
    return text if len(text) <= most_chars else text[: most_chars - 1] + "…"
