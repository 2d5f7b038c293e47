"""What a person who watches an installation is answered with: the JSON of the overview, the lists and a mission's page.

All faces show the same: ``vp top``, the HTTP API, the dashboard. Texts of missions in it are data from programs; those
that are taken from logs are cleaned already (:mod:`vp_queue.wording`), the others are as they were given.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from vp_queue.contracts.views import Answer, AttemptView, EventView, ListAnswer, MissionView, View, VpView, WorkerView

# The most urgent first: what somebody waits for, what stands still, what is over, what was meant so.
NeedKind = Literal[
    "needs_input",
    "stalled",
    "no_keeper",
    "no_worker",
    "worker_lost",
    "worker_stale",
    "unavailable",
    "failed",
    "paused",
]


class RunningView(View):
    """A mission that is executing.

    ``last_words``: the last lines its program printed, cleaned, at most two; null where it printed nothing, or works on
    another host.
    """

    mission: MissionView
    attempt_started_at: datetime
    last_words: str | None


class CardView(View):
    """One VP at a glance.

    ``running``: newest first, at most ``limits.CARD_RUNNING``; ``vp.running`` + ``vp.needs_input`` say how many there
    are. ``oldest_due_seconds``: how long the mission that has waited longest could have started; null if none could.
    ``ended_24h``: by status, those without any left out. ``success_rate_24h``: of those that completed or failed.
    Today is the day in UTC; null where no program told what it used.
    """

    vp: VpView
    running: list[RunningView]
    oldest_due_seconds: float | None
    ended_24h: dict[str, int]
    success_rate_24h: float | None
    cost_today_usd: float | None
    tokens_today: int | None


class SeriesView(View):
    """What went on, by steps of equal length; ``at`` is the end of each, the last one now.

    The lists are equally long. ``open`` is how many missions had not ended at that instant, the others are how many
    were dispatched or ended within the step.
    """

    step_seconds: int
    at: list[datetime]
    dispatched: list[int]
    completed: list[int]
    failed: list[int]
    other_ended: list[int]
    open: list[int]


class NeedView(View):
    """Something that waits for a person.

    ``since``: when it began, as far as known. ``text``: what it is and what to do, in a line for people.
    """

    kind: NeedKind
    vp_id: str | None
    mission: MissionView | None
    since: datetime | None
    text: str


class OverviewAnswer(Answer):
    """Everything at one instant. Missions in it are shown in brief: texts shortened, constraints and metadata left out.

    ``counts``: missions by status, over all VPs. ``needs``: the most urgent first; ``needs_more``: there are more than
    are listed. ``events``: the newest first.
    """

    at: datetime
    cards: list[CardView]
    series: SeriesView
    counts: dict[str, int]
    keepers: list[WorkerView]
    needs: list[NeedView]
    needs_more: bool
    events: list[EventView]


class MissionsPage(ListAnswer):
    """A page of missions, and the way to both of its neighbours.

    ``next_cursor``: for ``cursor``, to the older ones; ``previous_cursor``: for ``newer_than``, to the newer ones. Null
    where there are none.
    """

    previous_cursor: str | None


class BulkError(View):
    """A mission that was left as it is, and why."""

    mission_id: str
    code: str
    message: str


class BulkAnswer(Answer):
    """How far an action on many missions got.

    ``matched``: missions that were still to be changed as this call began, counted up to ``limits.BULK_MATCHED``;
    ``changed``: those it changed; ``failed``: those that were refused, ``errors`` names the first of them; ``left``:
    those it had no time for. While ``left`` is not 0, call again with ``after_mission_id=continue_after``. ``retried``:
    the new missions of a retry.
    """

    matched: int
    changed: int
    failed: int
    left: int
    continue_after: str | None
    errors: list[BulkError]
    retried: list[str] = Field(default_factory=list)


class SeenAnswer(Answer):
    """How many missions were marked; those that were already, or have not failed, are not counted."""

    changed: int


class ActionsAnswer(Answer):
    """What people and agents did, newest first; ``next_before`` leads to the older ones, null at the beginning.

    A page may be short, or empty, and yet have older ones: each call looks at a bounded stretch of the feed. Who did
    it stands in each event's ``data.by``: ``{"face": …, "actor": …}``.
    """

    events: list[EventView]
    next_before: int | None


class ReaderView(View):
    """A reader of the inbox: how far it has acknowledged, and when it last did."""

    reader: str
    acknowledged_seq: int
    at: datetime


class MissionPage(Answer):
    """One mission with everything around it.

    ``guidance``: of the retry that this mission is. ``ancestors``: what it is a retry of, the first mission first.
    ``descendants``: its retries and theirs, oldest first. Both are shown in brief; ``lineage_more``: there are more.
    ``outcome_seq``: of the event that ended it; null while it has not ended. ``acknowledged_by``: readers that have
    acknowledged that event, ``not_acknowledged_by``: those that have not; both empty while it has not ended.
    """

    mission: MissionView
    attempts: list[AttemptView]
    guidance: str | None
    seen: bool
    ancestors: list[MissionView]
    descendants: list[MissionView]
    lineage_more: bool
    outcome_seq: int | None
    acknowledged_by: list[ReaderView]
    not_acknowledged_by: list[ReaderView]
