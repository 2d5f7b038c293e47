"""Tells people what happened, as ``[notify]`` says: at least once, in order within a mission, and never in the way.

    read    the events after each sink's cursor; what it wants becomes rows (:mod:`vp_queue.ledger.deliveries`)
    tell    each sink with something due, one event at a time: claim → send or run → note what came of it

One thread reads, and each sink that is told has a thread of its own for as long, so that one that is slow or dead
holds up neither the others nor any rescue. A death anywhere between "the receiver has it" and "the ledger knows" tells
it again, under the same id. Two keepers do no harm: what is read is a compare-and-set on the cursor, and a sink is told
under a claim.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vp_queue import clock
from vp_queue.config import Settings
from vp_queue.config_notify import Notify, Sink
from vp_queue.contracts import limits
from vp_queue.contracts.retries import backoff_seconds
from vp_queue.contracts.views import EventView
from vp_queue.errors import LedgerBusy, LedgerUnavailable
from vp_queue.keeper import notify_command
from vp_queue.keeper.followed_settings import FollowedSettings
from vp_queue.keeper.notice import Notice, notice
from vp_queue.keeper.outcomes import Again, Given, Outcome, Refused
from vp_queue.ledger import database, deliveries, queries, watch
from vp_queue.ledger.models import Delivery

logger: Final = logging.getLogger("vp_queue.keeper")

PAGE: Final = 500
PAUSE_SECONDS: Final = 0.2  # between two looks, however much is written
LOOK_SECONDS: Final = 1.0  # at least this often, for what is due and for changed settings
# How far a cursor may stay behind while nothing is wanted: it costs a write to move it.
CURSOR_SECONDS: Final = 5.0
TIDY_SECONDS: Final = 60.0
# Beyond the longest that telling one event takes: ending a command's tree, writing down what came of it.
LEASE_MARGIN_SECONDS: Final = 60.0
STOP_SECONDS: Final = 5.0  # for those who tell somebody when the keeper is told to stop


def notify_of(settings: Settings, vp_id: str) -> Notify:
    """Who is told of a VP's events, be it configured or not any more."""
    profile = settings.vps.get(vp_id)
    return profile.notify if profile else settings.notify


def sinks_of(settings: Settings) -> dict[str, Sink]:
    """All who are told of anything, by key."""
    every = (settings.notify, *(profile.notify for profile in settings.vps.values()))
    return {sink.key: sink for notify in every for sink in notify.sinks}


class Teller:
    """Tells one sink, one event at a time."""

    def __init__(self, sink: Sink, folder: Path, stopping: Callable[[], bool]) -> None:
        """
        Args:
            sink: who is told.
            folder: where its command starts; no other process's.
            stopping: True ends a command early.
        """
        self._sink, self._folder, self._stopping = sink, folder, stopping
        self._post: Callable[[Notify, Notice, Mapping[str, str]], Outcome] | None = None

    def tell(self, notify: Notify, told: Notice) -> Outcome:
        """Send the notice, or run the command, once."""
        if self._sink.kind == "command":
            return notify_command.run(notify, told, os.environ, self._folder, self._stopping)
        if self._post is None:
            from vp_queue.keeper.notify_webhook import Webhook  # only where there is one: httpx takes 60 ms

            self._post = Webhook().send
        return self._post(notify, told, os.environ)


