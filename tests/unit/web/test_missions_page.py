"""The list of missions: filters in the address, pages to both sides, and actions on all that match."""

from __future__ import annotations

import re
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from tests import ended
from tests.harness import CODER, GENERAL, Home, command, ok, status
from tests.web_pages import Page, browser
from vp_queue import missions, tools
from vp_queue.contracts import Status
from vp_queue.web import dashboard_missions

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def ledger(home: Home) -> None:
    """This home's ledger is open, for missions that are made without the tools."""
    missions.ready()


def shown(page: Page) -> list[str]:
    """The missions of a page, in order."""
    found = [re.fullmatch(r"/missions/(m-[0-9a-z-]+)", link) for link in page.links()]
    return [match[1] for match in found if match]


def link(page: Page, words: str) -> str:
    """Where the link with this relation leads."""
    return next(named["href"] for tag, named in page.elements if tag == "a" and named.get("rel") == words)


def test_an_empty_ledger_says_how_to_begin(home: Home) -> None:
    with browser() as operator:
        page = operator.get("/missions")
        assert "No mission was dispatched yet" in page.words
        assert "/missions/new" in page.links()


def test_filters_stand_in_the_address_and_in_the_form(home: Home) -> None:
    constraints = {"command": ["true"]}
    asked = {"mission_type": "command", "constraints": constraints}
    ok(tools.vp_dispatch_mission(vp_id=CODER, objective="mend the roof", source_session_id="s 1&2", **asked))
    general = ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="mend the wall"))["mission"]["mission_id"]
    failed = ended.mission(HOUR, Status.FAILED)
    with browser() as operator:
        assert len(shown(operator.get("/missions"))) == 3
        assert shown(operator.get("/missions?status=failed&status=cancelled")) == [failed]
        assert shown(operator.get(f"/missions?vp={GENERAL}&text=mend")) == [general]
        page = operator.get("/missions?session=s+1%262&text=roof")
        assert len(shown(page)) == 1
        assert page.form("/missions").fields["session"] == "s 1&2"
        # Each tab keeps the other filters.
        tabs = [parse_qs(urlsplit(each).query) for each in page.links() if "session=" in each]
        assert tabs
        assert all(tab["session"] == ["s 1&2"] and tab["text"] == ["roof"] for tab in tabs)
        assert "No mission matches these filters" in operator.get("/missions?text=nowhere").words


def test_a_day_alone_begins_at_its_beginning_and_ends_at_its_end(home: Home) -> None:
    mission_id = ended.mission(HOUR)
    created = ok(tools.vp_get_mission(mission_id=mission_id))["mission"]["created_at"][:10]
    with browser() as operator:
        assert shown(operator.get(f"/missions?since={created}&until={created}")) == [mission_id]
        assert shown(operator.get(f"/missions?until={created}T00:00:00Z")) == []


@pytest.mark.parametrize(
    ("query", "field", "typed"),
    [
        ("since=yesterday", "since", "yesterday"),
        ("until=2026-13-40", "until", "2026-13-40"),
        ("text=" + "x" * 300, "text", "x" * 300),
    ],
)
def test_a_filter_that_cannot_be_understood_is_told_at_its_field(
    home: Home, query: str, field: str, typed: str
) -> None:
    ended.mission(HOUR)
    with browser() as operator:
        page = operator.get(f"/missions?{query}", 422)
        (_, named), *_ = page.having(name=field)
        assert named["aria-invalid"] == "true"
        assert named["value"] == typed
        assert page.having(id=named["aria-describedby"])[0][1]["class"] == "error"
        assert shown(page) == [], "a list that the filter does not hold for would mislead"


def test_an_unknown_status_is_told(home: Home) -> None:
    with browser() as operator:
        assert "there is no such status" in operator.get("/missions?status=sleeping", 422).words


