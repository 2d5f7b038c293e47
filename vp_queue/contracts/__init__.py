"""The contract as types: requests, views, fixed words, and all limits.

Everything a face accepts or answers is defined here once; JSON Schemas are generated from it
(``vp schema TOOL``). This package imports only the clock.
"""

from vp_queue.contracts.vocabulary import (
    EDGES,
    EXECUTING,
    FINAL_FAILURES,
    ONCE_PER_ATTEMPT,
    REPORTABLE_FAILURES,
    TERMINAL,
    TERMINAL_EVENTS,
    DeliveryState,
    EventType,
    FailureCode,
    Outcome,
    Status,
    WorkerState,
)

__all__ = [
    "EDGES",
    "EXECUTING",
    "FINAL_FAILURES",
    "ONCE_PER_ATTEMPT",
    "REPORTABLE_FAILURES",
    "TERMINAL",
    "TERMINAL_EVENTS",
    "DeliveryState",
    "EventType",
    "FailureCode",
    "Outcome",
    "Status",
    "WorkerState",
]
