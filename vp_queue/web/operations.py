"""What the API offers: the tools, and what only HTTP has, as one table of addresses.

The router and the OpenAPI document are both made from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field, StrictInt

from vp_queue import missions, missions_overview, tools
from vp_queue.contracts import EventType, limits, views
from vp_queue.contracts.overview import OverviewAnswer
from vp_queue.contracts.requests import LARGEST_SEQ, GetMission, MissionId, Name, Session, Strict, Text
from vp_queue.tools import Hints, Operation

BASE: Final = "/api/v1"

Seq = Annotated[StrictInt, Field(ge=0, le=LARGEST_SEQ)]
Limit = Annotated[StrictInt, Field(ge=1, le=limits.EVENTS_PAGE)]


class MissionEvents(Strict):
    """A mission's events, oldest first."""

    mission_id: MissionId
    after: Seq = Field(0, description="Only those after this seq.")
    limit: Limit = 100


class Feed(Strict):
    """The events of all missions and VPs, oldest first."""

    after: Seq = Field(0, description="Only those after this seq: next_after of the page before.")
    limit: Limit = 100
    mission_id: MissionId | None = Field(None, description="Only this mission's.")
    source_session_id: Session | None = Field(None, description="Only missions of this session.")
    types: Annotated[list[EventType], Field(min_length=1, max_length=len(EventType))] | None = Field(
        None, description="Only these types; repeat the parameter for several."
    )


class Stream(Strict):
    """The events as they happen. Without ``after`` or the header ``Last-Event-ID`` from now on."""

    after: Seq | None = Field(None, description="Begin after this seq; the header Last-Event-ID comes first.")
    mission_id: MissionId | None = None
    source_session_id: Session | None = None
    types: Annotated[list[EventType], Field(min_length=1, max_length=len(EventType))] | None = None
    limit: Limit | None = Field(
        None, description="Of no meaning here; accepted, since a page of the same address has it."
    )


class EventsPage(views.Answer):
    """``next_after``: for ``after``, to go on from."""

    events: list[views.EventView]
    next_after: int


class HoldVp(Strict):
    """Have a VP start nothing more: paused, or draining."""

    vp_id: Name
    reason: Annotated[Text, Field(max_length=limits.REASON_CHARS)] | None = Field(
        None, description="Why, for the record."
    )


class ResumeVp(HoldVp):
    """Let a VP take from its queue again, after a pause or a drain."""


class VpAnswer(views.Answer):
    vp: views.VpView


class Overview(Strict):
    """What every VP is doing, what went on, and what needs a person, at one instant."""


class OneArtifact(Strict):
    """An artifact's bytes, verified against its hash; nothing else is handed out."""

    mission_id: MissionId
    path: Annotated[Text, Field(min_length=1, max_length=limits.PATH_CHARS)]


class Log(Strict):
    """What the program of an attempt has printed, cleaned of control characters; the header X-Next-Offset goes on."""

    mission_id: MissionId
    offset: Annotated[StrictInt, Field(ge=0, le=2**62)] = Field(
        0, description="In bytes: X-Next-Offset of the piece before."
    )
    attempt: Annotated[StrictInt, Field(ge=1, le=2**31)] | None = Field(
        None, description="Its number; the last if omitted."
    )


def _mission_events(request: MissionEvents) -> EventsPage:
    missions.get(GetMission(mission_id=request.mission_id, events_limit=0))  # a wrong id is an error, not an empty page
    return _page(request.after, missions.events_after(request.after, request.limit, mission_id=request.mission_id))


def _feed(request: Feed) -> EventsPage:
    found = missions.events_after(
        request.after,
        request.limit,
        mission_id=request.mission_id,
        source_session_id=request.source_session_id,
        types=request.types,
    )
    return _page(request.after, found)


def _page(after: int, events: list[views.EventView]) -> EventsPage:
    return EventsPage(events=events, next_after=events[-1].seq if events else after)


def _no_answer(_: Strict) -> views.Answer:
    raise AssertionError("this is answered by other means than JSON")


_READS: Final = Hints(read_only=True)
_WRITES: Final = Hints(idempotent=True)
MISSION_EVENTS: Final = Operation(
    "vp_read_mission_events", "Read a mission's events", MissionEvents, EventsPage, _READS, _mission_events
)
FEED: Final = Operation("vp_read_feed", "Read or follow the feed", Feed, EventsPage, _READS, _feed)
STREAM: Final = Operation("vp_follow_feed", "Follow the feed", Stream, views.Answer, _READS, _no_answer)
PAUSE: Final = Operation(
    "vp_pause_vp", "Pause a VP", HoldVp, VpAnswer, _WRITES, lambda r: VpAnswer(vp=missions.pause(r.vp_id, r.reason))
)
DRAIN: Final = Operation(
    "vp_drain_vp", "Drain a VP", HoldVp, VpAnswer, _WRITES, lambda r: VpAnswer(vp=missions.drain(r.vp_id, r.reason))
)
RESUME: Final = Operation(
    "vp_resume_vp", "Resume a VP", ResumeVp, VpAnswer, _WRITES, lambda r: VpAnswer(vp=missions.resume(r.vp_id))
)
OVERVIEW: Final = Operation(
    "vp_overview", "Overview", Overview, OverviewAnswer, _READS, lambda _: missions_overview.overview()
)
ARTIFACT: Final = Operation(
    "vp_download_artifact", "Download an artifact", OneArtifact, views.Answer, _READS, _no_answer
)
LOG: Final = Operation("vp_read_log", "Read a log", Log, views.Answer, _READS, _no_answer)


@dataclass(frozen=True)
class Address:
    """An operation at a method and a path below ``BASE``; ``creates``: 201 where something new was made."""

    method: str
    path: str
    operation: Operation
    creates: bool = False


def _tool(name: str) -> Operation:
    return tools.DEFINITIONS[f"vp_{name}"]


ADDRESSES: Final = (
    Address("GET", "/missions", _tool("list_missions")),
    Address("POST", "/missions", _tool("dispatch_mission"), creates=True),
    Address("GET", "/missions/{mission_id}", _tool("get_mission")),
    Address("POST", "/missions/{mission_id}/cancel", _tool("cancel_mission")),
    Address("POST", "/missions/{mission_id}/retry", _tool("retry_mission"), creates=True),
    Address("GET", "/missions/{mission_id}/wait", _tool("wait_mission")),
    Address("GET", "/missions/{mission_id}/events", MISSION_EVENTS),
    Address("GET", "/missions/{mission_id}/artifacts", _tool("read_result_artifacts")),
    Address("GET", "/vps", _tool("list_vps")),
    Address("POST", "/vps/{vp_id}/pause", PAUSE),
    Address("POST", "/vps/{vp_id}/drain", DRAIN),
    Address("POST", "/vps/{vp_id}/resume", RESUME),
    Address("GET", "/overview", OVERVIEW),
)
# Answered by other means than a JSON answer alone.
ARTIFACT_PATH: Final = "/missions/{mission_id}/artifacts/{path:path}"
LOG_PATH: Final = "/missions/{mission_id}/log"
FEED_PATH: Final = "/events"
OPENAPI_PATH: Final = "/openapi.json"
