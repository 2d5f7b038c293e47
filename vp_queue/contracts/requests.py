"""What the nine tools accept. Strict: a wrong type, an unknown key or hostile text is refused by name.

The descriptions are read by language models through MCP and by people through ``vp schema``, so they
say what to do, briefly.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    WithJsonSchema,
    model_validator,
)

from vp_queue import clock
from vp_queue.contracts import limits
from vp_queue.contracts.paths import check_relative_path, check_workspace_files
from vp_queue.contracts.vocabulary import Status

MISSION_ID_PATTERN = r"^m-[0-9a-z-]{10,60}$"
MISSION_TYPE_PATTERN = r"^[a-z][a-z0-9_.-]*$"
LARGEST_SEQ = 2**63 - 1
_as_json = json.JSONEncoder(ensure_ascii=False).encode  # made once: json.dumps would make an encoder each time


def _clean_text(text: str) -> str:
    """Refuse what SQLite, PostgreSQL or UTF-8 cannot hold alike."""
    if "\0" in text:
        raise ValueError("must not contain a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("must not contain a lone surrogate (text that is not valid Unicode)") from None
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _instant(value: object) -> object:
    """An RFC 3339 text with an offset, or an aware datetime; everything else is refused."""
    if isinstance(value, str):
        if len(value) > 64 or "T" not in value.upper().replace(" ", "T", 1):
            raise ValueError("must be an RFC 3339 time such as 2026-11-22T10:00:00Z")
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("must be an RFC 3339 time such as 2026-11-22T10:00:00Z") from None
    if not isinstance(value, datetime):
        raise ValueError("must be an RFC 3339 time such as 2026-11-22T10:00:00Z")
    if value.utcoffset() is None:
        raise ValueError("must carry a UTC offset (a naive time names no instant); add Z or +00:00")
    try:
        value = value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range") from None
    if not clock.EARLIEST <= value <= clock.LATEST:
        raise ValueError("is out of range (1970 to 9999)")
    return value


def _relative_path(path: str) -> str:
    return check_relative_path(path)


Text = Annotated[StrictStr, AfterValidator(_clean_text)]
Name = Annotated[Text, Field(min_length=1, max_length=limits.NAME_CHARS)]
Key = Annotated[Text, Field(min_length=1, max_length=limits.KEY_CHARS)]
Session = Annotated[Text, Field(min_length=1, max_length=limits.SESSION_CHARS)]
RelativePath = Annotated[Text, Field(min_length=1, max_length=limits.PATH_CHARS), AfterValidator(_relative_path)]
Instant = Annotated[
    datetime, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"}, mode="validation")
]
SearchText = Annotated[Text, Field(min_length=1, max_length=limits.SEARCH_CHARS)]
MissionId = Annotated[StrictStr, Field(pattern=MISSION_ID_PATTERN, description="The mission's id (m-…).")]
# One type, not int | float: 60 and 60.0 are one request, and an int no float can hold is refused, not a crash.
Seconds = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Strict(BaseModel):
    """Base of all requests: immutable, no unknown keys, no NaN."""

    # Built when first used: a command uses few of them, and `vp list` starts 20 ms earlier.
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True, defer_build=True
    )


class Section(Strict):
    """A part of a request whose keys are all optional."""

    def given(self) -> dict[str, Any]:
        """Only what was given: no nulls, no empty containers."""
        return {
            key: value for key, value in vars(self).items() if value not in (None, {}, [])
        }  # JSON's own types, all of them


class Constraints(Section):
    """Where and how a VP may work. Unknown keys are refused."""

    target_path: Annotated[Text, Field(min_length=1, max_length=limits.PATH_CHARS)] | None = Field(
        None, description="Absolute directory to work in; must lie under the VP's allowed_target_roots."
    )
    command: list[Text] | None = Field(
        None,
        min_length=1,
        max_length=limits.COMMAND_ARGUMENTS,
        description='Program and arguments, for mission_type="command" where the VP allows commands.',
    )
    files: dict[RelativePath, Text] = Field(
        default_factory=dict,
        max_length=limits.FILES_COUNT,
        description="Text files to put into the workspace: relative path to content.",
    )
    require_artifacts: list[Annotated[Text, Field(min_length=1, max_length=limits.PATH_CHARS)]] = Field(
        default_factory=list,
        max_length=limits.GLOBS_COUNT,
        description="Globs under work_products/ that must match for success.",
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.command is not None:
            if not self.command[0]:
                raise ValueError("command: the first element, the program, must not be empty")
            if sum(len(part.encode()) for part in self.command) > limits.COMMAND_BYTES:
                raise ValueError(f"command: must not exceed {limits.COMMAND_BYTES} bytes")
        if sum(len(text.encode()) for text in self.files.values()) > limits.FILES_BYTES:
            raise ValueError(f"files: contents together must not exceed {limits.FILES_BYTES} bytes")
        try:
            check_workspace_files(self.files)
        except ValueError as error:
            raise ValueError(f"files: {error}") from None
        return self


class Budget(Section):
    """What a mission may use, enforced by the worker. Unknown keys are refused."""

    max_duration_seconds: Annotated[Seconds, Field(gt=0, le=limits.DURATION_SECONDS)] | None = None
    max_cost_usd: Annotated[Seconds, Field(gt=0, le=limits.COST_USD)] | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1, le=limits.TOKENS)] | None = None
    max_turns: Annotated[StrictInt, Field(ge=1, le=limits.TURNS)] | None = None


def _bounded_metadata(metadata: dict[str, str]) -> dict[str, str]:
    if len(_as_json(metadata).encode()) > limits.METADATA_BYTES:
        raise ValueError(f"must not exceed {limits.METADATA_BYTES} bytes")
    return metadata


class DispatchMission(Strict):
    """Delegate a long piece of work to a VP. Returns at once; follow with vp_wait_mission."""

    vp_id: Name = Field(description="Which VP (see vp_list_vps), e.g. vp.general.primary.")
    objective: Annotated[Text, Field(min_length=1, max_length=limits.OBJECTIVE_CHARS), AfterValidator(_not_blank)] = (
        Field(description="What to achieve, complete in itself: the VP sees no conversation.")
    )
    mission_type: Annotated[Name, Field(pattern=MISSION_TYPE_PATTERN)] = Field(
        "task", description='"task", or "command" with constraints.command.'
    )
    constraints: Constraints = Field(default_factory=lambda: Constraints())
    budget: Budget = Field(default_factory=lambda: Budget())
    idempotency_key: Key | None = Field(
        None, description="Give one, new for each piece of work: same key and request = the same mission."
    )
    priority: Annotated[StrictInt, Field(ge=limits.PRIORITY_RANGE[0], le=limits.PRIORITY_RANGE[1])] = Field(
        0, description="Higher runs first."
    )
    not_before: Instant | None = Field(None, description="Do not start before (RFC 3339 with offset).")
    expires_at: Instant | None = Field(None, description="Expire if not started by then.")
    max_attempts: Annotated[StrictInt, Field(ge=1, le=limits.MAX_ATTEMPTS)] = Field(
        1, description="Attempts if one fails; a rerun repeats side effects."
    )
    source_session_id: Session | None = Field(None, description="Your session, to filter lists and events by.")
    metadata: Annotated[dict[Text, Text], AfterValidator(_bounded_metadata)] = Field(
        default_factory=dict, description="Your own notes, text to text; up to 16 KB."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.mission_type == "command") != (self.constraints.command is not None):
            raise ValueError('constraints.command: goes together with mission_type="command"; give both or neither')
        if self.not_before and self.expires_at and self.expires_at <= self.not_before:
            raise ValueError("expires_at: must be later than not_before")
        return self

    def digest(self) -> str:
        """SHA-256 of the request with defaults filled in and times as instants: equal requests, equal digests."""
        return request_digest(self.model_dump(mode="json", exclude={"idempotency_key"}))


def request_digest(request: dict[str, Any]) -> str:
    """A canonical hash of a JSON-able request."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class GetMission(Strict):
    """One mission with its attempts and newest events."""

    mission_id: MissionId
    events_limit: Annotated[StrictInt, Field(ge=0, le=limits.EVENTS_OF_MISSION)] = Field(
        20, description="How many of the newest events."
    )


