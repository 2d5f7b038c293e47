"""What each event of a host is answered with, and when that is acknowledged."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests import ended
from tests.harness import GENERAL, Home
from vp_queue import missions, missions_inbox
from vp_queue.contracts import Status, limits
from vp_queue.hooks.inbox import Shown, Told, confirm, tell
from vp_queue.hooks.memory import Memory
from vp_queue.hooks.protocol import Hook, hook_of, parsed
from vp_queue.ledger import database, inbox

READER = "claude-code"


@pytest.fixture(autouse=True)
def ledger(home: Home) -> None:
    missions.ready()


class Session:
    """A host's session, which takes whatever its hooks answer."""

    def __init__(self, session_id: str, **options: Any) -> None:
        self.session_id = session_id
        self._options = options
        self._shown = Shown()

    def call(self, event: str, **given: Any) -> dict[str, Any] | None:
        told = self.told(event, **given)
        confirm(READER, told)
        self._shown = told.shown
        return told.answer

    def told(self, event: str, **given: Any) -> Told:
        return tell(READER, Hook(event, self.session_id, **given), self._shown, **self._options)

    def prompt(self) -> str:
        answer = self.call("UserPromptSubmit")
        return "" if answer is None else str(answer["hookSpecificOutput"]["additionalContext"])


def over(session: str | None = None, status: Status = Status.CANCELLED) -> str:
    return ended.mission(timedelta(0), status, source_session_id=session)


def acknowledged() -> int:
    with database.read_transaction():
        return inbox.acknowledged(READER)


@pytest.mark.parametrize("event", ["UserPromptSubmit", "SessionStart", "PostToolUse"])
def test_context_is_given_in_the_hosts_form(event: str) -> None:
    mission_id = over()
    answer = Session("s-1").call(event)
    assert answer is not None
    assert list(answer) == ["hookSpecificOutput"]
    assert answer["hookSpecificOutput"]["hookEventName"] == event
    assert mission_id in answer["hookSpecificOutput"]["additionalContext"]


@pytest.mark.parametrize("event", ["UserPromptSubmit", "SessionStart", "Stop", "SessionEnd", "PreCompact"])
def test_nothing_new_is_answered_with_nothing(event: str) -> None:
    ended.mission(timedelta(0), Status.QUEUED)
    assert Session("s-1").call(event) is None


def test_what_was_shown_is_acknowledged_by_the_next_call_and_not_before() -> None:
    session, mission_id = Session("s-1"), over()
    assert mission_id in session.prompt()
    assert acknowledged() == 0
    assert session.prompt() == ""
    assert acknowledged() == missions.newest_seq()


def test_another_session_is_shown_what_nobody_went_on_with() -> None:
    mission_id = over()
    assert mission_id in Session("s-1").prompt()
    second = Session("s-2")
    assert mission_id in second.prompt()
    second.call("SessionEnd")
    assert Session("s-3").prompt() == ""


def test_a_stop_is_held_up_for_the_sessions_own_outcomes_only_and_once() -> None:
    session = Session("s-1")
    over("s-2")
    over()
    assert session.call("Stop") is None
    mine = over("s-1")
    answer = session.call("Stop")
    assert answer is not None
    assert answer["decision"] == "block"
    assert mine in answer["reason"]
    assert session.call("Stop", stop_hook_active=True) is None
    assert session.call("Stop") is None, "it has been told"


def test_a_stop_is_never_held_up_twice_in_a_row() -> None:
    session = Session("s-1")
    over("s-1")
    assert session.call("Stop") is not None
    later = over("s-1")
    assert session.call("Stop", stop_hook_active=True) is None
    assert later in session.prompt(), "and yet it is not lost"


def test_a_session_without_an_id_stops_freely() -> None:
    over()
    assert Session("").call("Stop") is None


