"""A reader's inbox: what was acknowledged is never shown again, what was not is never missed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from vp_queue.contracts import EventType
from vp_queue.errors import ValidationError
from vp_queue.ledger import database, inbox
from vp_queue.ledger.events import record_vp_event
from vp_queue.ledger.models import Event, Inbox


@pytest.fixture(autouse=True)
def three_events(tmp_path: Path) -> None:
    database.open_ledger(tmp_path / "vp_state.db")
    with database.write_transaction() as tx:
        for _ in range(3):
            record_vp_event(tx, "vp.general.primary", EventType.VP_PAUSED)


def acknowledge(reader: str, seq: int) -> None:
    with database.write_transaction() as tx:
        inbox.acknowledge(tx, reader, seq)


def test_a_new_reader_has_acknowledged_nothing() -> None:
    assert inbox.acknowledged("simone") == 0
    assert Inbox.select().count() == 0, "asking writes nothing"


def test_a_reader_stands_where_it_acknowledged() -> None:
    acknowledge("simone", 2)
    assert inbox.acknowledged("simone") == 2


@pytest.mark.parametrize("seq", [0, 1, 2])
def test_a_reader_never_moves_back(seq: int) -> None:
    acknowledge("simone", 2)
    acknowledge("simone", seq)
    assert inbox.acknowledged("simone") == 2


@pytest.mark.parametrize("seq", [4, 2**62])
def test_the_future_cannot_be_acknowledged(seq: int) -> None:
    acknowledge("simone", 1)
    with pytest.raises(ValidationError, match="beyond the newest event") as refused:
        acknowledge("simone", seq)
    assert refused.value.details == {"field": "acknowledge"}
    assert inbox.acknowledged("simone") == 1


def test_the_newest_event_can_be_acknowledged() -> None:
    acknowledge("simone", 3)
    assert inbox.acknowledged("simone") == 3


def test_readers_stand_apart() -> None:
    acknowledge("simone", 3)
    acknowledge("Simone", 1)
    assert (inbox.acknowledged("simone"), inbox.acknowledged("Simone"), inbox.acknowledged("other")) == (3, 1, 0)


def test_what_was_acknowledged_stays_so_when_the_events_are_pruned() -> None:
    acknowledge("simone", 3)
    with database.write_transaction():
        Event.delete().execute()
    acknowledge("simone", 3)
    assert inbox.acknowledged("simone") == 3


def test_of_acknowledgements_at_once_the_highest_stays() -> None:
    start = threading.Barrier(3)

    def one(seq: int) -> None:
        start.wait()
        acknowledge("simone", seq)

    threads = [threading.Thread(target=one, args=(seq,)) for seq in (1, 3, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inbox.acknowledged("simone") == 3