class ListMissions(Strict):
    """Missions, newest first, with counts by status."""

    vp_id: Name | None = None
    status: Status | Annotated[list[Status], Field(min_length=1, max_length=len(Status))] | None = Field(
        None, description="One status or a list."
    )
    source_session_id: Session | None = None
    limit: Annotated[StrictInt, Field(ge=1, le=limits.LIST_PAGE)] = 50
    cursor: Annotated[StrictStr, Field(pattern=MISSION_ID_PATTERN)] | None = Field(
        None, description="next_cursor of the page before."
    )
    text: SearchText | None = Field(None, description="In objective or result, or begins the id.")
    created_after: Instant | None = None
    created_before: Instant | None = None

    @property
    def statuses(self) -> list[Status] | None:
        """The status filter as a list, or None for all."""
        return [self.status] if isinstance(self.status, Status) else self.status


class WaitMission(Strict):
    """Wait until a mission ends or needs input, or the time is up; call again to go on waiting."""

    mission_id: MissionId
    timeout_seconds: Annotated[Seconds, Field(ge=0, le=limits.WAIT_SECONDS)] = Field(
        45, description="Answer by then at the latest; many hosts end a call after 60."
    )


class CancelMission(Strict):
    """Cancel a mission. A queued one ends at once; a running one when its program is proved dead."""

    mission_id: MissionId
    reason: Annotated[Text, Field(max_length=limits.REASON_CHARS)] = Field("", description="Why, for the record.")