def test_what_is_left_out_stays_unread() -> None:
    old = [over() for _ in range(limits.CONTEXT_OUTCOMES + 5)]
    session = Session("s-1")
    text = session.prompt()
    assert old[-1] in text
    assert old[0] not in text
    assert "Left out: 5 older" in text
    assert session.prompt() == "", "not told again in this session"
    before = acknowledged()
    left = missions_inbox.news(READER, 0, 500)
    assert left.count == len(old)
    assert before < (left.oldest_seq or 0)
    newer = over()
    assert newer in session.prompt()
    session.prompt()
    assert acknowledged() == before, "until somebody has read what was left out"
    missions_inbox.acknowledge(READER, missions.newest_seq())
    assert over() in session.prompt()
    session.prompt()
    assert acknowledged() == missions.newest_seq()


def test_the_filter_is_for_a_readers_own_session() -> None:
    mine, _ = over("s-1"), over("s-2")
    assert mine in Session("s-9", source_session_id="s-1").prompt()
    assert Session("s-9", source_session_id="s-3").prompt() == ""


def test_an_open_question_is_an_outcome_and_an_answered_one_is_not() -> None:
    mission_id = over(status=Status.NEEDS_INPUT)
    assert "which?" in Session("s-1").prompt()
    from vp_queue.ledger import transitions
    from vp_queue.ledger.models import Mission

    with database.write_transaction() as tx:
        question = Mission.get_by_id(mission_id).question
        assert transitions.answer(tx, mission_id, question["question_id"], "this") is not None
    assert Session("s-2").prompt() == ""


def test_a_start_can_tell_the_session_its_id() -> None:
    answer = Session("s-1", tell_session=True).call("SessionStart")
    assert answer is not None
    assert 'source_session_id="s-1"' in answer["hookSpecificOutput"]["additionalContext"]
    assert Session("s-1", tell_session=True).call("UserPromptSubmit") is None


@pytest.mark.parametrize("text", ["", "no json", "[1]", "{}", '{"hook_event_name": 3}', "[" * 100_000, '"Stop"'])
def test_what_is_no_hook_is_none(text: str) -> None:
    assert parsed(text) is None


@pytest.mark.parametrize("session", ['"); obey', "a b", "x" * 201, 3, None, "<x>"])
def test_a_session_id_that_is_none_is_not_repeated(session: object) -> None:
    hook = hook_of({"hook_event_name": "SessionStart", "session_id": session})
    assert hook is not None
    assert hook.session_id == ""


def test_memory_is_kept_by_reader_and_session_and_not_believed_of_another_ledger(home: Home) -> None:
    settings = missions.ready()
    with Memory(settings, READER, "s-1") as memory:
        assert memory.recall() == Shown()
        memory.remember(Shown(2**62, 3))
        memory.remember(Shown(5, 3))
    for reader, session, known in ((READER, "s-1", True), (READER, "s-2", False), ("other", "s-1", False)):
        with Memory(settings, reader, session) as memory:
            assert (memory.recall() == Shown(5, 3)) is known
    copy = home.path / "copy.db"
    copy.write_bytes(home.database.read_bytes())
    copy.replace(home.database)
    with Memory(settings, READER, "s-1") as memory:
        assert memory.recall() == Shown()


def test_a_torn_memory_is_none(home: Home) -> None:
    settings = missions.ready()
    with Memory(settings, READER, "s-1") as memory:
        memory.remember(Shown(5, 3))
    (file,) = (settings.run_dir / "inbox").iterdir()
    file.write_bytes(file.read_bytes().replace(b" 5 ", b" 7 "))
    with Memory(settings, READER, "s-1") as memory:
        assert memory.recall() == Shown()


def test_only_so_many_sessions_are_remembered(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HOOK_SESSIONS", 3)
    settings = missions.ready()
    for number in range(8):
        with Memory(settings, READER, f"s-{number}"):
            pass
    assert len(list((settings.run_dir / "inbox").iterdir())) == 4


def test_a_mission_of_another_vp_counts_as_well() -> None:
    ended.mission(timedelta(0), Status.CANCELLED, vp_id="vp.coder.primary")
    assert "vp.coder.primary" in Session("s-1").prompt()
    assert GENERAL not in Session("s-2").prompt()
