"""Mutants of the ledger's guards: the fence, compare-and-set, the right clock, the order of things."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from tests.mutants import mutant
from vp_queue import missions
from vp_queue.contracts import EXECUTING, Outcome, Status
from vp_queue.ledger import database, leases, transitions
from vp_queue.ledger.models import Attempt, Mission
from vp_queue.ledger.records import Claim
from vp_queue.ledger.statements import Change, slot


@mutant
def no_fence() -> None:
    """Whoever speaks for a mission that runs is believed, whatever attempt and token it has (rule 6 removed)."""

    def any_claim(claim: Claim) -> Any:
        return (Mission.id == claim.mission_id) & Mission.status.in_(EXECUTING)

    def any_running(claim: Claim) -> Any:
        return (Attempt.mission == claim.mission_id) & (Attempt.outcome == Outcome.RUNNING)

    def running() -> Any:
        return (Attempt.mission == slot(Attempt.mission, "mission_id")) & (Attempt.outcome == Outcome.RUNNING)

    transitions._fenced = any_claim
    leases._held = any_running
    leases._SPAWNED = Change(lambda: Attempt.update(executor=slot(Attempt.executor)).where(running()))


@mutant
def no_compare_and_set_in_finish() -> None:
    """An end is written whatever the mission's and the attempt's state (rule 1 removed)."""

    def stateless(claim: Claim) -> Any:
        known = Attempt.select().where(
            Attempt.mission == claim.mission_id, Attempt.number == claim.attempt, Attempt.lease_token == claim.token
        )
        return (Mission.id == claim.mission_id) & transitions.fn.EXISTS(known)

    transitions._fenced = stateless


@mutant
def spawned_is_not_recorded() -> None:
    """The gate opens though the ledger does not know the program (rule 9 removed)."""

    def recorded(*_: Any) -> bool:
        return True

    leases.spawned = recorded


@mutant
def lease_by_wall_clock() -> None:
    """A lease on this host ends when UTC says so."""
    original = leases.running

    def running(now: datetime, lost_host_grace_seconds: float) -> Iterator[leases.Suspect]:
        for suspect in original(now, lost_host_grace_seconds):
            claim = suspect.claim
            row = Attempt.get(Attempt.mission == claim.mission_id, Attempt.number == claim.attempt)
            yield dataclasses.replace(suspect, expired=row.lease_expires_at < now)

    def expired(host_identity: str, now: datetime, grace: Any) -> Any:
        return Attempt.lease_expires_at < now

    leases.running, leases._expired = running, expired


@mutant
def take_over_without_a_second_look() -> None:
    """A keeper trusts what it read a while ago: the lease is taken though its worker renewed it since."""
    original = leases.take_over

    def take_over(*arguments: Any, only_if_expired: bool) -> Any:
        return original(*arguments, only_if_expired=False)

    leases.take_over = take_over


@mutant
def release_keeps_the_number() -> None:
    """A released attempt's number is given out again."""
    original = transitions.release

    def release(tx: Any, claim: Claim, *arguments: Any, **options: Any) -> Any:
        mission = original(tx, claim, *arguments, **options)
        if mission is not None and mission.status == Status.QUEUED:
            sql = database.current().db.execute_sql
            sql("DROP TRIGGER IF EXISTS vp_mission_attempt_rises")
            sql("DROP INDEX IF EXISTS vp_event_once_per_attempt")
            Attempt.delete().where(Attempt.mission == claim.mission_id, Attempt.number == claim.attempt).execute()
            Mission.update(attempt=Mission.attempt - 1).where(Mission.id == claim.mission_id).execute()
            mission.attempt -= 1
        return mission

    transitions.release = release


@mutant
def cancel_revives() -> None:
    """A cancel of a mission that has ended queues it again (an incident of the earlier system)."""
    original = transitions.request_cancel

    def request_cancel(tx: Any, mission_id: str, reason: str) -> Any:
        mission, changed = original(tx, mission_id, reason)
        if mission is not None and not changed and mission.finished_at is not None:
            database.current().db.execute_sql("DROP TRIGGER IF EXISTS vp_mission_edge")
            Mission.update(status=Status.QUEUED, due_at=transitions.AT_ONCE, finished_at=None).where(
                Mission.id == mission_id
            ).execute()
        return mission, changed

    transitions.request_cancel = request_cancel


@mutant
def cancel_is_forgotten() -> None:
    """An attempt's end does not look whether a cancel was requested."""
    original = transitions._speaking

    def speaking(claim: Claim) -> Any:
        mission = original(claim)
        if mission is not None:
            mission.cancel_requested_at = None
        return mission

    transitions._speaking = speaking


@mutant
def key_is_looked_up_before_the_transaction_only() -> None:
    """Two dispatches with one key may both find it unused."""
    accept, replay = missions._accept, missions._replay
    inside = threading.local()

    def _accept(*arguments: Any) -> Any:
        inside.accept = True
        try:
            return accept(*arguments)
        finally:
            inside.accept = False

    def _replay(*arguments: Any) -> Any:
        return None if getattr(inside, "accept", False) else replay(*arguments)

    missions._accept, missions._replay = _accept, _replay


@mutant
def claim_whatever_the_status() -> None:
    """A claim lands though its mission is no longer queued, and no trigger stands behind it."""
    original = transitions.claim

    def claim(tx: Any, mission_id: str, *arguments: Any) -> Any:
        database.current().db.execute_sql("DROP TRIGGER IF EXISTS vp_mission_edge")
        Mission.update(status=Status.QUEUED, due_at=transitions.AT_ONCE, finished_at=None).where(
            Mission.id == mission_id
        ).execute()
        return original(tx, mission_id, *arguments)

    transitions.claim = claim
