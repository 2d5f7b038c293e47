"""An orchestrator's use of the tools, from dispatch to acknowledged outcome, against a running installation.

    vp up --detach
    python examples/simone.py "Write a poem about tea"

An agent does the same by tool calls; the skill in skills/vp-orchestration tells it how.
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

from vp_queue.tools import (
    vp_dispatch_mission,
    vp_list_vps,
    vp_read_events,
    vp_read_result_artifacts,
    vp_wait_mission,
)

SESSION = "simone-example"


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    """A tool's answer; ends with its error's message, which says what to do."""
    if not answer["ok"]:
        sys.exit(f"{answer['error']['code']}: {answer['error']['message']}")
    return answer


def main(objective: str, vp_id: str = "vp.general.primary") -> int:
    """Delegate the objective and see it through; returns 0 if it completed."""
    for vp in checked(vp_list_vps())["vps"]:
        print(f"{vp['vp_id']}: {vp['description']} {'' if vp['available']['ok'] else '(cannot run)'}")

    # The key names the piece of work: run this twice, and the second time it is the same mission.
    key = f"{SESSION}-{hashlib.sha256(objective.encode()).hexdigest()[:12]}"
    answer = checked(
        vp_dispatch_mission(
            vp_id=vp_id,
            objective=objective,
            budget={"max_duration_seconds": 600},
            idempotency_key=key,
            source_session_id=SESSION,
        )
    )
    mission = answer["mission"]
    print(f"{'dispatched' if answer['created'] else 'was dispatched before'}: {mission['mission_id']}")

    # In slices, because the hosts of agents cut long calls. A wait that timed out has lost nothing.
    while not mission["terminal"]:
        mission = checked(vp_wait_mission(mission_id=mission["mission_id"], timeout_seconds=45))["mission"]
        print(mission["status"], (mission["progress"] or {}).get("message", ""))

    read = checked(vp_read_result_artifacts(mission_id=mission["mission_id"]))
    print(mission["result"] or mission["failure"])
    for artifact in read["artifacts"]:
        print(f"{artifact['path']}: {artifact['size']} bytes, sha256 {artifact['sha256'][:12]}…")

    # What finished, here or meanwhile; acknowledged once it has been handled.
    inbox = checked(vp_read_events(reader=SESSION, source_session_id=SESSION))
    last = inbox["events"][-1]["type"] if inbox["events"] else "none"
    print(f"{len(inbox['events'])} events in the inbox, the last: {last}")
    checked(vp_read_events(reader=SESSION, acknowledge=inbox["last_seq"]))
    return 0 if mission["status"] == "completed" else 1


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit('usage: simone.py "what is to be done" [VP_ID]')
    sys.exit(main(*sys.argv[1:3]))
