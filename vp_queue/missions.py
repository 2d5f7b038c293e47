"""The use cases every face calls: dispatch, get, list, wait, cancel, retry, read, events, VPs.

A dispatch is one transaction: the mission, its event, its idempotency key and Huey's queue row exist
together or not at all, and the acknowledgement is sent after the commit.

Huey, the executors and what reads files are imported by the use cases that need them: `vp list` starts without.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from vp_queue import clock, config, tracing
from vp_queue.code_digest import code_digest
from vp_queue.config import Profile, Settings
from vp_queue.contracts import TERMINAL, Status, limits, views
from vp_queue.contracts import requests as asked
from vp_queue.errors import IdempotencyConflict, LedgerUnavailable, NotRetryableState
from vp_queue.ledger import database, fleet, queries, transitions
from vp_queue.ledger.models import Mission
from vp_queue.ledger.records import NewMission
from vp_queue.missions_admission import availability, check_can_run

# Asked by a wait each time it has looked and would go on: with the mission as it stands, or None where it waits for
# events. False ends the wait as if its time were up: whoever asked has gone away.
KeepWaiting = Callable[[views.MissionView | None], bool]
Found = TypeVar("Found")
# A waiter looks at the ledger again this often even if no change was noticed.
WAIT_SLICE_SECONDS: Final = 5.0


def ready(settings: Settings | None = None) -> Settings:
    """The settings, with their ledger open in this process. Every use case begins here."""
    settings = settings or config.load()
    if database.is_current(settings.database_path):
        return settings
    config.ensure_home(settings)
    database.open_ledger(settings.database_path)
    return settings


def stall_limits(settings: Settings) -> dict[str, float]:
    """Per VP, the seconds of silence after which a running mission counts as stalled."""
    return {vp_id: profile.stall_after_seconds for vp_id, profile in settings.vps.items()}


def _view(settings: Settings, mission: Mission) -> views.MissionView:
    return queries.mission_view(mission, clock.now(), stall_limits(settings))


def dispatch(request: asked.DispatchMission) -> views.DispatchAnswer:
    """Delegate a mission.

    Raises:
        UnknownVp, VpDisabled, ExecutorUnavailable, TargetPathDenied: it could not run.
        LimitExceeded: the disk is nearly full.
        IdempotencyConflict: the key stands for another request.
        ValidationError, LedgerBusy, LedgerUnavailable: nothing was stored.
    """
    settings = ready()
    profile = settings.profile(request.vp_id)
    digest = None
    if request.idempotency_key is not None:
        digest = request.digest()
        with database.read_transaction():
            replay = _replay(settings, request.vp_id, request.idempotency_key, digest)
        if replay is not None:
            return views.DispatchAnswer(mission=replay, created=False)
    new = NewMission(
        mission_id=clock.new_mission_id(),
        request_digest=digest,
        target_realpath=check_can_run(settings, profile, request),
        **_stored(request),
    )
    mission, created = _accept(settings, new)
    return views.DispatchAnswer(mission=mission, created=created)


def _stored(request: asked.DispatchMission) -> dict[str, Any]:
    """The request's fields, each as the mission holds it."""
    return {**vars(request), "constraints": request.constraints.given(), "budget": request.budget.given()}


def _accept(settings: Settings, new: NewMission, retried: str | None = None) -> tuple[views.MissionView, bool]:
    """Store it, with its wake-up. ``retried`` is the trace context of the mission that it retries."""
    from vp_queue.queue import huey  # before the transaction, which must not wait for it

    wake_up = huey.first_wake_up(new)
    with tracing.dispatching(new, retried) as new, database.write_transaction() as tx:
        replay = _replay(settings, new.vp_id, new.idempotency_key, new.request_digest)
        if replay is not None:
            return replay, False
        due = new.not_before is None or new.not_before <= tx.now
        mission = transitions.accept(tx, new, wake_up.write() if due else None)
    return _view(settings, mission), True


def _replay(settings: Settings, vp_id: str, key: str | None, digest: str | None) -> views.MissionView | None:
    """The mission this key already stands for, if the request is the same."""
    known = queries.key_row(vp_id, key) if key is not None else None
    if known is None:
        return None
    mission = queries.find_mission(known.mission_id)
    if mission is None:
        when = f" on {known.pruned_at:%Y-%m-%d}" if known.pruned_at else ""
        raise IdempotencyConflict(
            f"The idempotency key stands for mission {known.mission_id}, which has ended and was pruned{when}. "
            "To have it done again, use a new key.",
            field="idempotency_key",
            mission_id=known.mission_id,
            pruned=True,
        )
    if known.request_digest != digest:
        raise IdempotencyConflict(
            f"The idempotency key was used for another request (mission {known.mission_id}); use a new key, "
            "or repeat that request unchanged.",
            field="idempotency_key",
            mission_id=known.mission_id,
        )
    return _view(settings, mission)


