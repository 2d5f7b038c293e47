"""One mission with everything around it: lineage, guidance, who has heard of its end, and its log piece by piece."""

from __future__ import annotations

import shutil
import socket
from datetime import timedelta

import pytest

from tests import ended
from tests.ended import HOUR, acknowledged_up_to
from tests.harness import Home, ok, shell, status, until
from vp_queue import missions, missions_logs, missions_page, missions_seen, tools
from vp_queue.contracts import Status, limits
from vp_queue.errors import ArtifactNotFound, MissionNotFound, ValidationError

NOBODY = "m-0000000000-00000000000"


@pytest.fixture(autouse=True)
def _ready(home: Home) -> None:
    missions.ready()


def retried(mission_id: str, guidance: str | None = None) -> str:
    new: str = ok(tools.vp_retry_mission(mission_id=mission_id, guidance=guidance))["mission"]["mission_id"]
    return new


def cancelled_retry(mission_id: str) -> str:
    new = retried(mission_id)
    ok(tools.vp_cancel_mission(mission_id=new))
    return new


# --- the page ------------------------------------------------------------------------------------


def test_the_line_of_retries_is_shown_to_both_sides() -> None:
    first = ended.mission(HOUR, Status.FAILED)
    second = cancelled_retry(first)
    third = cancelled_retry(second)
    again = cancelled_retry(second)
    last = retried(third, "Use the other API")
    page = missions_page.mission_page(third)
    assert [each.mission_id for each in page.ancestors] == [first, second]
    assert [each.mission_id for each in page.descendants] == [last]
    assert not page.lineage_more
    page = missions_page.mission_page(first)
    assert (page.ancestors, [each.mission_id for each in page.descendants]) == ([], [second, third, again, last])
    assert missions_page.mission_page(last).guidance == "Use the other API"
    assert missions_page.mission_page(third).guidance is None


def test_a_long_line_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINEAGE_MISSIONS", 2)
    line = [ended.mission(HOUR, Status.FAILED)]
    for _ in range(4):
        line.append(cancelled_retry(line[-1]))
    page = missions_page.mission_page(line[-1])
    assert ([each.mission_id for each in page.ancestors], page.lineage_more) == (line[2:4], True)
    page = missions_page.mission_page(line[0])
    assert ([each.mission_id for each in page.descendants], page.lineage_more) == (line[1:3], True)
    assert not missions_page.mission_page(line[2]).lineage_more


def test_readers_that_have_heard_of_its_end_and_that_have_not() -> None:
    before = ended.mission(2 * HOUR)
    mission_id = ended.mission(HOUR, Status.FAILED)
    acknowledged_up_to("late", before)
    acknowledged_up_to("simone", mission_id)
    page = missions_page.mission_page(mission_id)
    assert [each.reader for each in page.acknowledged_by] == ["simone"]
    assert [each.reader for each in page.not_acknowledged_by] == ["late"]
    assert page.outcome_seq == page.acknowledged_by[0].acknowledged_seq
    assert [each.reader for each in missions_page.mission_page(before).not_acknowledged_by] == []


def test_of_what_has_not_ended_nobody_can_have_heard() -> None:
    acknowledged_up_to("simone", ended.mission(HOUR))
    page = missions_page.mission_page(ended.mission(timedelta(minutes=1), Status.RUNNING))
    assert (page.outcome_seq, page.acknowledged_by, page.not_acknowledged_by) == (None, [], [])


def test_it_tells_whether_somebody_has_seen_it() -> None:
    mission_id = ended.mission(HOUR, Status.FAILED)
    assert not missions_page.mission_page(mission_id).seen
    missions_seen.mark_seen(mission_id)
    assert missions_page.mission_page(mission_id).seen


def test_there_is_no_page_and_no_log_of_no_mission() -> None:
    for look in (missions_page.mission_page, missions_logs.read, missions_seen.mark_seen):
        with pytest.raises(MissionNotFound):
            look(NOBODY)


