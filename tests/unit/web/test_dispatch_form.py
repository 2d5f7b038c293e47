"""The form that dispatches: everything the tool takes, errors at their fields, and sent twice is dispatched once."""

from __future__ import annotations

import json

import pytest

from tests.harness import CODER, GENERAL, Home, ok
from tests.web_pages import Page, browser
from vp_queue import tools

NEW = "/missions/new"


def test_every_field_reaches_the_tool(home: Home) -> None:
    target = home.targets / "site"
    target.mkdir()
    with browser() as operator:
        form = operator.get(f"{NEW}?vp={CODER}").form(NEW)
        assert form.fields["vp_id"] == CODER
        answer = operator.send(
            form,
            objective="line one\r\nline two",
            mission_type="command",
            constraints__command="sh\r\n-c\r\necho a b",
            constraints__target_path=str(target),
            constraints__require_artifacts="*.md\r\n\r\nreport/**",
            constraints='{"files": {"notes.txt": "text"}}',
            budget__max_duration_seconds="1h30m",
            budget__max_cost_usd="2.50",
            budget__max_tokens="10,000",
            budget__max_turns="7",
            priority="-5",
            max_attempts="3",
            not_before="2100-01-01T10:00",
            expires_at="2100-01-02T10:00+02:00",
            source_session_id="s1",
            metadata='{"ticket": "42"}',
        )
        page = operator.follow(answer)
        assert "Dispatched" in page.words
    (found,) = ok(tools.vp_list_missions())["missions"]
    assert found["objective"] == "line one\nline two"
    assert found["constraints"] == {
        "command": ["sh", "-c", "echo a b"],
        "target_path": str(target),
        "require_artifacts": ["*.md", "report/**"],
        "files": {"notes.txt": "text"},
    }
    assert found["budget"] == {
        "max_duration_seconds": 5400.0,
        "max_cost_usd": 2.5,
        "max_tokens": 10_000,
        "max_turns": 7,
    }
    assert (found["priority"], found["max_attempts"], found["metadata"]) == (-5, 3, {"ticket": "42"})
    assert found["not_before"] == "2100-01-01T10:00:00Z"
    assert found["expires_at"] == "2100-01-02T08:00:00Z"


def test_what_is_left_empty_is_left_to_the_tool(home: Home) -> None:
    with browser() as operator:
        operator.follow(operator.send(operator.get(NEW).form(NEW), objective="do it"))
    (found,) = ok(tools.vp_list_missions())["missions"]
    assert (found["constraints"], found["budget"], found["priority"], found["mission_type"]) == ({}, {}, 0, "task")


def test_a_form_that_is_sent_twice_dispatches_once(home: Home) -> None:
    with browser() as operator:
        form = operator.get(NEW).form(NEW)
        first, second = operator.send(form, objective="once"), operator.send(form, objective="once")
        assert first.headers["location"].partition("?")[0] == second.headers["location"].partition("?")[0]
        assert "nothing was dispatched a second time" in operator.follow(second).words
        assert operator.get(NEW).form(NEW).fields["idempotency_key"] != form.fields["idempotency_key"]
    assert len(ok(tools.vp_list_missions())["missions"]) == 1


def test_a_form_that_was_changed_after_it_was_sent_gets_a_new_key(home: Home) -> None:
    with browser() as operator:
        form = operator.get(NEW).form(NEW)
        operator.send(form, objective="one")
        answer = operator.send(form, objective="two")
        assert answer.status_code == 409
        again = Page(answer.text)
        assert "was used for another request" in again.words
        operator.follow(operator.send(again.form(NEW)))
    assert {each["objective"] for each in ok(tools.vp_list_missions())["missions"]} == {"one", "two"}


@pytest.mark.parametrize(
    ("field", "typed", "says"),
    [
        ("objective", "   ", "must not be empty"),
        ("mission_type", "Not A Type", "should match pattern"),
        ("constraints.target_path", "relative/folder", ""),
        ("constraints.command", "true", "goes together with mission_type"),
        ("budget.max_duration_seconds", "soon", "such as 45m"),
        ("budget.max_duration_seconds", "99d", "less than or equal"),
        ("budget.max_tokens", "many", "whole number"),
        ("budget.max_cost_usd", "cheap", "number such as"),
        ("priority", "101", "less than or equal"),
        ("max_attempts", "0", "greater than or equal"),
        ("not_before", "tomorrow", "in UTC"),
        ("metadata", "ticket=42", "no JSON"),
        ("metadata", '{"ticket": 42}', "ticket"),
        ("constraints", "[1]", "JSON object"),
        ("constraints", '{"colour": "red"}', "colour: is not known here"),
        ("constraints", '{"files": {"../x": ""}}', "files"),
        ("constraints", '{"a":' * 5_000 + "1" + "}" * 5_000, ""),
    ],
)
def test_an_error_stands_at_its_field_and_everything_typed_is_kept(
    home: Home, field: str, typed: str, says: str
) -> None:
    with browser() as operator:
        form = operator.get(NEW).form(NEW)
        kept = {"objective": "keep <this>\n& that", "source_session_id": "s 1", field: typed}
        answer = operator.send(form, **{name.replace(".", "__"): value for name, value in kept.items()})
        assert answer.status_code in (403, 422), answer.text
        page = Page(answer.text)
        (_, named), *_ = page.having(id=field)
        assert named["aria-invalid"] == "true"
        assert "autofocus" in named
        assert page.having(id=named["aria-describedby"])[0][1]["class"] == "error"
        assert says in page.words
        assert {name: page.form(NEW).fields[name] for name in kept} == kept
        assert page.form(NEW).fields["idempotency_key"] == form.fields["idempotency_key"]
    assert ok(tools.vp_list_missions())["missions"] == []


def test_several_errors_are_told_at_once(home: Home) -> None:
    with browser() as operator:
        page = Page(operator.send(operator.get(NEW).form(NEW), objective="", priority="500", max_attempts="11").text)
        invalid = [named["name"] for _, named in page.having(**{"aria-invalid": "true"})]
        assert invalid == ["objective", "priority", "max_attempts"]
        assert "3 fields must be put right" in page.words


def test_a_key_that_has_its_own_field_is_not_taken_from_the_json(home: Home) -> None:
    with browser() as operator:
        form = operator.get(NEW).form(NEW)
        given = json.dumps({"target_path": "/elsewhere"})
        answer = operator.send(form, objective="x", constraints=given, constraints__target_path="/here")
        assert "stands in a field of its own already" in Page(answer.text).words


def test_the_vps_say_whether_they_can_work(home: Home) -> None:
    from vp_queue import missions

    missions.pause(GENERAL, "painting")
    with browser() as operator:
        assert "paused: painting" in operator.get(NEW).words