def test_pages_are_turned_in_both_directions_and_keep_the_filters(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard_missions, "SHOWN", 5)
    ids = sorted(ended.many(12, HOUR), reverse=True)
    ended.mission(HOUR, Status.FAILED)
    with browser() as operator:
        first = operator.get("/missions?status=completed")
        assert shown(first) == ids[:5]
        assert first.having(rel="prev") == []
        second = operator.get(link(first, "next"))
        assert shown(second) == ids[5:10]
        third = operator.get(link(second, "next"))
        assert shown(third) == ids[10:]
        assert third.having(rel="next") == []
        back = operator.get(link(third, "prev"))
        assert shown(back) == ids[5:10]
        assert shown(operator.get(link(back, "prev"))) == ids[:5]
        assert first.having(id="live")[0][1].get("hx-get") == "/missions?status=completed"
        assert "hx-get" not in second.having(id="live")[0][1], "a page in the middle stands still"


def test_a_wrong_place_in_the_pages_is_told(home: Home) -> None:
    with browser() as operator:
        assert "begin at the newest" in operator.get("/missions?before=nonsense", 422).words


def test_all_matching_are_cancelled_after_a_question_and_in_several_goes(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard_missions, "CHANGED_AT_ONCE", 2)
    mine = [command("true", source_session_id="s1")["mission_id"] for _ in range(3)]
    other = command("true")["mission_id"]
    with browser() as operator:
        asked = operator.get("/missions/cancel-matching?session=s1")
        assert "up to 3 missions" in asked.words
        later = command("true", source_session_id="s1")["mission_id"]
        answer = operator.send(asked.form("/missions/cancel-matching"), reason="all wrong")
        assert "Cancel requested for 2" in Page(answer.text).words
        assert "1 are left" in Page(answer.text).words
        answer = operator.send(Page(answer.text).form("/missions/cancel-matching"))
        assert "Cancel requested for 3" in Page(answer.text).words
        assert "Nothing is left" in Page(answer.text).words
    assert {status(each) for each in mine} == {"cancelled"}
    assert status(other) == status(later) == "queued", "not asked for, or dispatched after the question"
    events = ok(tools.vp_get_mission(mission_id=mine[2]))["events"]
    assert any(event["data"].get("reason") == "all wrong" for event in events), "the reason goes along"


def test_all_matching_are_retried_once_with_guidance(home: Home) -> None:
    ended.mission(HOUR, Status.FAILED)
    with browser() as operator:
        form = operator.get("/missions/retry-matching?status=failed").form("/missions/retry-matching")
        assert "1 dispatched again" in Page(operator.send(form, guidance="be careful").text).words
        assert "0 dispatched again" in Page(operator.send(form, guidance="be careful").text).words, "sent twice"
    (again,) = ok(tools.vp_list_missions(status="queued"))["missions"]
    assert again["retry_of"]


def test_without_a_filter_nothing_is_done_to_all(home: Home) -> None:
    mission_id = command("true")["mission_id"]
    with browser() as operator:
        assert "Filter the list first" in operator.get("/missions/cancel-matching", 422).words
        form = operator.get("/missions/cancel-matching?status=queued").form("/missions/cancel-matching")
        form.action = "/missions/cancel-matching"
        assert operator.send(form).status_code == 422
    assert status(mission_id) == "queued"


def test_a_server_that_only_shows_offers_no_change_and_refuses_it(home: Home) -> None:
    mission_id = command("true")["mission_id"]
    with browser() as writer:
        form = writer.get("/missions/cancel-matching?status=queued").form("/missions/cancel-matching")
    with browser(read_only=True) as operator:
        assert "/missions/new" not in operator.get("/missions").links()
        for address in ("/missions/new", "/missions/cancel-matching?status=queued", f"/missions/{mission_id}"):
            forms = [each.action for each in operator.get(address).forms if each.method == "post"]
            assert forms == ["/logout"], address
        assert operator.send(form).status_code == 403
    assert status(mission_id) == "queued"
