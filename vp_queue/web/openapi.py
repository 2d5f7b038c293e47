"""The API's description (OpenAPI 3.1), made from the models that judge requests and make answers.

So it cannot say something else than the code does. What models do not know stands here: addresses that answer with
something else than JSON, headers, and which errors to expect where.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from vp_queue import __version__
from vp_queue.contracts import views
from vp_queue.errors import (
    ArtifactNotFound,
    ExecutorUnavailable,
    IdempotencyConflict,
    InternalError,
    LedgerBusy,
    LedgerUnavailable,
    LimitExceeded,
    MissionNotFound,
    NotRetryableState,
    TargetPathDenied,
    Unauthorized,
    UnknownVp,
    ValidationError,
    VpDisabled,
    VpError,
)
from vp_queue.tools import Operation
from vp_queue.web import operations
from vp_queue.web.operations import ADDRESSES, BASE, Address
from vp_queue.web.streams import EVENT_STREAM

Part = dict[str, Any]

SCHEMAS: Final = "#/components/schemas/"
_MISSION: Final = "m-0mdq3v8k2f-7x0k3w9c2h1"
EXAMPLES: Final[dict[str, Part]] = {
    "vp_dispatch_mission": {
        "vp_id": "vp.general.primary",
        "objective": "Write a poem about queues and save it as poem.md.",
        "idempotency_key": "poem-2026-11-25",
        "budget": {"max_duration_seconds": 600},
    },
    "vp_cancel_mission": {"reason": "not needed any more"},
    "vp_retry_mission": {"guidance": "Shorter lines, please.", "idempotency_key": "poem-2026-11-25-again"},
    "vp_pause_vp": {"reason": "API quota"},
    "vp_drain_vp": {"reason": "upgrade tonight"},
    "vp_resume_vp": {},
}
_READ_ERRORS: Final = (Unauthorized, ValidationError, InternalError, LedgerUnavailable, LedgerBusy)
_MISSION_ERRORS: Final = (MissionNotFound,)
_ERRORS: Final[dict[str, tuple[type[VpError], ...]]] = {
    "vp_dispatch_mission": (
        UnknownVp,
        VpDisabled,
        TargetPathDenied,
        ExecutorUnavailable,
        LimitExceeded,
        IdempotencyConflict,
    ),
    "vp_retry_mission": (
        UnknownVp,
        VpDisabled,
        TargetPathDenied,
        ExecutorUnavailable,
        LimitExceeded,
        IdempotencyConflict,
        NotRetryableState,
    ),
    "vp_read_result_artifacts": (ArtifactNotFound,),
    "vp_download_artifact": (ArtifactNotFound,),
    "vp_read_log": (ArtifactNotFound,),
    "vp_pause_vp": (UnknownVp,),
    "vp_drain_vp": (UnknownVp,),
    "vp_resume_vp": (UnknownVp,),
}
_RETRY_AFTER: Final = {
    "Retry-After": {"description": "Seconds after which trying again makes sense.", "schema": {"type": "integer"}}
}


@functools.cache
def document() -> Part:
    """The whole document."""
    paths: dict[str, Part] = {}
    for each in ADDRESSES:
        paths.setdefault(BASE + each.path, {})[each.method.lower()] = _operation(each)
    paths |= _special()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vp-queue",
            "version": __version__,
            "summary": "Durable, observable delegation of missions to agents",
            "description": "Every answer is the one of the tool of the same name. A failure is the error object, with "
            "its status; `retryable` says whether trying again can help.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in ("missions", "events", "vps", "server")],
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": _security_schemes()},
    }


def _security_schemes() -> Part:
    return {
        "bearer": {"type": "http", "scheme": "bearer", "description": "VP_TOKEN, or the file `token` of VP_HOME."},
        "session": {"type": "apiKey", "in": "cookie", "name": "vp_session", "description": "What /login sets."},
        "csrf": {
            "type": "apiKey",
            "in": "header",
            "name": "X-CSRF-Token",
            "description": "Of the session; with a change that has no bearer token.",
        },
    }


@functools.cache
def _generated() -> tuple[dict[tuple[type, str], Part], Part]:
    """A reference to the schema of each model, and the schemas."""
    wanted: dict[tuple[Any, Any], None] = {(views.ErrorAnswer, "serialization"): None}
    for each in ADDRESSES:
        wanted[each.operation.arguments, "validation"] = None
        wanted[each.operation.answer, "serialization"] = None
    for operation in (operations.FEED, operations.STREAM, operations.LOG, operations.ARTIFACT):
        wanted[operation.arguments, "validation"] = None
    wanted[operations.EventsPage, "serialization"] = None
    found, definitions = models_json_schema(list(wanted), ref_template=SCHEMAS + "{model}")
    return {key: dict(value) for key, value in found.items()}, dict(definitions["$defs"])


def _schemas() -> Part:
    schemas = dict(_generated()[1])
    # Their fields stand with each operation, in the path, the query or the body.
    for each in ADDRESSES:
        if each.method == "GET" or "{" in each.path:
            schemas.pop(_name(each.operation.arguments), None)
    for operation in (operations.FEED, operations.STREAM, operations.LOG, operations.ARTIFACT):
        schemas.pop(_name(operation.arguments), None)
    return schemas


def _name(model: type, mode: str = "validation") -> str:
    return str(_generated()[0][model, mode]["$ref"]).removeprefix(SCHEMAS)


def _answer(model: type) -> Part:
    return {"$ref": SCHEMAS + _name(model, "serialization")}


def _operation(address: Address) -> Part:
    operation = address.operation
    schema: Part = _generated()[1][_name(operation.arguments)]
    in_path = re.findall(r"{(\w+)", address.path)
    change = address.method != "GET"
    answer = {"application/json": {"schema": _answer(operation.answer)}}
    told: Part = {"200": {"description": operation.title, "content": answer}}
    if address.creates:
        told["200"]["description"] = "The same request with the same key was there already; nothing new was made."
        told["201"] = {"description": "A new mission.", "content": answer}
    made = _head(operation.name, operation.title, schema, address.path)
    made["parameters"] = _parameters(schema, in_path, in_query=not change)
    if change:
        made["requestBody"] = _body(operation.name, operation.arguments, schema, in_path)
    made["responses"] = {**told, **_errors(operation.name, in_path, change=change)}
    made["security"] = [{"bearer": []}, {"session": [], **({"csrf": []} if change else {})}]
    return made


def _head(name: str, title: str, schema: Part, path: str) -> Part:
    tag = next((tag for tag in ("vps", "missions", "events") if path.startswith(f"/{tag}")), "server")
    return {
        "operationId": name,
        "summary": title,
        "description": schema.get("description", title),
        "tags": [tag],
    }


def _parameters(schema: Part, in_path: Iterable[str], *, in_query: bool) -> list[Part]:
    found = []
    for name, value in schema.get("properties", {}).items():
        place = "path" if name in in_path else "query"
        if place == "query" and not in_query:
            continue
        one = {"name": name, "in": place, "required": name in schema.get("required", []), "schema": _not_null(value)}
        if "description" in one["schema"]:
            one["description"] = one["schema"].pop("description")
        if name == "mission_id":
            one["example"] = _MISSION
        found.append(one)
    return found


def _not_null(schema: Part) -> Part:
    """A schema for a place where null is said by leaving out."""
    kept = {key: value for key, value in schema.items() if key not in ("title", "anyOf")}
    if kept.get("default", ...) is None:
        del kept["default"]
    choices = [each for each in schema.get("anyOf", []) if each.get("type") != "null"]
    if len(choices) == 1:
        return {**choices[0], **kept}
    return {**kept, "anyOf": choices} if choices else kept


def _body(name: str, model: type, schema: Part, in_path: list[str]) -> Part:
    whole: Part = {"$ref": SCHEMAS + _name(model)}
    required = [each for each in schema.get("required", []) if each not in in_path]
    if in_path:
        left = {each: value for each, value in schema["properties"].items() if each not in in_path}
        whole = {"type": "object", "properties": left, "additionalProperties": False}
        if required:
            whole["required"] = required
    return {"required": bool(required), "content": {"application/json": {"schema": whole, "example": EXAMPLES[name]}}}


def _errors(name: str, in_path: list[str], *, change: bool) -> Part:
    kinds = [*_READ_ERRORS, *(_MISSION_ERRORS if "mission_id" in in_path else ()), *_ERRORS.get(name, ())]
    by_status: dict[int, list[str]] = {403: ["unauthorized"]}  # a wrong Host or Origin
    for kind in kinds:
        by_status.setdefault(kind.http_status, []).append(kind.code)
    if change:
        by_status |= {408: ["validation_error"], 413: ["limit_exceeded"]}
    return {str(status): _error(status, codes) for status, codes in sorted(by_status.items())}


def _error(status: int, codes: Iterable[str]) -> Part:
    body = {"application/json": {"schema": _answer(views.ErrorAnswer)}}
    made: Part = {"description": ", ".join(dict.fromkeys(codes)), "content": body}
    if status in (429, 503):
        made["headers"] = _RETRY_AFTER
    if status == 401:
        made["headers"] = {"WWW-Authenticate": {"schema": {"type": "string", "const": "Bearer"}}}
    return made


def _special() -> dict[str, Part]:
    """What does not answer with a tool's JSON."""
    return {
        BASE + operations.FEED_PATH: {"get": _feed()},
        BASE + operations.LOG_PATH: {"get": _log()},
        BASE + "/missions/{mission_id}/artifacts/{path}": {"get": _artifact()},
        BASE + operations.OPENAPI_PATH: {
            "get": _plain("openapi", "This document", "application/json", {"type": "object"})
        },
        "/healthz": {
            "get": _plain("healthz", "Whether the process answers", "application/json", _checks(), open_=True)
        },
        "/readyz": {"get": _plain("readyz", "Whether missions run", "application/json", _checks(), 503, open_=True)},
        "/metrics": {"get": _plain("metrics", "Figures for Prometheus", "text/plain", {"type": "string"})},
    }


