"""Waits for missions as tasks (ADR 0026): for a host that understands them, ``vp_wait_mission`` is one.

A task's id holds the mission and where the wait began; everything else is read from the ledger. So a task needs no
memory of this server's: it outlives it, and any server on the same ledger answers for it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import mcp_types as types
from mcp.shared.exceptions import MCPError

from vp_queue.errors import MissionNotFound, VpError
from vp_queue.mcp.extension import Context, Task, UnknownTask, understood_by

if TYPE_CHECKING:
    from vp_queue.contracts import views

TOOL: Final = "vp_wait_mission"
_TASK_ID: Final = re.compile(r"(m-[0-9a-z-]{10,60})\.([0-9]{1,18})")


class MissionTasks:
    """The waits for missions as the backend of the extension."""

    async def create(self, ctx: Context, params: types.CallToolRequestParams) -> Task | None:
        """A task where the call names a mission that is not over, and no time after which to answer.

        Whoever gives ``timeout_seconds`` wants an answer by then, and gets one.
        """
        mission_id = (params.arguments or {}).get("mission_id")
        if params.name != TOOL or set(params.arguments or {}) != {"mission_id"} or not understood_by(ctx):
            return None
        if not isinstance(mission_id, str) or not _TASK_ID.fullmatch(f"{mission_id}.0"):
            return None
        from vp_queue import missions_waits

        def begin() -> Task:
            return self._look(mission_id, missions_waits.begun_at(mission_id))

        try:
            task: Task = await ctx.lifespan_context.calls.read(begin)
        except VpError:  # which the plain call then meets as well, and answers with
            return None
        return task if task.status == "working" else None

    async def get(self, ctx: Context, task_id: str) -> Task:
        """The wait as the ledger has it."""
        mission_id, began_at = self._parts(task_id)
        try:
            task: Task = await ctx.lifespan_context.calls.read(lambda: self._look(mission_id, began_at))
        except MissionNotFound:
            raise UnknownTask(task_id) from None
        except VpError as error:
            raise MCPError(types.INTERNAL_ERROR, error.message, {"error": error.as_dict()}) from None
        return task

    async def update(self, ctx: Context, task_id: str, responses: dict[str, Any]) -> None:
        """A wait asks for nothing: a mission that needs input ends it, as it ends a plain call."""
        await self.get(ctx, task_id)

    async def cancel(self, ctx: Context, task_id: str) -> None:
        """The client waits no more, and nothing here waits for it. The mission goes on: vp_cancel_mission cancels."""
        await self.get(ctx, task_id)

    def _parts(self, task_id: str) -> tuple[str, int]:
        found = _TASK_ID.fullmatch(task_id)
        if found is None:
            raise UnknownTask(task_id)
        return found[1], int(found[2])

    def _look(self, mission_id: str, began_at: int) -> Task:
        from vp_queue import missions_waits
        from vp_queue.mcp.calls import line_of
        from vp_queue.mcp.server import result_of

        over, answer = missions_waits.standing(mission_id, began_at)
        told = answer.dump()
        return Task(
            task_id=f"{mission_id}.{began_at}",
            status="completed" if over else "working",
            message=line_of(answer.mission),
            created_at=told["mission"]["created_at"],
            updated_at=_latest(answer, told),
            result=result_of(told) if over else None,
        )


def _latest(answer: views.WaitAnswer, told: dict[str, Any]) -> str:
    times = [event["at"] for event in told["events"]]
    return str(times[-1] if times else told["mission"]["queued_at"])
