"""What travels through Huey, as JSON: wake-ups, revocations, results. Never pickle.

Huey's default serializer is pickle: whoever can write the database file runs code in every worker. It is
also used for revocations (a tuple) and results, so a serializer that knows only messages would raise in
``is_revoked`` after the row was taken, and lose it. Each kind is tagged.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any, Final

from huey.registry import Message
from huey.serializer import Serializer
from huey.utils import Error

TASK_NAME: Final = "vp_queue.queue.huey.run_mission"
MESSAGE_BYTES: Final = 4_096
_as_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_WAKE_UP_ID: Final = re.compile(r"(m-[0-9a-z-]{10,60})\.([1-9][0-9]{0,8})")


def wake_up_id(mission_id: str, attempt: int) -> str:
    """Huey's task id of a mission's attempt: ``<mission_id>.<attempt>``."""
    return f"{mission_id}.{attempt}"


def parse_wake_up_id(task_id: object) -> tuple[str, int] | None:
    """The mission id and attempt number of a task id, or None if it is not one of ours."""
    match = _WAKE_UP_ID.fullmatch(task_id) if isinstance(task_id, str) else None
    return (match[1], int(match[2])) if match else None


class JsonSerializer(Serializer):
    """Huey's values as tagged JSON."""

    def _serialize(self, data: Any) -> bytes:
        if isinstance(data, Message):
            fields = {key: _plain(value) for key, value in data._asdict().items() if value not in (None, {}, ())}
            body: dict[str, Any] = {"message": fields}
        elif isinstance(data, Error):  # itself a tuple, so it is looked for first
            body = {"error": data.metadata}
        elif isinstance(data, tuple):
            body = {"tuple": [_plain(value) for value in data]}
        else:
            body = {"value": data}
        return _as_json(body).encode()

    def _deserialize(self, data: bytes) -> Any:
        body = json.loads(bytes(data))
        kind, value = next(iter(body.items()))
        if kind == "message":
            fields = {key: _rich(item) for key, item in value.items()}
            fields.setdefault("kwargs", {})
            return Message(**fields)
        if kind == "tuple":
            return tuple(_rich(item) for item in value)
        return Error(value) if kind == "error" else value


def _plain(value: Any) -> Any:
    return {"at": value.isoformat()} if isinstance(value, datetime) else value


def _rich(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"at"}:
        return datetime.fromisoformat(value["at"])
    return value


def check_wake_up(data: bytes) -> str | None:
    """Why a queue row is no wake-up of ours, or None if it is one. Looks only; executes nothing."""
    if len(data) > MESSAGE_BYTES:
        return f"longer than {MESSAGE_BYTES} bytes"
    try:
        body = json.loads(bytes(data))
        fields = body["message"]
        name, task_id, arguments = fields["name"], fields["id"], fields["args"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "not a JSON message"
    if len(body) != 1:  # the first of its kinds is what would be read
        return "a message that is two things at once"
    if name != TASK_NAME:
        return "an unknown task"
    parsed = parse_wake_up_id(task_id)
    if parsed is None or arguments != list(parsed) or type(arguments[1]) is not int:
        return "not the arguments of run_mission"
    if fields.keys() - {
        "id",
        "name",
        "args",
        "priority",
        "expires",
        "expires_resolved",
        "retries",
        "retry_delay",
        "retry_backoff",
    }:
        return "a message with parts that vp-queue never writes"
    priority = fields.get("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int | float):
        return "a message whose priority is no number"
    if any(fields.get(key) for key in ("retries", "retry_delay", "retry_backoff")):
        return "a message that asks Huey to retry"
    if not _is_instant(fields.get("expires"), aware=True) or not _is_instant(
        fields.get("expires_resolved"), aware=False
    ):
        return "a message with no valid time of expiry"
    return None


def is_revocation(data: bytes) -> bool:
    """Whether this is what :class:`JsonSerializer` writes for a revocation: (until or None, once)."""
    try:
        value = JsonSerializer()._deserialize(data)
    except (ValueError, KeyError, TypeError, StopIteration, AttributeError, RecursionError):
        return False
    return isinstance(value, tuple) and len(value) == 2 and _is_instant(_plain(value[0]), aware=False)


def _is_instant(value: Any, *, aware: bool) -> bool:
    """Whether it is absent or reads back as a time as we write it; Huey compares it after the row is gone."""
    try:
        instant = _rich(value)
        return instant is None or (isinstance(instant, datetime) and (instant.utcoffset() is not None) == aware)
    except (ValueError, TypeError):
        return False
