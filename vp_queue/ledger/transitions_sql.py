"""The statements of ``transitions`` that stand between a dispatch and its program's start, rendered once."""

from __future__ import annotations

from typing import Final

from peewee import fn

from vp_queue.contracts import Status
from vp_queue.ledger.models import Agent, Attempt, IdempotencyKey, Mission
from vp_queue.ledger.statements import Change, Insertion, Reading, slot

INSERT_MISSION: Final = Insertion(Mission)
INSERT_KEY: Final = Insertion(IdempotencyKey)
INSERT_ATTEMPT: Final = Insertion(Attempt)
ENQUEUED: Final = Change(
    lambda: Mission.update(queue_row=slot(Mission.queue_row)).where(
        Mission.id == slot(Mission.id), Mission.status == Status.QUEUED
    )
)
CLAIM: Final = Reading(
    Mission,
    lambda: (
        Mission.update(
            events=Mission.events + 1,
            status=Status.RUNNING,
            attempt=slot(Mission.attempt),
            due_at=None,
            queue_row=None,
            progress=None,
            started_at=fn.COALESCE(Mission.started_at, slot(Mission.started_at, "now")),
        )
        .where(
            (Mission.id == slot(Mission.id))
            & (Mission.status == Status.QUEUED)
            & (Mission.attempt == slot(Mission.attempt, "attempt_before"))
            & (Mission.due_at <= slot(Mission.due_at, "now"))
            & (
                Mission.expires_at.is_null()
                | Mission.started_at.is_null(False)
                | (Mission.expires_at > slot(Mission.expires_at, "now"))
            )
            # Its row may have been taken just before: once a pause is acknowledged, nothing starts.
            & ~fn.EXISTS(Agent.select(Agent.vp_id).where(Agent.vp_id == Mission.vp_id, Agent.paused | Agent.draining))
        )
        .returning(Mission)
    ),
)
