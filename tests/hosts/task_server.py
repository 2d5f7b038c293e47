"""Our MCP server over HTTP with the tools that the conformance suite's task scenarios want in place of ours.

Only the tools and what their tasks do are made up. The tasks extension, the guard, the transport and all else that a
request passes through are the real ones: ``vp_queue.mcp.extension``, ``server.Face``, ``http.serve``.

Run as a program, it tells its address on stderr, as `vp mcp --http` does.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, field
from typing import Any

import mcp_types as types
from mcp.shared.exceptions import MCPError

from vp_queue import clock
from vp_queue.mcp import extension, http, server, sockets
from vp_queue.mcp.extension import Context, Task, UnknownTask

SYNC = ("greet",)
ONLY_AS_TASK = ("failing_job", "test_tool_with_task")
# How long each takes to do, and what it asks its user for.
SECONDS = {"slow_compute": 0.0, "failing_job": 1.0, "protocol_error_job": 1.0}
ASKS = {"confirm_delete": ["confirm"], "multi_input": ["first", "second"]}
TOOLS = (*SYNC, *SECONDS, *ASKS, "test_tool_with_task")


def elicit(message: str) -> types.ElicitRequest:
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "confirm": {"type": "boolean"}}}
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


@dataclass
class Job:
    """A task of a made-up tool; what it has come to follows from the clock."""

    task_id: str
    tool: str
    said: str
    seconds: float
    asks: list[str]
    created_at: str
    began: float = field(default_factory=clock.monotonic)
    cancelled: bool = False

    def task(self) -> Task:
        """The task as it stands."""
        base = (self.created_at, clock.as_text(clock.now()))
        if self.cancelled:
            return Task(self.task_id, "cancelled", "cancelled", *base)
        if self.asks:
            requests = {key: elicit(key).model_dump(by_alias=True, mode="json", exclude_none=True) for key in self.asks}
            return Task(self.task_id, "input_required", "asks", *base, input_requests=requests)
        if clock.monotonic() - self.began < self.seconds:
            return Task(self.task_id, "working", "works", *base)
        if self.tool == "protocol_error_job":
            error = {"code": types.INTERNAL_ERROR, "message": "it broke"}
            return Task(self.task_id, "failed", "broke", *base, error=error)
        return Task(self.task_id, "completed", "done", *base, result=self.result())

    def result(self) -> types.CallToolResult:
        """What the call would have answered."""
        return types.CallToolResult(
            content=[types.TextContent(text=self.said)],
            structured_content={"said": self.said},
            is_error=self.tool == "failing_job",
        )


class Jobs:
    """The backend of the extension."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._jobs: dict[str, Job] = {}

    def job(self, params: types.CallToolRequestParams) -> Job:
        """A new job for a call."""
        given = params.arguments or {}
        seconds = float(given.get("seconds", SECONDS.get(params.name, 0.0)))
        answers = [answer.content for answer in (params.input_responses or {}).values()]  # type: ignore[union-attr]
        said = f"Hello, {given.get('name', answers)}!"
        number = f"job-{next(self._numbers)}"
        return Job(number, params.name, said, seconds, list(ASKS.get(params.name, ())), clock.as_text(clock.now()))

    async def create(self, ctx: Context, params: types.CallToolRequestParams) -> Task | None:
        if params.name in SYNC or not extension.understood_by(ctx):
            return None
        job = self.job(params)
        self._jobs[job.task_id] = job
        return job.task()

    async def get(self, ctx: Context, task_id: str) -> Task:
        return self._find(task_id).task()

    async def update(self, ctx: Context, task_id: str, responses: dict[str, Any]) -> None:
        job = self._find(task_id)
        job.asks = [key for key in job.asks if key not in responses]

    async def cancel(self, ctx: Context, task_id: str) -> None:
        job = self._find(task_id)
        job.cancelled = job.cancelled or job.task().status in ("working", "input_required")

    def _find(self, task_id: str) -> Job:
        if task_id not in self._jobs:
            raise UnknownTask(task_id)
        return self._jobs[task_id]


class TaskFace(server.Face):
    """Our server, whose tools are those of the suite."""

    def __init__(self) -> None:
        super().__init__()
        self._jobs = Jobs()
        extension.offer(self.server, self._jobs)
        self.server.add_request_handler("tools/list", types.PaginatedRequestParams, self._list)
        self.server.add_request_handler("tools/call", types.CallToolRequestParams, self._call)

    async def _list(self, _: Context, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[types.Tool(name=name, input_schema={"type": "object"}) for name in TOOLS])

    async def _call(self, ctx: Context, params: types.CallToolRequestParams) -> Any:
        if params.name not in TOOLS:
            raise MCPError(types.INVALID_PARAMS, f"There is no tool {params.name!r}.")
        if params.name in ONLY_AS_TASK:
            extension._check(ctx)
        if params.name == "test_tool_with_task" and not params.input_responses:
            return types.InputRequiredResult(input_requests={"user_name": elicit("Your name?")})
        task = await self._jobs.create(ctx, params)
        return extension.wire(task) if task is not None else self._jobs.job(params).result()


def main() -> None:
    """Serve on any free port."""
    server.Face = TaskFace  # type: ignore[misc]
    opened = sockets.listen("127.0.0.1", 0)
    print(f"MCP server on http://127.0.0.1:{opened.getsockname()[1]}{http.PATH}", file=sys.stderr, flush=True)
    http.serve(opened, token=None)


if __name__ == "__main__":
    main()
