"""A wait for a mission as something to come back to: begun once, looked at whenever one likes, by any process.

All there is of it is the seq of the newest event when it began. It is over once the mission has ended, or has asked
for input since; what it then answers is what ``vp_wait_mission`` would have.
"""

from __future__ import annotations

from vp_queue.contracts import EventType, Status, limits, views
from vp_queue.contracts import requests as asked
from vp_queue.missions import events_after, get


def begun_at(mission_id: str) -> int:
    """Where a wait that begins now begins: the seq of the mission's newest event.

    Raises:
        MissionNotFound: there is none.
    """
    return get(asked.GetMission(mission_id=mission_id, events_limit=1)).events[-1].seq


def standing(mission_id: str, began_at: int) -> tuple[bool, views.WaitAnswer]:
    """Whether a wait is over, and its answer as things stand.

    Raises:
        MissionNotFound: there is none (any more).
    """
    mission = get(asked.GetMission(mission_id=mission_id, events_limit=0)).mission
    questions = events_after(began_at, 1, mission_id=mission_id, types=[EventType.NEEDS_INPUT])
    over = mission.terminal or mission.status == Status.NEEDS_INPUT or bool(questions)
    events = events_after(began_at, limits.EVENTS_OF_MISSION, mission_id=mission_id)
    return over, views.WaitAnswer(timed_out=not over, mission=mission, events=events)
