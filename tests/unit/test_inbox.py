"""vp_read_events: where a reader stands, whatever it filters by and whatever was pruned meanwhile."""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import ended
from tests.harness import GENERAL, Home, forget_ledger, ok
from vp_queue import missions, tools
from vp_queue.config_retention import DEFAULT
from vp_queue.contracts import EventType, Status
from vp_queue.ledger import backup, database, queries, restore, retention
from vp_queue.ledger.events import record_vp_event


@pytest.fixture(autouse=True)
def ledger(home: Home) -> None:
    missions.ready()


def read(**arguments: Any) -> dict[str, Any]:
    return ok(tools.vp_read_events(**{"reader": "simone", **arguments}))


def seqs(answer: dict[str, Any]) -> list[int]:
    return [event["seq"] for event in answer["events"]]


def over(session: str | None = None, age: timedelta = timedelta(0)) -> str:
    """A mission of three events."""
    return ended.mission(age, Status.CANCELLED, source_session_id=session)


def test_a_filter_passes_over_what_it_leaves_out() -> None:
    for session in ("s-1", "s-2", "s-1", "s-2"):
        over(session)
    page = read(source_session_id="s-1", limit=4)
    assert (seqs(page), page["last_seq"]) == ([1, 2, 3, 7], 7)
    page = read(source_session_id="s-1", acknowledge=7)
    assert (seqs(page), page["last_seq"]) == ([8, 9], 12), "the whole feed was looked through"
    page = read(source_session_id="s-1", acknowledge=12)
    assert (seqs(page), page["last_seq"]) == ([], 12)


def test_acknowledging_speaks_for_every_event_up_to_there() -> None:
    over("s-1")
    over("s-2")
    read(source_session_id="s-2", acknowledge=6)
    assert seqs(read()) == []
    assert seqs(read(reader="simone/s-1", source_session_id="s-1")) == [1, 2, 3], "a filter wants a name of its own"


def pruned(*mission_ids: str) -> None:
    with database.write_transaction() as tx:
        assert len(retention.delete_missions(tx, mission_ids, DEFAULT)) == len(mission_ids)


def test_what_was_pruned_before_it_was_read_is_counted() -> None:
    first = over(age=timedelta(days=90))
    over()
    pruned(first)
    page = read()
    assert (seqs(page), page["last_seq"], page["pruned"]) == ([4, 5, 6], 6, 3)
    assert read(acknowledge=6)["pruned"] == 0


@pytest.mark.parametrize("session", [None, "s-1"])
def test_pruned_events_are_counted_with_a_filter_too_and_where_nothing_is_left(session: str | None) -> None:
    gone = [over("s-1", timedelta(days=90)) for _ in range(2)]
    pruned(*gone)
    page = read(source_session_id=session)
    assert page == {"ok": True, "events": [], "last_seq": 6, "pruned": 6}
    assert read(source_session_id=session, acknowledge=6) == {**page, "pruned": 0}


def test_a_last_seq_that_was_given_can_be_acknowledged_although_its_event_has_gone() -> None:
    gone = over(age=timedelta(days=90))
    last_seq = read()["last_seq"]
    pruned(gone)
    assert read(acknowledge=last_seq)["last_seq"] == last_seq


def test_a_write_that_was_rolled_back_leaves_no_gap() -> None:
    over()
    with contextlib.suppress(ZeroDivisionError), database.write_transaction() as tx:
        record_vp_event(tx, GENERAL, EventType.VP_PAUSED)
        raise ZeroDivisionError
    over()
    page = read()
    assert (seqs(page), page["pruned"]) == ([1, 2, 3, 4, 5, 6], 0)


def test_a_sessions_events_are_found_by_an_index_however_long_the_feed_is() -> None:
    with database.read_transaction():
        plan = database.current().db.execute_sql(
            "EXPLAIN QUERY PLAN SELECT e.* FROM vp_event AS e INNER JOIN vp_mission AS m ON e.mission_id = m.id "
            "WHERE e.seq > 0 AND m.source_session_id = 's-1' ORDER BY e.seq LIMIT 100"
        )
        steps = [row[-1] for row in plan.fetchall()]
    assert any("vp_mission_source_session_id_id" in step for step in steps), steps
    assert any("vp_event_mission_id_mission_seq" in step for step in steps), steps


def test_many_readers_wait_for_one_event() -> None:
    readers, answers = 30, []
    waiting = threading.Barrier(readers + 1)

    def wait(number: int) -> None:
        waiting.wait()
        answers.append(read(reader=f"r-{number}", wait_seconds=60))
        database.close_thread_connection()

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(readers)]
    for thread in threads:
        thread.start()
    waiting.wait()
    over()
    for thread in threads:
        thread.join()
    assert [seqs(answer)[0] for answer in answers] == [1] * readers


def test_a_wait_with_a_filter_outlasts_other_sessions_events() -> None:
    answers: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: answers.append(read(source_session_id="s-1", wait_seconds=60)))
    reader.start()
    over("s-2")
    mine = over("s-1")
    reader.join()
    assert {event["mission_id"] for event in answers[0]["events"]} == {mine}


def test_a_reader_outlives_the_process_that_reads() -> None:
    over()
    read(acknowledge=2)
    database.close_thread_connection()
    database._current = None
    assert seqs(read()) == [3]


def restored(home: Home, folder: Path) -> None:
    """A mission, a backup, another mission, and the backup restored."""
    over()
    backup.write(home.database, folder / "backup.db", replace=False)
    over()
    forget_ledger()
    copy = home.path / "copy.db"
    restore.stage(folder / "backup.db", copy)
    restore.install(copy, home.database, in_use_too=True)
    missions.ready()


def test_a_restored_gap_does_not_count_for_a_reader_that_kept_a_seq_which_the_backup_does_not_know(
    home: Home, tmp_path: Path
) -> None:
    restored(home, tmp_path)
    page = read(acknowledge=6)
    assert (page["events"], page["pruned"]) == ([], 0)
    over()
    page = read(acknowledge=6)
    assert (len(page["events"]), page["pruned"]) == (3, 0)


def test_the_gap_that_a_restored_backup_leaves_was_not_pruned(home: Home, tmp_path: Path) -> None:
    restored(home, tmp_path)
    over()
    page = read()
    assert (len(page["events"]), page["events"][3]["seq"] > queries.RESTORED_GAP, page["pruned"]) == (6, True, 0)
