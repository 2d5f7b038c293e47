"""The tasks extension (io.modelcontextprotocol/tasks, SEP-2663): a call answered by a task to ask for later.

Only the protocol is here: who may use it, and the form of what goes over the wire. What a task is, and where it is
kept, the backend says; ours keeps nothing (``mission_tasks``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field

IDENTIFIER: Final = "io.modelcontextprotocol/tasks"
POLL_MS: Final = 2_000

Context = ServerRequestContext[Any]


@dataclass(frozen=True)
class Task:
    """A task as it stands.

    Attributes:
        task_id: what a client asks for it by.
        status: ``completed`` also where the tool answered with an error.
        message: how it is getting on, for a person or a model.
        created_at, updated_at: RFC 3339.
        result: of a completed one, what the call would have answered.
        error: of a failed one, the JSON-RPC error.
        input_requests: of one that wants input, the requests by their keys.
    """

    task_id: str
    status: Literal["working", "input_required", "completed", "failed", "cancelled"]
    message: str
    created_at: str
    updated_at: str
    result: types.CallToolResult | None = None
    error: dict[str, Any] | None = None
    input_requests: dict[str, Any] | None = None


class Backend(Protocol):
    """Where tasks come from. ``get``, ``update`` and ``cancel`` raise ``UnknownTask``."""

    async def create(self, ctx: Context, params: types.CallToolRequestParams) -> Task | None:
        """The task that stands for this call from now on; None: it is to be answered as usual."""
        ...

    async def get(self, ctx: Context, task_id: str) -> Task:
        """A task as it stands."""
        ...

    async def update(self, ctx: Context, task_id: str, responses: dict[str, Any]) -> None:
        """Take answers to a task's ``input_requests``; those to no open request are ignored."""
        ...

    async def cancel(self, ctx: Context, task_id: str) -> None:
        """The client needs this task no more."""
        ...


class UnknownTask(MCPError):
    """There is no task of this id."""

    def __init__(self, task_id: str) -> None:
        super().__init__(types.INVALID_PARAMS, f"There is no task {task_id[:100]!r}.")


class _TaskParams(types.RequestParams):
    task_id: str = Field(alias="taskId", max_length=200)


class _UpdateParams(_TaskParams):
    input_responses: dict[str, Any] = Field(alias="inputResponses")


_Params = TypeVar("_Params", bound=_TaskParams)


def offer(server: Server[Any], backend: Backend) -> None:
    """Have a server serve the extension's methods and say so."""

    # Parameters are judged once it is known that the client may ask at all.
    async def get(ctx: Context, _: types.RequestParams) -> dict[str, Any]:
        _check(ctx)
        asked = _asked(ctx, _TaskParams)
        return wire(await backend.get(ctx, asked.task_id), whole=True)

    async def update(ctx: Context, _: types.RequestParams) -> dict[str, Any]:
        _check(ctx)
        asked = _asked(ctx, _UpdateParams)
        await backend.update(ctx, asked.task_id, asked.input_responses)
        return {}

    async def cancel(ctx: Context, _: types.RequestParams) -> dict[str, Any]:
        _check(ctx)
        asked = _asked(ctx, _TaskParams)
        await backend.cancel(ctx, asked.task_id)
        return {}

    server.extensions[IDENTIFIER] = {}
    server.add_request_handler("tasks/get", types.RequestParams, get)
    server.add_request_handler("tasks/update", types.RequestParams, update)
    server.add_request_handler("tasks/cancel", types.RequestParams, cancel)


def understood_by(ctx: Context) -> bool:
    """Whether this request's client understands tasks: both by its protocol and by what it declares."""
    declared = ctx.session.client_capabilities
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS and IDENTIFIER in ((declared and declared.extensions) or {})


def wire(task: Task, *, whole: bool = False) -> dict[str, Any]:
    """A task as it goes over the wire.

    Args:
        whole: with what it has come to, for ``tasks/get``; else as the answer to the call that it stands for.
    """
    told: dict[str, Any] = {
        "resultType": "complete" if whole else "task",
        "taskId": task.task_id,
        "status": task.status,
        "statusMessage": task.message,
        "createdAt": task.created_at,
        "lastUpdatedAt": task.updated_at,
        "ttlMs": None,
        "pollIntervalMs": POLL_MS,
    }
    if whole and task.result is not None:
        told["result"] = task.result.model_dump(by_alias=True, mode="json", exclude_none=True)
    if whole and task.error is not None:
        told["error"] = task.error
    if whole and task.input_requests is not None:
        told["inputRequests"] = task.input_requests
    return told


def _asked(ctx: Context, model: type[_Params]) -> _Params:
    """The parameters, which must name the task that the Mcp-Name header names: a proxy may have routed by it.

    The SDK compares them for the methods it knows. A request without the header went through no such proxy.
    """
    asked = model.model_validate(ctx.params, by_name=False)
    named = ctx.request.headers.get(MCP_NAME_HEADER) if ctx.request is not None else None
    if named is not None and decode_header_value(named) != asked.task_id:
        raise MCPError(types.HEADER_MISMATCH, "Mcp-Name header does not match the request's taskId")
    return asked


def _check(ctx: Context) -> None:
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        raise MCPError(types.METHOD_NOT_FOUND, "Method not found", ctx.method)
    if not understood_by(ctx):
        needed: dict[str, Any] = {"requiredCapabilities": {"extensions": {IDENTIFIER: {}}}}
        raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, "Missing required client capability", needed)
