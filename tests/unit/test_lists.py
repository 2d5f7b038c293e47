"""Lists: filters, counts under the same filters, and pages that are turned to both sides."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import pytest
from peewee import Case

from tests import ended
from tests.ended import DAY, HOUR
from tests.harness import CODER, GENERAL, Home, ok
from tests.plans import whole_reads
from vp_queue import clock, missions, missions_lists, tools
from vp_queue.contracts import Status, limits
from vp_queue.contracts.requests import ListMissions
from vp_queue.ledger import database
from vp_queue.ledger.models import Mission


@pytest.fixture(autouse=True)
def _ready(home: Home) -> None:
    missions.ready()


def listed(**filters: Any) -> list[str]:
    """The ids of all missions that match, by the tool, page for page."""
    found: list[str] = []
    cursor = None
    while True:
        answer = ok(tools.vp_list_missions(limit=3, cursor=cursor, **filters))
        found += [mission["mission_id"] for mission in answer["missions"]]
        cursor = answer["next_cursor"]
        if cursor is None:
            return found


def counted(**filters: Any) -> dict[str, int]:
    """The counts that are not 0."""
    counts: dict[str, int] = ok(tools.vp_list_missions(**filters))["counts"]
    return {status: count for status, count in counts.items() if count}


def with_result(mission_id: str, result: str) -> str:
    with database.write_transaction():
        Mission.update(result=result).where(Mission.id == mission_id).execute()
    return mission_id


# --- text ----------------------------------------------------------------------------------------


def test_a_text_is_found_in_objective_and_result_whatever_its_case_and_at_the_beginning_of_an_id() -> None:
    objective = ended.mission(3 * HOUR, objective="Read the INVOICES of May")
    result = with_result(ended.mission(2 * HOUR, Status.FAILED), "Two invoices are missing.")
    other = ended.mission(HOUR)
    assert listed(text="invoices") == [result, objective]
    assert counted(text="invoices") == {"completed": 1, "failed": 1}
    assert listed(text="invoices", status="failed") == [result]
    assert listed(text=other[:20]) == [other]
    assert listed(text=other[5:]) == []  # an id is known by its beginning


def test_wildcards_and_quotes_are_only_characters() -> None:
    percent = ended.mission(5 * HOUR, objective="100% sure")
    score = ended.mission(4 * HOUR, objective="snake_case")
    slash = ended.mission(3 * HOUR, objective="a\\b")
    quote = ended.mission(2 * HOUR, objective="it's")
    ended.mission(HOUR, objective="100 snakeXcase ab its")
    for text, mission_id in (("0%", percent), ("e_c", score), ("a\\b", slash), ("t's", quote)):
        assert listed(text=text) == [mission_id], text
    assert listed(text="%%") == listed(text="__") == []


def test_letters_beyond_ascii_are_found_in_both_cases() -> None:
    first = ended.mission(2 * HOUR, objective="Ärger mit der RÜCKGABE")
    for text in ("ärger", "ÄRGER", "Ärger", "rückgabe", "RÜCKGABE"):
        assert listed(text=text) == [first], text


def test_a_text_is_looked_for_so_far_and_the_cursor_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEARCHED_MISSIONS", 4)
    oldest = ended.mission(DAY, objective="needle")
    for age in range(9, 0, -1):
        ended.mission(timedelta(minutes=age))
    newest = ended.mission(timedelta(0), objective="needle")
    first = ok(tools.vp_list_missions(text="needle"))
    assert [mission["mission_id"] for mission in first["missions"]] == [newest]
    assert first["next_cursor"] is not None
    assert sum(first["counts"].values()) == 1
    assert listed(text="needle") == [newest, oldest]
    page = missions_lists.page(ListMissions(text="needle"), newer_than=oldest)
    assert page.missions == []
    assert page.previous_cursor is not None


def test_no_mission_lies_between_two_searched_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEARCHED_MISSIONS", 4)
    ids = [ended.mission(timedelta(minutes=age)) for age in range(14, 0, -1)]
    for wanted in ids:
        with database.write_transaction():
            Mission.update(result=Case(None, [(Mission.id == wanted, "needle")])).execute()
        assert listed(text="needle") == [wanted]
        cursor, back = ids[0], []
        while cursor is not None:
            page = missions_lists.page(ListMissions(text="needle"), newer_than=cursor)
            back += [mission.mission_id for mission in page.missions]
            cursor = page.previous_cursor
        assert back == [wanted] * (wanted != ids[0])


# --- time ----------------------------------------------------------------------------------------


def test_missions_are_found_by_when_they_were_dispatched() -> None:
    ids = [ended.mission(timedelta(minutes=age)) for age in (50, 40, 30, 20, 10)]
    now = clock.now()

    def ago(minutes: int) -> str:
        return clock.as_text(now - timedelta(minutes=minutes))

    assert listed(created_after=ago(35)) == ids[:1:-1]
    assert listed(created_before=ago(35)) == ids[1::-1]
    assert listed(created_after=ago(45), created_before=ago(15)) == ids[3:0:-1]
    assert counted(created_after=ago(45), created_before=ago(15)) == {"completed": 3}
    assert listed(created_after=ago(15), created_before=ago(45)) == []


def test_after_is_after_and_before_includes_the_instant() -> None:
    first, second = ended.mission(HOUR), ended.mission(timedelta(minutes=30))
    at = instant_of(second)
    assert listed(created_after=at) == []
    assert listed(created_before=at) == [second, first]
    assert listed(created_after=at - clock.MICROSECOND) == [second]
    assert listed(created_before=at - clock.MICROSECOND) == [first]


def instant_of(mission_id: str) -> datetime:
    """The instant in an id."""
    return clock.from_micros(int(mission_id[2:12], 36))


def test_the_first_id_of_an_instant_sorts_between_those_before_and_those_after() -> None:
    mission_id = clock.new_mission_id()
    at = instant_of(mission_id)
    assert clock.first_mission_id(at) <= mission_id < clock.first_mission_id(at + clock.MICROSECOND)
    assert clock.first_mission_id(clock.LATEST) == "m-zzzzzzzzzz"
    assert clock.first_mission_id(clock.EARLIEST) == "m-0000000000"


# --- pages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("filters", [{}, {"vp_id": GENERAL}, {"status": "failed"}, {"text": "needle"}])
def test_pages_turned_forth_and_back_show_each_mission_once_in_order(filters: dict[str, Any]) -> None:
    chance = random.Random(6)
    for age in range(40, 0, -1):
        status = chance.choice((Status.COMPLETED, Status.FAILED))
        vp_id, objective = chance.choice((GENERAL, CODER)), chance.choice(("needle", "hay"))
        ended.mission(timedelta(minutes=age), status, vp_id=vp_id, objective=objective)
    whole = [mission.mission_id for mission in missions_lists.page(ListMissions(limit=500, **filters)).missions]
    assert len(whole) > 10
    forth = []
    cursor, page = None, None
    while page is None or page.next_cursor:
        page = missions_lists.page(ListMissions(limit=7, cursor=cursor, **filters))
        forth.append([mission.mission_id for mission in page.missions])
        cursor = page.next_cursor
    assert [each for ids in forth for each in ids] == whole
    back = [forth[-1]]
    while page.previous_cursor:
        page = missions_lists.page(ListMissions(limit=7, **filters), newer_than=page.previous_cursor)
        back.insert(0, [mission.mission_id for mission in page.missions])
    assert [each for ids in back for each in ids] == whole
    assert page.next_cursor == back[0][-1]


def test_the_first_page_has_none_before_it_until_something_came() -> None:
    ended.mission(HOUR)
    page = missions_lists.page(ListMissions())
    assert (page.previous_cursor, page.next_cursor) == (None, None)
    ended.mission(timedelta(0))
    older = missions_lists.page(ListMissions(cursor=clock.first_mission_id(clock.now() - timedelta(minutes=1))))
    assert older.previous_cursor is not None
    newer = missions_lists.page(ListMissions(), newer_than=older.previous_cursor)
    assert len(newer.missions) == 1
    assert newer.previous_cursor is None


# --- speed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"vp_id": GENERAL},
        {"status": "failed"},
        {"vp_id": GENERAL, "status": ["failed", "completed"]},
        {"source_session_id": "s"},
        {"created_after": "2026-01-01T00:00:00Z"},
        {"vp_id": GENERAL, "created_before": "2026-01-01T00:00:00Z"},
    ],
)
def test_no_list_reads_a_whole_table(filters: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ended.many(5, HOUR)
    # Counts over all go through a whole index, and a first page through the beginning of one.
    allowed = {
        "SCAN t1 USING COVERING INDEX vp_mission_status_id",
        "SCAN t1 USING INDEX sqlite_autoindex_vp_mission_1",
        "SCAN t1 USING COVERING INDEX sqlite_autoindex_vp_mission_1",
    }
    cursor = clock.new_mission_id()
    for look in (
        lambda: missions_lists.page(ListMissions(**filters)),
        lambda: missions_lists.page(ListMissions(cursor=cursor, **filters)),
        lambda: missions_lists.page(ListMissions(**filters), newer_than=cursor),
    ):
        assert whole_reads(monkeypatch, look) <= allowed


def test_an_id_is_bounded_once_to_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of two bounds SQLite took the first, that of the time: a page read all from there to its cursor.
    monkeypatch.setattr(limits, "SEARCHED_MISSIONS", 2)
    ids = ended.many(9, HOUR)
    now = clock.as_text(clock.now())
    asked: list[str] = []
    execute_sql = database.LedgerDatabase.execute_sql

    def noting(db: database.LedgerDatabase, sql: str, params: object = None) -> object:
        asked.append(sql)
        return execute_sql(db, sql, params)

    monkeypatch.setattr(database.LedgerDatabase, "execute_sql", noting)
    for text in (None, "needle"):
        request = ListMissions(created_after="2020-01-01T00:00:00Z", created_before=now, cursor=ids[6], text=text)
        missions_lists.page(request)
        missions_lists.page(request, newer_than=ids[2])
    assert asked
    for sql in asked:
        assert sql.count('"id" <') <= 1, sql
        assert sql.count('"id" >') <= 1, sql