@dataclass
class _Served:
    """A sink and the thread that tells it, if one does now."""

    teller: Teller
    thread: threading.Thread | None = None

    def is_busy(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


class Notifier:
    """The keeper's threads that tell."""

    def __init__(self, settings: Settings) -> None:
        self._settings = FollowedSettings(settings, "notification")
        self._token = clock.new_token()
        self._stop = threading.Event()
        self._changes = watch.current()
        self._served: dict[str, _Served] = {}
        self._next_move = self._next_tidying = 0.0
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Tell within a ``with`` block; what is under way at its end may be told again by the next keeper."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._changes.wake()
            deadline = clock.monotonic() + STOP_SECONDS
            self._thread.join(max(0.0, deadline - clock.monotonic()))
            for served in list(self._served.values()):  # only now: until it ended it could begin to tell another
                if served.thread is not None:
                    served.thread.join(max(0.0, deadline - clock.monotonic()))

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                token = self._changes.token()
                try:
                    self.look()
                except (LedgerBusy, LedgerUnavailable) as error:
                    logger.warning("notification put off: %s", error)
                except Exception:
                    logger.exception("notification failed; it is tried again")
                self._stop.wait(PAUSE_SECONDS)
                self._changes.wait(token, LOOK_SECONDS - PAUSE_SECONDS)
        finally:
            database.close_thread_connection()

    def look(self) -> None:
        """Read what is new, and see to it that each sink with something due is told."""
        settings = self._settings.current()
        sinks = sinks_of(settings)
        with database.read_transaction():
            known = deliveries.sinks()
        if sinks.keys() != known.keys():
            with database.write_transaction() as tx:
                for sink in sinks.values():
                    deliveries.introduce(tx, sink.key, sink.label)
                deliveries.retire(tx, sinks)
        move = clock.monotonic() >= self._next_move
        if move:
            self._next_move = clock.monotonic() + CURSOR_SECONDS
        for key in sinks:
            while not self._stop.is_set() and self._read(settings, key, move):
                pass
        self._tidy(settings)
        for key, sink in sinks.items():
            self._serve(settings, key, sink)

    # -- reading -----------------------------------------------------------------------------------

    def _read(self, settings: Settings, sink: str, move: bool) -> bool:
        """Make rows of a page of events, and move the cursor if there are any or it is time; whether there is more."""
        with database.read_transaction():
            row = deliveries.sinks().get(sink)
            events = queries.events_after(row.cursor_seq, PAGE) if row is not None else []
        if not events:
            return False
        wanted = [event for event in events if wants(settings, sink, event)]
        more = len(events) == PAGE
        if wanted or more or move:
            with database.write_transaction() as tx:
                deliveries.enqueue(tx, sink, wanted, events[-1].seq)
        return more

    def _tidy(self, settings: Settings) -> None:
        if clock.monotonic() < self._next_tidying:
            return
        self._next_tidying = clock.monotonic() + TIDY_SECONDS
        with database.read_transaction() as now:
            stale = deliveries.stale(now, settings.retention.max_age(failed=True), PAGE)
        if stale:
            self._next_tidying = 0.0  # there may be more: thousands are given up at once when a backlog is cut
            with database.write_transaction():
                deliveries.delete(stale)

    # -- telling -----------------------------------------------------------------------------------

    def _serve(self, settings: Settings, key: str, sink: Sink) -> None:
        folder = settings.run_dir / f"notify-{key}"
        served = self._served.setdefault(key, _Served(Teller(sink, folder, self._stop.is_set)))
        if served.is_busy() or sum(each.is_busy() for each in self._served.values()) >= limits.SINKS_AT_ONCE:
            return
        with database.read_transaction() as now:
            due = deliveries.has_due(key, self._token, now)
        if due and not self._stop.is_set():
            served.thread = threading.Thread(
                target=self._tell_all, args=(key, served.teller), name="notify-sink", daemon=True
            )
            served.thread.start()

    def _tell_all(self, sink: str, teller: Teller) -> None:
        """Tell a sink what is due, until nothing is, or it must be left alone for a while."""
        try:
            while not self._stop.is_set() and self._tell_one(sink, teller):
                pass
            with database.write_transaction():
                deliveries.release(sink, self._token)
        except (LedgerBusy, LedgerUnavailable) as error:
            logger.warning("notification of %s put off: %s", sink, error)
        except Exception:
            logger.exception("notification of %s failed; it is tried again", sink)
        finally:
            database.close_thread_connection()
            self._changes.wake()

    def _tell_one(self, sink: str, teller: Teller) -> bool:
        """Claim → send → note. False: there is nothing to tell now."""
        settings = self._settings.current()
        with database.write_transaction() as tx:
            delivery = deliveries.claim(tx, sink, self._token, lease_seconds(settings))
            event = deliveries.event_of(delivery) if delivery is not None else None
        if delivery is None:
            return False
        notify = notify_of(settings, delivery.vp_id)
        if event is None:
            return self._give_up(delivery, deliveries.PRUNED)
        if notify.sink(sink) is None:
            return self._give_up(delivery, deliveries.RETIRED)
        outcome = teller.tell(notify, notice_of(sink, event))
        if self._stop.is_set() and not isinstance(outcome, Given):
            return False  # it may have been ended for that: no attempt is counted
        return self._note(delivery, notify, outcome)

    def _give_up(self, delivery: Delivery, reason: str) -> bool:
        with database.write_transaction() as tx:
            return deliveries.give_up(tx, delivery, self._token, reason, tried=False)

    def _note(self, delivery: Delivery, notify: Notify, outcome: Outcome) -> bool:
        what = f"{delivery.type} {delivery.mission_id or delivery.vp_id}"
        match outcome:
            case Again(error) if delivery.attempts + 1 >= notify.max_attempts:
                outcome = Refused(f"given up after {notify.max_attempts} attempts: {error}")
            case _:
                pass
        with database.write_transaction() as tx:
            match outcome:
                case Given():
                    landed = deliveries.told(delivery, self._token)
                case Again(error, asked):
                    landed = deliveries.put_off(tx, delivery, self._token, error, waiting(notify, asked))
                case Refused(error):
                    landed = deliveries.give_up(tx, delivery, self._token, error)
        if isinstance(outcome, Refused):
            logger.error("%s was not told of %s: %s", delivery.sink, what, outcome.error)
        elif isinstance(outcome, Again):
            logger.warning("%s was not told of %s yet: %s", delivery.sink, what, outcome.error)
        return landed


def wants(settings: Settings, sink: str, event: EventView) -> bool:
    """Whether a sink is told an event."""
    notify = notify_of(settings, event.vp_id)
    return event.type in notify.events and notify.sink(sink) is not None


def notice_of(sink: str, event: EventView) -> Notice:
    """What a sink is told of an event, with the mission as it is now."""
    mission = None
    if event.mission_id is not None:
        with database.read_transaction() as now:
            row = queries.find_mission(event.mission_id)
            mission = queries.mission_view(row, now, {}) if row is not None else None
    return notice(sink, event, mission)


def waiting(notify: Notify, asked_seconds: float | None) -> Callable[[int], float]:
    """How long to wait after so many failures: a back-off, or longer if the receiver asks for it, within limits.

    Never less than the back-off: a receiver that asks for no wait would use up all attempts within a second.
    """
    asked, most = min(asked_seconds or 0.0, limits.DELIVERY_WAIT_SECONDS), limits.DELIVERY_WAIT_SECONDS
    return lambda failures: max(asked, backoff_seconds(notify.retry_backoff_seconds, failures, most))


def lease_seconds(settings: Settings) -> float:
    """How long a claim lives: longer than any sink may take for one event."""
    every = (settings.notify, *(profile.notify for profile in settings.vps.values()))
    return max(max(n.timeout_seconds, n.command_timeout_seconds) for n in every) + LEASE_MARGIN_SECONDS