class ReadResultArtifacts(Strict):
    """A mission's result and the contents of its artifacts, verified against their hashes."""

    mission_id: MissionId
    paths: (
        Annotated[
            list[Annotated[Text, Field(min_length=1, max_length=limits.PATH_CHARS)]],
            Field(min_length=1, max_length=limits.PATH_COUNT),
        ]
        | None
    ) = Field(None, description="Only these; all if omitted.")
    max_files: Annotated[StrictInt, Field(ge=1, le=limits.READ_FILES)] = 20
    max_bytes: Annotated[StrictInt, Field(ge=limits.READ_BYTES[0], le=limits.READ_BYTES[1])] = Field(
        200_000, description="Total content returned."
    )


class RetryMission(Strict):
    """Dispatch a failed, cancelled or expired mission again as a new one, optionally with guidance."""

    mission_id: MissionId
    guidance: Annotated[Text, Field(min_length=1, max_length=limits.GUIDANCE_CHARS)] | None = Field(
        None, description="What to do differently; stands in the new briefing."
    )
    idempotency_key: Key | None = None


class ReadEvents(Strict):
    """Your durable inbox: events after the last you acknowledged, across restarts."""

    reader: Name = Field(description="Your stable name, e.g. simone.")
    limit: Annotated[StrictInt, Field(ge=1, le=limits.EVENTS_PAGE)] = 100
    acknowledge: Annotated[StrictInt, Field(ge=0, le=LARGEST_SEQ)] | None = Field(
        None, description="Highest seq you have handled."
    )
    source_session_id: Session | None = Field(None, description="Only missions of this session.")
    wait_seconds: Annotated[Seconds, Field(ge=0, le=limits.FEED_WAIT_SECONDS)] = Field(
        0, description="Wait this long for a first event."
    )


class ListVps(Strict):
    """The VPs: what they are for, whether they can run, queue depth, workers."""
