"""Failpoints: the process kills itself just before or just after a named commit.

``failpoint`` is a mutant like any other, so real programs run with it; which commit, and on which side of it,
stands in the variable ``VP_TEST_FAILPOINT``: ``claim:before``, ``claim:after``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from tests.mutants import mutant
from vp_queue.ledger import database
from vp_queue.ledger.models import IdempotencyKey
from vp_queue.ledger.statements import Insertion

VARIABLE: Final = "VP_TEST_FAILPOINT"
# The name of a commit, and the function that has been called and landed in its transaction.
COMMITS: Final = {
    "dispatch": ("vp_queue.ledger.transitions", "accept"),
    "cancel": ("vp_queue.ledger.transitions", "request_cancel"),
    "register": ("vp_queue.ledger.fleet", "register"),
    "dequeue": ("vp_queue.queue.storage", "_foreign"),
    "claim": ("vp_queue.ledger.transitions", "claim"),
    "spawned": ("vp_queue.ledger.leases", "spawned"),
    "progress": ("vp_queue.ledger.leases", "progress"),
    "heartbeat": ("vp_queue.ledger.leases", "renew"),
    "complete": ("vp_queue.ledger.transitions", "complete"),
    "fail": ("vp_queue.ledger.transitions", "fail"),
    "cancelled": ("vp_queue.ledger.transitions", "cancelled"),
    "release": ("vp_queue.ledger.transitions", "release"),
    "take over": ("vp_queue.ledger.leases", "take_over"),
    "lose": ("vp_queue.ledger.transitions", "lose"),
    "expire": ("vp_queue.ledger.transitions", "expire"),
    "wake up": ("vp_queue.queue.huey", "enqueue"),
    "worker lost": ("vp_queue.ledger.fleet", "end"),
}
# These answer nothing, or a reason against; having been called is enough.
_CALLED_IS_ENOUGH: Final = ("wake up", "dequeue")


@mutant
def failpoint() -> None:
    """Die at the commit that ``VP_TEST_FAILPOINT`` names."""
    name, _, side = os.environ[VARIABLE].partition(":")
    module, function = COMMITS[name]
    reached = threading.local()
    target = importlib.import_module(module)
    original: Callable[..., Any] = getattr(target, function)
    begin = database.write_transaction

    def noted(*arguments: Any, **options: Any) -> Any:
        landed = original(*arguments, **options)
        if landed or name in _CALLED_IS_ENOUGH:
            reached.here = True
        return landed

    @contextlib.contextmanager
    def write_transaction(**options: Any) -> Iterator[Any]:
        reached.here = False
        with begin(**options) as tx:
            yield tx
            if reached.here and side == "before":
                os.kill(os.getpid(), signal.SIGKILL)
        if reached.here and side == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(target, function, noted)
    database.write_transaction = write_transaction


@mutant
def key_in_a_transaction_of_its_own() -> None:
    """A dispatch is acknowledged by two commits: the mission, then its idempotency key."""
    from vp_queue import clock, missions

    accept = missions._accept

    def in_two(settings: Any, new: Any) -> Any:
        import dataclasses

        answer = accept(settings, dataclasses.replace(new, idempotency_key=None))
        with database.write_transaction():
            Insertion(IdempotencyKey).insert(
                vp_id=new.vp_id,
                key=new.idempotency_key,
                request_digest=new.request_digest,
                mission_id=new.mission_id,
                created_at=clock.now(),
            )
        return answer

    missions._accept = in_two
