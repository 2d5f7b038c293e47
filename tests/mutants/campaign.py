"""Mutants that the fault campaign must catch."""

from __future__ import annotations

import time
from dataclasses import replace

from tests.mutants import mutant

# What a slow disk makes of the moment between two transactions.
BETWEEN_SECONDS = 0.3


@mutant
def no_keeper() -> None:
    """A keeper that repairs nothing."""
    from vp_queue.keeper import recovery

    recovery.Keeper.sweep = lambda self: None


@mutant
def dispatch_in_two_transactions() -> None:
    """A dispatch that commits the mission first and its idempotency key afterwards."""
    from vp_queue import missions
    from vp_queue.ledger import database
    from vp_queue.ledger.models import IdempotencyKey

    whole = missions._accept

    def in_two(settings, new):
        with database.read_transaction():
            replay = missions._replay(settings, new.vp_id, new.idempotency_key, new.request_digest)
        if replay is not None:
            return replay, False
        answer = whole(settings, replace(new, idempotency_key=None))
        if new.idempotency_key is not None:
            time.sleep(BETWEEN_SECONDS)
            with database.write_transaction() as tx:
                IdempotencyKey.insert(
                    vp_id=new.vp_id,
                    key=new.idempotency_key,
                    request_digest=new.request_digest,
                    mission_id=new.mission_id,
                    created_at=tx.now,
                ).execute()
        return answer

    missions._accept = in_two
