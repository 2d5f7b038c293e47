"""Missions, artifacts and inboxes as resources: what a host may attach to a conversation, or watch.

mission://{id}                    the mission, its attempts and newest events
mission://{id}/artifacts/{+path}  one artifact, verified against its hash
events://{reader}                 a reader's inbox, without acknowledging anything
"""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote, unquote

import mcp_types as types
from mcp.shared.exceptions import MCPError

from vp_queue import tools
from vp_queue.contracts import limits
from vp_queue.errors import NotFound, ValidationError, by_code
from vp_queue.mcp.calls import Calls

LISTED: Final = 50  # the newest missions; the others are reached by their ids
TITLE_CHARS: Final = 80
JSON: Final = "application/json"
MISSION, EVENTS, ARTIFACTS = "mission://", "events://", "/artifacts/"

TEMPLATES: Final = [
    types.ResourceTemplate(
        uri_template="mission://{id}",
        name="mission",
        title="A mission",
        description="The mission with its attempts and newest events, as vp_get_mission answers.",
        mime_type=JSON,
    ),
    types.ResourceTemplate(
        uri_template="mission://{id}/artifacts/{+path}",
        name="artifact",
        title="An artifact of a mission",
        description="One file that an ended mission made, verified against its hash.",
    ),
    types.ResourceTemplate(
        uri_template="events://{reader}",
        name="inbox",
        title="An inbox",
        description="What vp_read_events would give this reader; reading it here acknowledges nothing.",
        mime_type=JSON,
    ),
]


def mission_uri(mission_id: str) -> str:
    """The address of a mission."""
    return f"{MISSION}{mission_id}"


def artifact_uri(mission_id: str, path: str) -> str:
    """The address of an artifact."""
    return f"{MISSION}{mission_id}{ARTIFACTS}{quote(path)}"


async def listed(calls: Calls) -> list[types.Resource]:
    """The newest missions.

    Raises:
        MCPError: the ledger cannot be read.
    """
    answer = await _answer(calls, "vp_list_missions", {"limit": LISTED}, f"{MISSION}…")
    return [
        types.Resource(
            uri=mission_uri(mission["mission_id"]),
            name=mission["mission_id"],
            title=_one_line(mission["objective"]),
            description=f"{mission['status']}, {mission['vp_id']}",
            mime_type=JSON,
        )
        for mission in answer["missions"]
    ]


async def read(calls: Calls, uri: str) -> types.ReadResourceResult:
    """The contents of a resource.

    Raises:
        MCPError: there is no such resource, or it cannot be read now.
    """
    rest = uri.removeprefix(MISSION)
    if rest != uri:
        mission_id, artifacts, path = rest.rstrip("/").partition(ARTIFACTS)
        if artifacts:
            return await _artifact(calls, uri, mission_id, unquote(path))
        return _json(uri, await _answer(calls, "vp_get_mission", {"mission_id": mission_id}, uri))
    reader = uri.removeprefix(EVENTS)
    if reader == uri:
        raise _not_found(uri, None)
    return _json(uri, await _answer(calls, "vp_read_events", {"reader": unquote(reader.rstrip("/"))}, uri))


async def _artifact(calls: Calls, uri: str, mission_id: str, path: str) -> types.ReadResourceResult:
    asked = {"mission_id": mission_id, "paths": [path], "max_bytes": limits.READ_BYTES[1]}
    answer = await _answer(calls, "vp_read_result_artifacts", asked, uri)
    if not answer["artifacts"]:
        raise _not_found(uri, {"message": f"Mission {mission_id} is {answer['status']}: it has no artifacts yet."})
    (artifact,) = answer["artifacts"]
    if artifact["truncated"]:
        message = f"{path} has {artifact['size']} bytes; more than {limits.READ_BYTES[1]} are not handed out here."
        raise MCPError(types.INVALID_PARAMS, f"{message} Use `vp artifacts`.", {"uri": uri})
    if artifact["content"] is None:
        raise _not_found(uri, {"message": f"{path} is {artifact['problem']}: it is not what was published."})
    media_type, content = artifact["media_type"], artifact["content"]
    contents: types.TextResourceContents | types.BlobResourceContents
    if artifact["encoding"] == "base64":
        contents = types.BlobResourceContents(uri=uri, mime_type=media_type, blob=content)
    else:
        contents = types.TextResourceContents(uri=uri, mime_type=media_type, text=content)
    return types.ReadResourceResult(contents=[contents])


def _json(uri: str, answer: dict[str, Any]) -> types.ReadResourceResult:
    text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    return types.ReadResourceResult(contents=[types.TextResourceContents(uri=uri, mime_type=JSON, text=text)])


async def _answer(calls: Calls, name: str, arguments: dict[str, Any], uri: str) -> dict[str, Any]:
    answer: dict[str, Any] = await calls.read(lambda: tools.call(name, arguments))
    if answer["ok"]:
        return answer
    error = answer["error"]
    if issubclass(by_code(error["code"]), NotFound | ValidationError):  # a malformed address names nothing either
        raise _not_found(uri, error)
    raise MCPError(types.INTERNAL_ERROR, error["message"], {"uri": uri, "error": error})


def _not_found(uri: str, error: dict[str, Any] | None) -> MCPError:
    reason = f": {error['message']}" if error else ""
    return MCPError(types.INVALID_PARAMS, f"Resource not found{reason}", {"uri": uri})


def _one_line(text: str) -> str:
    """The beginning of a text that anybody may have written, fit for a list."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * TITLE_CHARS]).split()
    line = " ".join(shown)
    return line if len(line) <= TITLE_CHARS else f"{line[: TITLE_CHARS - 1]}…"
