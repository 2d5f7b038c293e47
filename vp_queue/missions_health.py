"""Whether missions can be taken and run now: what ``/readyz`` tells, as names and booleans only."""

from __future__ import annotations

from dataclasses import dataclass

from vp_queue import missions, missions_space
from vp_queue.errors import VpError
from vp_queue.ledger import database


@dataclass(frozen=True)
class Readiness:
    """What was found.

    Attributes:
        checks: by name: ``ledger_writable``, ``room_on_disk``, ``keeper_alive``, and of each enabled VP
            ``consumer_alive:<vp_id>``.
    """

    checks: dict[str, bool]

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return all(self.checks.values())


def readiness() -> Readiness:
    """Look; changes nothing, and raises nothing: what cannot be looked at is not well."""
    checks = {"ledger_writable": False, "keeper_alive": False, "room_on_disk": False}
    try:
        settings = missions.ready()
        checks["ledger_writable"] = database.is_writable()
        checks["keeper_alive"] = any(not keeper.stale for keeper in missions.keepers())
        for vp in missions.vps().vps:
            if vp.enabled:
                checks[f"consumer_alive:{vp.vp_id}"] = any(not worker.stale for worker in vp.workers)
        missions_space.check(settings)
        checks["room_on_disk"] = True
    except VpError:
        pass  # what was not looked at stays false
    return Readiness(checks)
