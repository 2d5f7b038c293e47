"""The triggers that guard the ledger's tables, whatever code writes to them.

The last line of defence: a status outside the state machine, a changed terminal mission or an edited event is
refused by the database itself.
"""

from __future__ import annotations

from typing import Final

from vp_queue.contracts import EDGES


def _edge_condition() -> str:
    edges = [
        f"(OLD.status = '{old}' AND NEW.status IN ({', '.join(repr(str(new)) for new in news)}))"
        for old, news in EDGES.items()
    ]
    return " OR ".join(edges)


SQLITE_TRIGGERS: Final = {
    "vp_mission_edge": (
        "CREATE TRIGGER vp_mission_edge BEFORE UPDATE OF status ON vp_mission "
        f"WHEN NEW.status <> OLD.status AND NOT ({_edge_condition()}) "
        "BEGIN SELECT RAISE(ABORT, 'no such status change'); END"
    ),
    "vp_mission_born_queued": (
        "CREATE TRIGGER vp_mission_born_queued BEFORE INSERT ON vp_mission WHEN NEW.status <> 'queued' "
        "BEGIN SELECT RAISE(ABORT, 'a mission begins queued'); END"
    ),
    "vp_mission_attempt_rises": (
        "CREATE TRIGGER vp_mission_attempt_rises BEFORE UPDATE OF attempt ON vp_mission "
        "WHEN NEW.attempt < OLD.attempt BEGIN SELECT RAISE(ABORT, 'attempt numbers only rise'); END"
    ),
    "vp_event_immutable": (
        "CREATE TRIGGER vp_event_immutable BEFORE UPDATE ON vp_event "
        "BEGIN SELECT RAISE(ABORT, 'events never change'); END"
    ),
}