def _checks() -> Part:
    checks = {"type": "object", "additionalProperties": {"type": "boolean"}}
    return {"type": "object", "properties": {"ok": {"type": "boolean"}, "checks": checks}, "required": ["ok"]}


def _plain(name: str, title: str, kind: str, schema: Part, other: int | None = None, *, open_: bool = False) -> Part:
    told = {"description": title, "content": {kind: {"schema": schema}}}
    made: Part = {"operationId": name, "summary": title, "tags": ["server"], "responses": {"200": told}}
    if other is not None:
        made["responses"][str(other)] = told
    wanted = (403, ["unauthorized"]), (401, ["unauthorized"]), (500, ["internal_error"])
    for status, codes in wanted:
        if status != 401 or not open_:
            made["responses"][str(status)] = _error(status, codes)
    if name == "metrics":
        made["responses"]["503"] = _error(503, ["ledger_unavailable", "ledger_busy"])
    made["security"] = [] if open_ else [{"bearer": []}, {"session": []}]
    return made


def _reading(operation: Operation, path: str, parameters: list[Part], told: Part) -> Part:
    schema = _generated()[1][_name(operation.arguments)]
    in_path = re.findall(r"{(\w+)", path)
    made = _head(operation.name, operation.title, schema, path)
    made["parameters"] = [*_parameters(schema, in_path, in_query=True), *parameters]
    made["responses"] = {**told, **_errors(operation.name, in_path, change=False)}
    made["security"] = [{"bearer": []}, {"session": []}]
    return made


