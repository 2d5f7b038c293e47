"""Mutants of telling people, and deaths between its steps."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from typing import Any

from tests.mutants import mutant


def _die(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


@mutant
def dies_before_it_tells() -> None:
    """With the event claimed, before anything is sent."""
    from vp_queue.keeper import notifier

    notifier.Teller.tell = _die  # type: ignore[method-assign]


@mutant
def dies_before_it_notes_that_it_told() -> None:
    """The receiver has the event, the ledger does not know."""
    from vp_queue.ledger import deliveries

    deliveries.told = _die


@mutant
def dies_before_rows_are_committed() -> None:
    """The events were read, their rows are written and the cursor is moved, and nothing is committed."""
    from vp_queue.ledger import deliveries

    deliveries._bound = _die


@mutant
def notes_before_it_tells() -> None:
    """At most once: a row goes when it is claimed."""
    from vp_queue.ledger import deliveries
    from vp_queue.ledger.models import Delivery

    claim = deliveries.claim

    def claimed(*arguments: Any) -> Any:
        row = claim(*arguments)
        if row is not None:
            Delivery.delete().where(Delivery.id == row.id).execute()
        return row

    deliveries.claim = claimed


@mutant
def tells_without_a_claim() -> None:
    """No keeper asks whether another is at it."""
    from vp_queue.ledger import deliveries

    deliveries._is_held = lambda *_: False


@mutant
def moves_the_cursor_first() -> None:
    """Cursor and rows in two commits, with a death between them."""
    from vp_queue.keeper import notifier
    from vp_queue.ledger import database
    from vp_queue.ledger.models import Sink

    def enqueue(tx: Any, sink: str, events: Any, read_seq: int) -> None:
        Sink.update(cursor_seq=read_seq).where(Sink.sink == sink).execute()
        if events:
            database.current().db.commit()
            _die()

    notifier.deliveries.enqueue = enqueue


@mutant
def lets_later_events_overtake() -> None:
    """Whatever is due is told, also while an earlier event of its mission waits."""
    from vp_queue.ledger import deliveries

    lanes = "AND e.lane = d.lane "
    assert lanes in deliveries._DUE
    deliveries._DUE = deliveries._DUE.replace(lanes, "AND 0 ")  # type: ignore[misc]


@mutant
def begins_with_all_history() -> None:
    """A new sink is told everything there ever was."""
    from vp_queue.ledger import deliveries

    deliveries.queries.newest_seq = lambda: 0


@mutant
def tells_in_the_sweep() -> None:
    """The keeper's own thread waits for receivers."""
    import contextlib

    from vp_queue.keeper import notifier, recovery

    notifier.Notifier.running = lambda self: contextlib.nullcontext()  # type: ignore[method-assign]
    sweep = recovery.Keeper.sweep

    def swept(self: Any) -> None:
        tellers = notifier.Notifier(self._settings)
        tellers.look()
        for served in tellers._served.values():
            if served.thread is not None:
                served.thread.join()
        sweep(self)

    recovery.Keeper.sweep = swept  # type: ignore[method-assign]


@mutant
def kills_the_command_alone() -> None:
    """A command is started and killed the usual way, which knows nothing of its children."""
    from vp_queue.keeper import notify_command
    from vp_queue.keeper.outcomes import Again, Given, Outcome

    def run(notify: Any, notice: Any, environ: Any, folder: Any, stopping: Callable[[], bool]) -> Outcome:
        environment = notify_command.command_environment(notify, notice, "notify-mutant", environ)
        try:
            subprocess.run(
                notify.command,
                input=notice.body,
                env=environment,
                timeout=notify.command_timeout_seconds,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            return Again(str(error))
        return Given()

    notify_command.run = run


@mutant
def signs_nothing() -> None:
    """Nobody signs anything."""
    from vp_queue.keeper import notify_webhook

    notify_webhook.signed_headers = lambda notice, key: {  # type: ignore[assignment]
        "webhook-id": notice.id,
        "webhook-timestamp": "0",
        "webhook-signature": "v1,",
    }
