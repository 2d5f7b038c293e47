"""The outside world: processes that dispatch, cancel, retry, wait and read events, and may be killed at any moment.

    python -m tests.faults.campaign.clients ROLE FOLDER [MUTANT,…]

A role is ``dispatcher-N``, ``meddler`` (cancels and retries), ``reader`` or ``waiter``. Each notes, with fsync, what
it is about to do and what it was answered. Started again after its death, it reads its notes and goes on: what it was
about to do with an idempotency key it repeats with that key; what it was about to do without one, it cannot know about.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from tests.faults.campaign.notes import Folder, Notes, boottime, read, read_from
from tests.faults.campaign.plan import DISPATCHERS, MissionSpec, Plan
from vp_queue import tools

PROGRAM: Final = Path(__file__).with_name("program.py")
READER: Final = "campaign"
# What the world may cause; everything else a tool answers with is a finding.
TROUBLE: Final = ("ledger_busy", "ledger_unavailable")
AGAIN_SECONDS: Final = 0.2
LOOK_SECONDS: Final = 0.1


class Client:
    """What the roles share: the plan, the notes, and asking until there is an answer."""

    def __init__(self, folder: Folder, name: str, plan: Plan, began: float, began_wall: float) -> None:
        self.folder, self.name, self.plan = folder, name, plan
        self.began, self.began_wall = began, began_wall
        self.before = read(folder.client(name))
        self.notes = Notes(folder.client(name))

    def noted(self, key: str) -> dict[str, dict[str, Any]]:
        """The notes of former lives that have this key, by its value."""
        return {record[key]: record for record in self.before if key in record}

    def ask(self, tool: Callable[..., dict[str, Any]], **arguments: Any) -> dict[str, Any]:
        """One call, timed; trouble and surprises are noted."""
        asked = boottime()
        answer = tool(**arguments)
        answer["asked"], answer["answered"] = asked, boottime()
        if not answer["ok"]:
            self.notes.write(
                refused=answer["error"]["code"],
                tool=tool.__name__,
                asked=asked,
                answered=answer["answered"],
                error=answer["error"],
            )
        return answer

    def insist(self, tool: Callable[..., dict[str, Any]], **arguments: Any) -> dict[str, Any]:
        """Ask again while the ledger is in trouble."""
        while True:
            answer = self.ask(tool, **arguments)
            if answer["ok"] or answer["error"]["code"] not in TROUBLE:
                return answer
            time.sleep(AGAIN_SECONDS)

    def is_settled(self) -> bool:
        return self.folder.settled.exists()


class Acknowledged:
    """What all dispatchers noted as acknowledged, as it comes."""

    def __init__(self, folder: Folder) -> None:
        self._files = {folder.client(f"dispatcher-{number}"): 0 for number in range(DISPATCHERS)}

    def news(self) -> list[dict[str, Any]]:
        """What was noted since the last call."""
        found: list[dict[str, Any]] = []
        for path, offset in self._files.items():
            records, self._files[path] = read_from(path, offset)
            found += [record for record in records if "acknowledged" in record]
        return found


class Dispatcher(Client):
    """Dispatches its part of the plan."""

    def run(self) -> None:
        over = {*self.noted("acknowledged"), *self.noted("given_up")}
        intended = self.noted("intended")
        for spec in self.plan.missions[int(self.name.rpartition("-")[2])]:
            if spec.name in over:
                continue
            if spec.name in intended and not spec.keyed:
                self.notes.write(given_up=spec.name, why="died while asking, without a key")
                continue
            time.sleep(max(0.0, self.began + spec.at - boottime()))
            self.notes.write(intended=spec.name)
            self.dispatch(spec)

    def dispatch(self, spec: MissionSpec) -> None:
        arguments = self.arguments(spec)
        while True:
            answer = self.ask(tools.vp_dispatch_mission, **arguments)
            if answer["ok"]:
                self.notes.write(
                    acknowledged=spec.name,
                    mission_id=answer["mission"]["mission_id"],
                    created=answer["created"],
                    asked=answer["asked"],
                    answered=answer["answered"],
                )
                return
            code = answer["error"]["code"]
            if code == "validation_error" and spec.expires_after is not None:
                self.notes.write(given_up=spec.name, why="too late to dispatch")
                return
            if code not in TROUBLE:
                self.notes.write(given_up=spec.name, why=code)
                return
            if code == "ledger_unavailable" and not spec.keyed:
                self.notes.write(given_up=spec.name, why="unavailable, without a key")
                return
            time.sleep(AGAIN_SECONDS)

    def arguments(self, spec: MissionSpec) -> dict[str, Any]:
        """The same at every repetition: an idempotency key stands for one request."""
        command = [sys.executable, "-I", "-S", str(PROGRAM), str(self.folder.records), spec.behaviour]
        optional: dict[str, Any] = {}
        if spec.keyed:
            optional["idempotency_key"] = f"key-{spec.name}"
        if spec.not_before_after is not None:
            optional["not_before"] = self.instant(spec.at + spec.not_before_after)
        if spec.expires_after is not None:
            optional["expires_at"] = self.instant(spec.at + spec.expires_after)
        constraints: dict[str, Any] = {"command": [*command, str(spec.seconds)]}
        if spec.behaviour == "making":
            constraints["require_artifacts"] = ["one.txt", "two.txt"]
        return {
            "vp_id": spec.vp_id,
            "objective": spec.name,
            "mission_type": "command",
            "constraints": constraints,
            "priority": spec.priority,
            "max_attempts": spec.max_attempts,
            "source_session_id": self.name,
            **optional,
        }

    def instant(self, after: float) -> str:
        return (datetime.fromtimestamp(self.began_wall, UTC) + timedelta(seconds=after)).isoformat()


class Meddler(Client):
    """Cancels what is to be cancelled, and retries what failed and is to be retried."""

    def run(self) -> None:
        specs = {spec.name: spec for each in self.plan.missions for spec in each}
        acknowledged, cancelled, retried = Acknowledged(self.folder), self.noted("cancelled"), self.noted("retried")
        to_cancel: dict[str, float] = {}
        to_retry: set[str] = set()
        while not self.is_settled():
            for record in acknowledged.news():
                spec, mission_id = specs[record["acknowledged"]], record["mission_id"]
                if spec.cancel_after is not None and mission_id not in cancelled:
                    to_cancel[mission_id] = record["answered"] + spec.cancel_after
                if spec.retry and mission_id not in retried:
                    to_retry.add(mission_id)
            for mission_id in [mission_id for mission_id, due in to_cancel.items() if due <= boottime()]:
                self.cancel(mission_id)
                del to_cancel[mission_id]
            to_retry -= {mission_id for mission_id in to_retry if self.retry(mission_id)}
            time.sleep(LOOK_SECONDS)

    def cancel(self, mission_id: str) -> None:
        answer = self.insist(tools.vp_cancel_mission, mission_id=mission_id, reason="the campaign says so")
        if answer["ok"]:
            self.notes.write(cancelled=mission_id, changed=answer["changed"], status=answer["mission"]["status"])

    def retry(self, mission_id: str) -> bool:
        """Retry it once it has failed; True if nothing is left to do about it."""
        found = self.insist(tools.vp_get_mission, mission_id=mission_id)
        if not found["ok"] or not found["mission"]["terminal"]:
            return not found["ok"]
        if found["mission"]["status"] == "completed":
            return True
        answer = self.insist(tools.vp_retry_mission, mission_id=mission_id, idempotency_key=f"again-{mission_id}")
        if answer["ok"]:
            self.notes.write(retried=mission_id, mission_id=answer["mission"]["mission_id"], created=answer["created"])
        return True


class Reader(Client):
    """Reads its inbox: notes what it saw before it acknowledges it."""

    def run(self) -> None:
        acknowledge: int | None = None
        while True:
            settled = self.is_settled()
            answer = self.insist(tools.vp_read_events, reader=READER, acknowledge=acknowledge, wait_seconds=0.5)
            if not answer["ok"]:
                return
            if answer["events"]:
                self.notes.write(seen=[event["seq"] for event in answer["events"]])
            elif settled:
                return
            acknowledge = answer["last_seq"]


class Waiter(Client):
    """Waits for missions, reads what they made, and notes what it was told."""

    def run(self) -> None:
        draw = random.Random(self.plan.seed)
        acknowledged, told = Acknowledged(self.folder), self.noted("waited_for")
        waiting: list[str] = []
        while not self.is_settled():
            waiting += [note["mission_id"] for note in acknowledged.news() if note["mission_id"] not in told]
            if not waiting:
                time.sleep(LOOK_SECONDS)
                continue
            mission_id = draw.choice(waiting)
            answer = self.ask(tools.vp_wait_mission, mission_id=mission_id, timeout_seconds=2.0)
            if answer["ok"] and answer["mission"]["terminal"]:
                waiting.remove(mission_id)
                status = answer["mission"]["status"]
                self.notes.write(waited_for=mission_id, status=status)
                if status == "completed":
                    self.ask(tools.vp_read_result_artifacts, mission_id=mission_id)
            elif not answer["ok"]:
                time.sleep(AGAIN_SECONDS)


ROLES: Final[dict[str, type[Dispatcher] | type[Meddler] | type[Reader] | type[Waiter]]] = {
    "dispatcher": Dispatcher,
    "meddler": Meddler,
    "reader": Reader,
    "waiter": Waiter,
}
NAMES: Final = (*(f"dispatcher-{number}" for number in range(DISPATCHERS)), "meddler", "reader", "waiter")


def main() -> None:
    name, path, *guards = sys.argv[1:]
    if guards:
        from tests import mutants

        mutants.apply(guards[0])
    folder = Folder(Path(path))
    (stored,) = read(folder.plan)
    began, began_wall = stored.pop("began"), stored.pop("began_wall")
    ROLES[name.partition("-")[0]](folder, name, Plan.of(stored), began, began_wall).run()


if __name__ == "__main__":
    main()
