"""The promise holds whatever happens in whatever order: Hypothesis plays consumers, keepers and faults.

``VP_MODEL_EXAMPLES`` and ``VP_MODEL_STEPS`` make it longer, ``VP_MODEL_SEED`` another run; the slow test picks a
seed of its own and prints it.
"""

from __future__ import annotations

import os
import random

import cysqlite
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from peewee import IntegrityError

from tests.faults.machine import LedgerMachine

FAST_EXAMPLES, LONG_EXAMPLES, MUTANT_EXAMPLES, STEPS = 25, 2_000, 400, 50
PARTS = 50  # of the long run: no single test may take more than five minutes

# Each guard whose removal the machine must notice: how it is noticed, and a seed that shows it soon (any other
# does, later).
MUTANTS = {
    "no-fence": (r"stale|stray|was taken from a living", 2),
    "no-compare-and-set-in-finish": (r"stale|UNIQUE constraint failed|no such status change", 1),
    "no-kill-before-requeue": (r"overlap|runs after its mission's end|outlived", 2),
    "spawned-is-not-recorded": (r"overlap|runs after its mission's end|outlived", 2),
    "lease-by-wall-clock": (r"was taken from a living", 3),
    "take-over-without-a-second-look": (r"was taken from a living", 5),
    "release-keeps-the-number": (r"recorded twice|starts a second time", 5),
    "cancel-revives": (r"differs from the fold|changed", 2),
    "cancel-is-forgotten": (r"queued again after a cancel|runs after", 3),
    "key-is-looked-up-before-the-transaction-only": (r"internal_error|stands for", 1),
}


def play(examples: int, seed_number: int, mutant: str = "", *, shrink: bool = True) -> None:
    """Run the machine; raises what the first example that fails raised."""

    class Machine(LedgerMachine):
        pass

    Machine.mutant = mutant
    profile = settings(
        max_examples=examples,
        stateful_step_count=int(os.environ.get("VP_MODEL_STEPS", STEPS)),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        report_multiple_bugs=False,
    )
    run_state_machine_as_test(seed(seed_number)(Machine), settings=profile)


def test_the_promise_holds_in_any_order() -> None:
    play(FAST_EXAMPLES, int(os.environ.get("VP_MODEL_SEED", "1")))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_the_promise_holds_in_any_order_for_long(part: int) -> None:
    number = int(os.environ.get("VP_MODEL_SEED", random.randrange(10**6))) + part
    print(f"VP_MODEL_SEED={number - part}, part {part}")
    play(int(os.environ.get("VP_MODEL_EXAMPLES", LONG_EXAMPLES)) // PARTS, number)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_removed_guard_is_noticed(mutant: str) -> None:
    how, seed_number = MUTANTS[mutant]
    # Whatever breaks first is the proof: an invariant, or the database's own last line of defence.
    with pytest.raises((AssertionError, IntegrityError, cysqlite.IntegrityError), match=how):
        play(MUTANT_EXAMPLES, seed_number, mutant, shrink=False)