# --- the log -------------------------------------------------------------------------------------


def test_a_log_is_read_piece_by_piece_while_it_grows_and_to_its_end(home: Home) -> None:
    go = home.targets / "go"
    mission_id = shell(f"printf 'one '; while [ ! -e {go} ]; do sleep 0.05; done; printf 'two'")["mission_id"]
    assert missions_logs.read(mission_id) == missions_logs.LogPiece(b"", None, 0, 0, 0, over=False)
    home.consumer()
    until(lambda: status(mission_id) == "running" and missions_logs.read(mission_id).text == b"one ", "it prints")
    piece = missions_logs.read(mission_id)
    assert (piece.attempt, piece.next_offset, piece.over) == (1, 4, False)
    assert missions_logs.read(mission_id, 1, piece.next_offset).text == b""
    go.touch()
    until(lambda: status(mission_id) == "completed", "it ends")
    rest = missions_logs.read(mission_id, 1, piece.next_offset)
    assert (rest.text, rest.next_offset, rest.over) == (b"two", 7, True)
    assert missions_logs.read(mission_id, limit_bytes=3) == missions_logs.LogPiece(b"one", 1, 0, 3, 0, over=False)


def test_the_tail_begins_so_far_before_the_end(home: Home) -> None:
    home.consumer()
    mission_id = shell("printf 0123456789")["mission_id"]
    until(lambda: status(mission_id) == "completed", "it ends")
    piece = missions_logs.read(mission_id, limit_bytes=1, tail_bytes=4)
    assert piece.tail_offset == 6
    assert missions_logs.read(mission_id, 1, piece.tail_offset).text == b"6789"


def test_each_attempt_has_its_log_and_only_the_last_one_of_an_ended_mission_is_over_without_a_number(
    home: Home,
) -> None:
    home.consumer()
    mission_id = shell('printf "attempt $VP_ATTEMPT"; exit 1', max_attempts=2)["mission_id"]
    until(lambda: missions_logs.read(mission_id).text == b"attempt 1", "the first attempt printed")
    home.keeper()  # which enqueues it again
    until(lambda: status(mission_id) == "failed", "both attempts failed")
    assert [missions_logs.read(mission_id, number).text for number in (1, 2)] == [b"attempt 1", b"attempt 2"]
    assert missions_logs.read(mission_id).attempt == 2
    assert all(missions_logs.read(mission_id, number).over for number in (1, 2, None))
    with pytest.raises(ValidationError, match="has no attempt 3; it has had 2"):
        missions_logs.read(mission_id, 3)


def test_what_never_started_is_over_without_a_word() -> None:
    mission_id = shell("true")["mission_id"]
    ok(tools.vp_cancel_mission(mission_id=mission_id))
    assert missions_logs.read(mission_id) == missions_logs.LogPiece(b"", None, 0, 0, 0, over=True)


def test_a_log_that_is_gone_or_elsewhere_says_where_it_was(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.consumer()
    mission_id = shell("echo words")["mission_id"]
    until(lambda: status(mission_id) == "completed", "it ends")
    host = socket.gethostname()
    shutil.rmtree(home.workspace(mission_id))
    with pytest.raises(ArtifactNotFound, match="not there any more"):
        missions_logs.read(mission_id)
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    with pytest.raises(ArtifactNotFound, match=f"It was on host {host}"):
        missions_logs.read(mission_id)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"offset": -1}, "offset"),
        ({"offset": 2**80}, "offset"),
        ({"limit_bytes": 0}, "limit_bytes"),
        ({"limit_bytes": limits.LOG_READ_BYTES + 1}, "limit_bytes"),
        ({"tail_bytes": -1}, "tail_bytes"),
    ],
)
def test_arguments_out_of_bounds_are_refused(arguments: dict[str, int], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        missions_logs.read(NOBODY, **arguments)
    assert refused.value.details["field"] == field