def _feed() -> Part:
    resume = {
        "name": "Last-Event-ID",
        "in": "header",
        "schema": {"type": "string", "pattern": "^[0-9]{1,18}$"},
        "description": "For a stream: begin after this seq.",
    }
    stream = {
        "type": "string",
        "description": f"With Accept: {EVENT_STREAM}: the events as they happen; `id` is the seq, `event` the type, "
        "`data` the event. Without Last-Event-ID or after it begins now.",
    }
    page = {"application/json": {"schema": _answer(operations.EventsPage)}, EVENT_STREAM: {"schema": stream}}
    made = _reading(
        operations.FEED, operations.FEED_PATH, [resume], {"200": {"description": "Events.", "content": page}}
    )
    made["responses"] |= {"404": _error(404, ["mission_not_found"])}
    return made


def _log() -> Part:
    headers = {
        "X-Next-Offset": {"description": "For offset, to go on from.", "schema": {"type": "integer"}},
        "X-Log-Over": {"description": "Whether nothing will follow.", "schema": {"enum": ["true", "false"]}},
        "X-Attempt": {"description": "Whose log; not there before the first.", "schema": {"type": "integer"}},
    }
    content = {"text/plain": {"schema": {"type": "string"}}}
    told = {"200": {"description": "A piece of the log.", "headers": headers, "content": content}}
    return _reading(operations.LOG, operations.LOG_PATH, [], told)


def _artifact() -> Part:
    wanted = [
        {"name": "Range", "in": "header", "schema": {"type": "string"}, "description": "bytes=FIRST-LAST, one range."},
        {"name": "If-Range", "in": "header", "schema": {"type": "string"}, "description": "The ETag it is a range of."},
        {
            "name": "If-None-Match",
            "in": "header",
            "schema": {"type": "string"},
            "description": "An ETag known already.",
        },
    ]
    content = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
    headers = {"ETag": {"description": "The SHA-256, in quotes.", "schema": {"type": "string"}}}
    told = {
        "200": {"description": "The bytes.", "headers": headers, "content": content},
        "206": {"description": "A part of them.", "headers": headers, "content": content},
        "304": {"description": "Not changed."},
        "416": _error(416, ["validation_error"]),
    }
    made = _reading(operations.ARTIFACT, "/missions/{mission_id}/artifacts/{path}", wanted, told)
    made["responses"]["503"] = _error(503, ["ledger_busy", "ledger_unavailable", "limit_exceeded"])
    return made