def get(request: asked.GetMission) -> views.GetAnswer:
    """One mission with its attempts and newest events."""
    settings = ready()
    with database.read_transaction():
        row = queries.mission_row(request.mission_id)
        return views.GetAnswer(
            mission=_view(settings, row),
            attempts=queries.attempt_views(row.id),
            events=queries.newest_events(row.id, request.events_limit),
        )


def wait(request: asked.WaitMission, keep_waiting: KeepWaiting | None = None) -> views.WaitAnswer:
    """Wait until the mission ends or needs input, or the time is up.

    To have ``keep_waiting`` asked at once rather than within ``WAIT_SLICE_SECONDS``: :func:`wake_waiters`.
    """
    settings = ready()
    from vp_queue.ledger import watch

    deadline = clock.monotonic() + request.timeout_seconds
    changes = watch.current()
    before: int | None = None
    while True:
        token = changes.token()
        with database.read_transaction():
            row = queries.mission_row(request.mission_id)
            before = row.events if before is None else before
            left = deadline - clock.monotonic()
            over = row.status in TERMINAL or row.status == Status.NEEDS_INPUT
            mission = _view(settings, row)
            if over or left <= 0:
                return views.WaitAnswer(
                    timed_out=not over,
                    mission=mission,
                    events=queries.events_of_mission_after(row.id, before, limits.EVENTS_OF_MISSION),
                )
        if keep_waiting is not None and not keep_waiting(mission):
            deadline = clock.monotonic()
            continue
        changes.wait(token, min(left, WAIT_SLICE_SECONDS))


def cancel(request: asked.CancelMission, *, only: Sequence[Status] | None = None) -> views.CancelAnswer:
    """Cancel a mission; a running one ends as soon as its program is proved dead.

    Args:
        only: nothing is changed where it has none of these statuses any more.
    """
    from vp_queue.queue import huey  # before the transaction, which must not wait for it

    settings = ready()
    with database.write_transaction() as tx:
        queued = queries.mission_row(request.mission_id)
        mission, changed = None, False
        if only is None or queued.status in only:
            mission, changed = transitions.request_cancel(tx, request.mission_id, request.reason)
        if changed and queued.queue_row is not None:
            huey.revoke(queued)
    return views.CancelAnswer(mission=_view(settings, mission or queued), changed=changed)


def retry(request: asked.RetryMission) -> views.RetryAnswer:
    """Dispatch an ended mission again, as a new one with everything it was asked with."""
    settings = ready()
    digest = asked.request_digest({"retry_of": request.mission_id, "guidance": request.guidance})
    with database.read_transaction():
        old = queries.mission_row(request.mission_id)
        replay = _replay(settings, old.vp_id, request.idempotency_key, digest)
    if replay is not None:
        return views.RetryAnswer(mission=replay, created=False)
    if old.status not in TERMINAL or old.status == Status.COMPLETED:
        raise NotRetryableState(
            f"Mission {old.id} is {old.status}; only a failed, cancelled or expired mission can be retried.",
            field="mission_id",
            mission_id=old.id,
            status=old.status,
        )
    again = asked.DispatchMission(
        vp_id=old.vp_id,
        objective=old.objective,
        mission_type=old.mission_type,
        constraints=asked.Constraints(**old.constraints),
        budget=asked.Budget(**old.budget),
        priority=old.priority,
        max_attempts=old.max_attempts,
        source_session_id=old.source_session_id,
        metadata=old.metadata,
    )
    new = NewMission(
        mission_id=clock.new_mission_id(),
        request_digest=digest,
        target_realpath=check_can_run(settings, settings.profile(old.vp_id), again),
        guidance=request.guidance,
        retry_of=old.id,
        **{**_stored(again), "idempotency_key": request.idempotency_key},
    )
    mission, created = _accept(settings, new, old.trace_context)
    return views.RetryAnswer(mission=mission, created=created)


def wake_waiters() -> None:
    """Have every wait of this process look again now. Never blocks: where no ledger is open, nobody waits."""
    from vp_queue.ledger import watch

    with contextlib.suppress(LedgerUnavailable):
        watch.current().wake()


def events_after(
    seq: int,
    limit: int,
    *,
    source_session_id: str | None = None,
    mission_id: str | None = None,
    types: Sequence[str] | None = None,
    wait_seconds: float = 0,
    keep_waiting: KeepWaiting | None = None,
) -> list[views.EventView]:
    """The feed after a seq; waits up to ``wait_seconds`` for a first event."""
    ready()
    return found_in_feed(
        lambda: queries.events_after(
            seq, limit, source_session_id=source_session_id, mission_id=mission_id, types=types
        ),
        bool,
        wait_seconds,
        keep_waiting,
    )


