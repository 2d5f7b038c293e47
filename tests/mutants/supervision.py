"""Mutants of how programs end with their supervisord."""

from __future__ import annotations

from tests.mutants import mutant


@mutant
def outlives_supervisord() -> None:
    """A program that does not care what became of the supervisord that started it."""
    from vp_queue.keeper import recovery
    from vp_queue.worker import consumer

    consumer.end_with_supervisord = lambda: None
    recovery.end_with_supervisord = lambda: None


@mutant
def registers_once() -> None:
    """A consumer that tries once to register when it starts."""
    from vp_queue.worker.consumer import MissionWorker

    def once(self: MissionWorker) -> None:
        self.start()

    MissionWorker.begin = once  # type: ignore[method-assign]
