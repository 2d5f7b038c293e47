"""What an action on all missions that match accepts. A person presses once; the calls go on until nothing is left."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictInt

from vp_queue.contracts import limits
from vp_queue.contracts.requests import Instant, Key, MissionId, Name, SearchText, Session, Strict, Text
from vp_queue.contracts.vocabulary import Status


class Selection(Strict):
    """Missions by the filters of a list, up to the newest there was when somebody decided.

    ``through_mission_id``: of the newest mission that is meant (``missions_bulk.newest_mission_id()`` as the list was
    shown); what is dispatched later is left alone. ``after_mission_id``: ``continue_after`` of the call before.
    ``limit``: of missions, in one call.
    """

    vp_id: Name | None = None
    status: Status | Annotated[list[Status], Field(min_length=1, max_length=len(Status))] | None = None
    source_session_id: Session | None = None
    text: SearchText | None = None
    created_after: Instant | None = None
    created_before: Instant | None = None
    through_mission_id: MissionId
    after_mission_id: MissionId | None = None
    limit: Annotated[StrictInt, Field(ge=1, le=limits.BULK_MISSIONS)] = 200

    @property
    def statuses(self) -> list[Status] | None:
        """The status filter as a list, or None for all."""
        return [self.status] if isinstance(self.status, Status) else self.status


class CancelMatching(Selection):
    """Cancel every matching mission that has not ended."""

    reason: Annotated[Text, Field(max_length=limits.REASON_CHARS)] = Field("", description="Why, for the record.")


class RetryMatching(Selection):
    """Dispatch every matching mission again that failed, was cancelled or expired, and was not retried yet.

    ``token``: a text of the caller's own for this one decision: the same token retries no mission twice.
    """

    guidance: Annotated[Text, Field(min_length=1, max_length=limits.GUIDANCE_CHARS)] | None = None
    token: Annotated[Key, Field(max_length=limits.NAME_CHARS)]