def found_in_feed(
    look: Callable[[], Found], enough: Callable[[Found], bool], wait_seconds: float, keep_waiting: KeepWaiting | None
) -> Found:
    """What ``look`` finds in one snapshot, as soon as it is enough or the time is up."""
    from vp_queue.ledger import watch

    deadline = clock.monotonic() + wait_seconds
    changes = watch.current() if wait_seconds > 0 else None
    while True:
        token = changes.token() if changes else 0
        with database.read_transaction():
            found = look()
        left = deadline - clock.monotonic()
        if changes is None or enough(found) or left <= 0 or not (keep_waiting is None or keep_waiting(None)):
            return found
        changes.wait(token, min(left, WAIT_SLICE_SECONDS))


def newest_seq() -> int:
    """Where the feed ends now."""
    ready()
    with database.read_transaction():
        return queries.newest_seq()


def vps() -> views.VpsAnswer:
    """Every configured VP."""
    settings = ready()
    with database.read_transaction():
        return views.VpsAnswer(vps=[_vp_view(settings, profile) for profile in settings.vps.values()])


def vp(vp_id: str) -> views.VpView:
    """One configured VP.

    Raises:
        UnknownVp: there is none of this id.
    """
    settings = ready()
    profile = settings.profile(vp_id)
    with database.read_transaction():
        return _vp_view(settings, profile)


def _current(settings: Settings, profile: Profile | None) -> queries.Current:
    return queries.Current(settings.lease_seconds, profile.digest if profile else None, code_digest())


def _vp_view(settings: Settings, profile: Profile) -> views.VpView:
    decided = queries.agent_row(profile.vp_id)
    depths = queries.depths(profile.vp_id)
    available = availability(settings, profile)
    return views.VpView(
        vp_id=profile.vp_id,
        title=profile.title,
        description=profile.description,
        executor=profile.executor,
        enabled=profile.enabled,
        paused=decided.paused if decided else False,
        pause_reason=decided.pause_reason if decided else None,
        draining=decided.draining if decided else False,
        drain_reason=decided.drain_reason if decided else None,
        available=views.AvailabilityView(ok=available.ok, reason=available.reason),
        queued=depths[Status.QUEUED],
        running=depths[Status.RUNNING],
        needs_input=depths[Status.NEEDS_INPUT],
        concurrency=profile.concurrency,
        workers=queries.worker_views(profile.vp_id, _current(settings, profile)),
    )


def pause(vp_id: str, reason: str | None = None) -> views.VpView:
    """Take nothing more from a VP's queue; what runs goes on."""
    return _decided(vp_id, lambda tx: fleet.pause(tx, vp_id, reason))


def drain(vp_id: str, reason: str | None = None) -> views.VpView:
    """Let a VP finish what runs and start nothing more, across restarts of its workers, until it is resumed."""
    return _decided(vp_id, lambda tx: fleet.set_draining(tx, vp_id, reason))


def resume(vp_id: str, *, only_drain_for: str | None = None) -> views.VpView:
    """Take from a VP's queue again.

    Args:
        only_drain_for: end only a draining for this reason.
    """
    return _decided(vp_id, lambda tx: fleet.resume(tx, vp_id, only_drain_for=only_drain_for))


def _decided(vp_id: str, decide: Callable[[database.Transaction], bool]) -> views.VpView:
    ready().profile(vp_id)
    with database.write_transaction() as tx:
        decide(tx)
    return vp(vp_id)


def wait_until_idle(vp_id: str, timeout_seconds: float) -> Iterator[views.VpView]:
    """How a VP is doing, each time that changes, until nothing of it runs or waits for input, or the time is up.

    The last one says which.
    """
    from vp_queue.ledger import watch

    ready()
    deadline = clock.monotonic() + timeout_seconds
    changes = watch.current()
    busy = -1
    while True:
        token = changes.token()
        seen = vp(vp_id)
        left = deadline - clock.monotonic()
        if seen.running + seen.needs_input != busy or left <= 0:
            busy = seen.running + seen.needs_input
            yield seen
        if busy == 0 or left <= 0:
            return
        changes.wait(token, min(left, WAIT_SLICE_SECONDS))


def keepers() -> list[views.WorkerView]:
    """The keepers that have not ended, for ``vp status``."""
    settings = ready()
    with database.read_transaction():
        return queries.worker_views(None, _current(settings, None))


def worker_pids() -> set[int]:
    """The pids of all workers and keepers that have registered and not ended."""
    ready()
    with database.read_transaction():
        return queries.worker_pids()
