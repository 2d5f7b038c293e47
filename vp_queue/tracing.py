"""One trace for each mission, from its dispatch to its end, for whoever has OpenTelemetry set up.

    vp.dispatch     whoever dispatched it; child of the caller's own span, if there is one
    ├── vp.attempt  each attempt, with vp.prepare, vp.execute, vp.publish and vp.finish within it
    └── vp.mission  from creation to end, written when the mission has ended, by whoever ended it

No span can be open across processes, so nothing waits for one: the ledger carries the context of ``vp.dispatch``
(``vp_mission.trace_context``), and what is told later is told with the instants of the ledger, by the process whose
commit made it true. An attempt that was lost is therefore told by the keeper.

Without the environment variables, or a provider of the host application, everything here is one check. OpenTelemetry
is imported by ``tracing_sdk`` alone. Nothing that goes wrong with a trace reaches a mission.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

from vp_queue.contracts import TERMINAL_EVENTS, Outcome
from vp_queue.ledger import database
from vp_queue.ledger.models import Attempt, Mission
from vp_queue.ledger.records import Claim, NewMission

logger = logging.getLogger("vp_queue.tracing")

# Any of these says that traces are wanted; the SDK reads them, and OTEL_SERVICE_NAME and the rest, itself.
SWITCHES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
_HOSTS_SDK: Final = "opentelemetry.sdk.trace"  # imported = the host application may have a provider
_ENDED_BADLY: Final = (Outcome.FAILED, Outcome.LOST)

_live: dict[tuple[str, int], Any] = {}  # the spans of the attempts that this process executes
_mine = threading.local()  # whether this thread executes one


def tracer() -> Any | None:
    """What spans are made with, or None: nobody asked for any."""
    if _HOSTS_SDK in sys.modules or any(name in os.environ for name in SWITCHES):
        from vp_queue import tracing_sdk

        return tracing_sdk.tracer()
    return None


@contextlib.contextmanager
def dispatching(new: NewMission, retry_of: str | None) -> Iterator[NewMission]:
    """The span of a dispatch, around its transaction.

    Args:
        new: what is dispatched.
        retry_of: the trace context of the mission that it retries, to link to.

    Yields:
        the same, with the trace context that its row is to carry.
    """
    made = tracer()
    if made is None:
        yield new
        return
    from vp_queue import tracing_sdk

    attributes = {**_about(new.vp_id, new.mission_id), "messaging.operation.name": "dispatch"}
    with tracing_sdk.dispatch_span(made, attributes, retry_of) as span:
        yield dataclasses.replace(new, trace_context=tracing_sdk.traceparent_of(span))


@contextlib.contextmanager
def attempt(mission: Mission, claim: Claim) -> Iterator[None]:
    """The span of an attempt that this thread executes; how it ended is added when that is committed."""
    made = tracer()
    if made is None:
        yield
        return
    from vp_queue import tracing_sdk

    attributes = _about_attempt(mission, claim.attempt)
    with tracing_sdk.attempt_span(made, mission.id, mission.trace_context, attributes) as span:
        _live[mission.id, claim.attempt], _mine.executes = span, True
        try:
            yield
        finally:
            _mine.executes = False
            del _live[mission.id, claim.attempt]


@contextlib.contextmanager
def phase(name: str, usual: type[BaseException] | None = None) -> Iterator[None]:
    """The span of one phase of the attempt that this thread executes.

    Args:
        name: ``vp.prepare`` and so on.
        usual: what may end it without having gone wrong.
    """
    made = tracer() if getattr(_mine, "executes", False) else None
    if made is None:
        yield
        return
    from vp_queue import tracing_sdk

    with tracing_sdk.phase_span(made, name, usual):
        yield


def begin() -> None:
    """Make ready in a process that executes: its last spans are sent after everything else at its exit."""
    tracer()


def told(events: list[dict[str, Any]]) -> None:
    """Observes commits: what ended is told as a span."""
    ended = [event for event in events if event["type"] in TERMINAL_EVENTS or "outcome" in event["data"]]
    made = tracer() if ended else None
    if made is None:
        return
    for event in ended:
        with database.read_transaction():
            mission = Mission.get_or_none(Mission.id == event["mission_id"])
            row = Attempt.get_or_none(Attempt.mission == event["mission_id"], Attempt.number == event["attempt"])
        if mission is None:
            continue  # pruned, which takes an hour: a clock was set
        if row is not None and "outcome" in event["data"]:
            _tell_attempt(made, mission, row)
        if event["type"] in TERMINAL_EVENTS:
            _tell_mission(made, mission)


def _tell_attempt(made: Any, mission: Mission, row: Attempt) -> None:
    from vp_queue import tracing_sdk

    attributes = {"vp.mission.outcome": str(row.outcome), **_used(row.usage)}
    if row.exit_code is not None:
        attributes["process.exit.code"] = row.exit_code
    problem = row.failure if row.outcome in _ENDED_BADLY else None
    span = _live.get((mission.id, row.number))
    if span is not None:
        tracing_sdk.describe(span, attributes, problem)
        return
    attributes = {**_about_attempt(mission, row.number), **attributes}
    tracing_sdk.past_span(
        made, "vp.attempt", (mission.id, mission.trace_context), (row.started_at, row.ended_at), attributes, problem
    )


def _tell_mission(made: Any, mission: Mission) -> None:
    from vp_queue import tracing_sdk

    attributes = {
        **_about(mission.vp_id, mission.id),
        "vp.mission.outcome": str(mission.status),
        "vp.mission.attempts": mission.attempt,
        "vp.mission.type": mission.mission_type,
        **_used(mission.usage),
    }
    problem = mission.failure if mission.status == "failed" else None
    span = (mission.created_at, mission.finished_at)
    tracing_sdk.past_span(made, "vp.mission", (mission.id, mission.trace_context), span, attributes, problem)


def _about(vp_id: str, mission_id: str) -> dict[str, Any]:
    """OpenTelemetry's names for messaging; the objective and whatever else a mission says is in no trace."""
    return {
        "messaging.system": "vp_queue",
        "messaging.destination.name": vp_id,
        "messaging.message.id": mission_id,
    }


def _about_attempt(mission: Mission, number: int) -> dict[str, Any]:
    about = _about(mission.vp_id, mission.id)
    return {**about, "messaging.operation.name": "execute", "vp.mission.attempt": number}


def _used(usage: dict[str, Any] | None) -> dict[str, Any]:
    names = {
        "input_tokens": "gen_ai.usage.input_tokens",
        "output_tokens": "gen_ai.usage.output_tokens",
        "cost_usd": "vp.cost_usd",
    }
    return {name: usage[key] for key, name in names.items() if usage and usage.get(key) is not None}


database.observe_commits(told)
