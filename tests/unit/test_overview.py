"""The overview: cards, series, needs and counts agree with what happened, whatever the size of the ledger."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path

import pytest

from tests import ended
from tests.ended import DAY, HOUR, at_age
from tests.harness import CODER, GENERAL, Home, command, ok, shell, status, until
from tests.plans import whole_reads
from vp_queue import clock, missions, missions_overview, missions_seen, tools
from vp_queue.contracts import Status, WorkerState, limits
from vp_queue.contracts.overview import CardView, NeedView, OverviewAnswer
from vp_queue.errors import ValidationError
from vp_queue.ledger import database, fleet, tally
from vp_queue.ledger.models import Attempt, Tally, Worker
from vp_queue.worker import log

MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _ready(home: Home) -> None:
    missions.ready()


def card(vp_id: str = GENERAL) -> CardView:
    return next(card for card in missions_overview.overview().cards if card.vp.vp_id == vp_id)


def needs(*kinds: str) -> list[NeedView]:
    """What waits for a person, of these kinds."""
    return [need for need in missions_overview.overview().needs if need.kind in kinds]


# --- cards ---------------------------------------------------------------------------------------


def test_an_empty_ledger_has_a_card_for_each_vp_and_nothing_that_waits() -> None:
    seen = missions_overview.overview()
    assert [each.vp.vp_id for each in seen.cards] == [GENERAL, CODER]
    for each in seen.cards:
        assert (each.running, each.oldest_due_seconds, each.ended_24h, each.success_rate_24h) == ([], None, {}, None)
        assert (each.cost_today_usd, each.tokens_today) == (None, None)
    assert (seen.needs, seen.needs_more, seen.events) == ([], False, [])
    assert set(seen.counts.values()) == {0}
    assert set(seen.series.open) == {0}


def test_a_card_tells_how_the_last_day_went() -> None:
    for age, outcome, count in (
        (HOUR, Status.COMPLETED, 3),
        (HOUR, Status.FAILED, 1),
        (HOUR, Status.CANCELLED, 2),
        (2 * DAY, Status.FAILED, 5),
    ):
        ended.many(count, age, outcome)
    assert card().ended_24h == {"completed": 3, "failed": 1, "cancelled": 2}
    assert card().success_rate_24h == 0.75
    assert card(CODER).ended_24h == {}
    assert card(CODER).success_rate_24h is None


def test_a_card_tells_what_today_cost() -> None:
    with database.write_transaction() as tx:
        day = tally.day_of(tx.now)
        for measure, value in (("cost_usd", 0.5), ("input_tokens", 1000), ("output_tokens", 20)):
            Tally.insert(vp_id=CODER, day=day, measure=measure, value=value).execute()
            Tally.insert(vp_id=CODER, day=day - 1, measure=measure, value=99).execute()
    assert (card(CODER).cost_today_usd, card(CODER).tokens_today) == (0.5, 1020)
    assert (card().cost_today_usd, card().tokens_today) == (None, None)


def test_the_longest_wait_counts_from_when_a_mission_could_have_started() -> None:
    with at_age(2 * MINUTE):
        first = shell("true")
    with at_age(MINUTE):
        shell("true")
        later = (clock.now() + HOUR).isoformat()
        shell("true", not_before=later)  # not due: it does not wait for a worker
    waited = card().oldest_due_seconds
    assert waited == pytest.approx(120, abs=30)
    tools.vp_cancel_mission(mission_id=first["mission_id"])
    waited = card().oldest_due_seconds
    assert waited == pytest.approx(60, abs=30)
    assert card(CODER).oldest_due_seconds is None


def test_a_mission_that_was_due_at_a_time_waits_since_then() -> None:
    with at_age(HOUR):
        due = (clock.now() + timedelta(minutes=50)).isoformat()  # ten minutes ago
        shell("true", not_before=due)
    assert card().oldest_due_seconds == pytest.approx(600, abs=60)


def test_a_running_mission_is_shown_with_the_last_that_its_program_printed(home: Home) -> None:
    home.configure(concurrency=2)
    home.consumer()
    printing = "printf 'one\\n\\033[31mtwo\\033[0m\\n\\nthree \\342\\200\\256evil\\n'; "
    first = shell(f"{printing} sleep 60")["mission_id"]
    second = shell("sleep 60")["mission_id"]
    until(lambda: status(first) == status(second) == "running", "both run")
    until(lambda: {each.last_words for each in card().running} == {"two\nthree evil", None}, "its words are shown")
    running = card().running
    assert [each.mission.mission_id for each in running] == [second, first]  # newest first
    assert all(each.attempt_started_at <= clock.now() for each in running)
    assert card().vp.running == 2


def test_what_runs_on_another_host_has_no_words_here(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.consumer()
    mission_id = shell("echo words; sleep 60")["mission_id"]
    until(lambda: status(mission_id) == "running" and card().running[0].last_words == "words", "it speaks")
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    assert card().running[0].last_words is None


def test_a_card_shows_no_more_than_its_limit_and_tells_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CARD_RUNNING", 2)
    ended.many(3, HOUR, Status.RUNNING)
    assert len(card().running) == 2
    assert card().vp.running == 3


def test_a_mission_among_others_is_shown_in_brief() -> None:
    huge = "long " * 20_000
    ended.mission(HOUR, Status.RUNNING, objective=huge, metadata={"a": "b"}, constraints={"files": {"f": huge}})
    shown = card().running[0].mission
    assert len(shown.objective) <= 400
    assert (shown.constraints, shown.metadata) == ({}, {})
    assert len(missions_overview.overview().model_dump_json()) < 20_000


# --- series --------------------------------------------------------------------------------------


def test_the_series_is_what_happened_minute_by_minute() -> None:
    ended.many(3, timedelta(minutes=10, seconds=30), Status.COMPLETED)
    ended.many(1, timedelta(minutes=2, seconds=30), Status.FAILED, CODER)
    ended.many(2, timedelta(minutes=2, seconds=30), Status.CANCELLED)
    ended.many(4, timedelta(minutes=5, seconds=30), Status.QUEUED)
    series = missions_overview.overview().series
    assert {len(each) for each in (series.at, series.dispatched, series.completed, series.open)} == {60}
    back = {at: index for index, at in enumerate(range(59, -1, -1))}  # minutes ago → index
    assert series.completed[back[10]] == 3
    assert series.failed[back[2]] == 1
    assert series.other_ended[back[2]] == 2
    assert [series.dispatched[back[at]] for at in (10, 5, 2)] == [3, 4, 3]
    for name in ("dispatched", "completed", "failed", "other_ended"):
        assert sum(getattr(series, name)) == {"dispatched": 10, "completed": 3, "failed": 1, "other_ended": 2}[name]
    assert series.open[-1] == 4
    assert series.open[back[5]] == 4
    assert series.open[back[6]] == 0


def test_what_was_open_before_it_ended_is_in_the_series() -> None:
    with at_age(timedelta(minutes=20, seconds=30)):
        mission_id = shell("true")["mission_id"]
    with at_age(timedelta(minutes=10, seconds=30)):
        tools.vp_cancel_mission(mission_id=mission_id)
    series = missions_overview.overview().series
    assert series.open == [0] * 39 + [1] * 10 + [0] * 11


def test_the_ends_of_the_steps_are_evenly_spaced_up_to_now() -> None:
    seen = missions_overview.overview(window_seconds=600, step_seconds=20)
    assert seen.series.at[-1] == seen.at
    assert len(seen.series.at) == 30
    gaps = {b - a for a, b in zip(seen.series.at, seen.series.at[1:], strict=False)}
    assert gaps == {timedelta(seconds=20)}


def test_a_clock_that_was_set_back_loses_nothing() -> None:
    ended.many(2, -HOUR, Status.COMPLETED)  # dispatched and ended an hour from now
    series = missions_overview.overview().series
    assert (series.dispatched[-1], series.completed[-1]) == (2, 2)


def test_a_vp_that_is_configured_no_more_still_counts() -> None:
    ended.many(1, MINUTE, Status.COMPLETED, "vp.gone")
    ended.many(1, MINUTE, Status.FAILED, "vp.gone")
    seen = missions_overview.overview()
    assert (sum(seen.series.completed), sum(seen.series.failed)) == (1, 1)
    assert [need.vp_id for need in seen.needs] == ["vp.gone"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"window_seconds": 0}, "window_seconds"),
        ({"window_seconds": limits.SERIES_SECONDS + 1}, "window_seconds"),
        ({"step_seconds": 0}, "step_seconds"),
        ({"step_seconds": 3_601}, "step_seconds"),
        ({"step_seconds": 1}, "step_seconds"),
        ({"events_limit": -1}, "events_limit"),
        ({"events_limit": limits.OVERVIEW_EVENTS + 1}, "events_limit"),
        ({"needs_limit": limits.NEEDS_LISTED + 1}, "needs_limit"),
    ],
)
def test_arguments_out_of_bounds_are_refused_by_name(arguments: dict[str, int], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        missions_overview.overview(**arguments)
    assert refused.value.details["field"] == field


# --- needs ---------------------------------------------------------------------------------------


def test_a_question_is_the_most_urgent() -> None:
    ended.mission(HOUR, Status.FAILED)
    asking = ended.mission(MINUTE, Status.NEEDS_INPUT)
    first = missions_overview.overview().needs[0]
    assert (first.kind, first.mission and first.mission.mission_id, first.text) == ("needs_input", asking, "which?")
    assert first.since is not None


def test_a_failed_mission_waits_until_it_is_seen_or_retried() -> None:
    old = ended.mission(timedelta(days=limits.NEEDS_DAYS, hours=1), Status.FAILED)
    seen, retried, left = (ended.mission(HOUR, Status.FAILED) for _ in range(3))
    assert missions_seen.mark_seen(seen).changed == 1
    assert missions_seen.mark_seen(seen).changed == 0
    ok(tools.vp_retry_mission(mission_id=retried))
    waiting = needs("failed")
    assert [need.mission and need.mission.mission_id for need in waiting] == [left]
    assert waiting[0].text == "exit_nonzero: 1"
    assert old


def test_all_that_failed_until_somebody_looked_is_marked_and_nothing_since() -> None:
    ended.many(3, HOUR, Status.FAILED)
    ended.many(2, HOUR, Status.FAILED, CODER)
    looked = missions_overview.overview()
    since = ended.mission(timedelta(0), Status.FAILED)
    assert missions_seen.mark_all_seen(looked.at).changed == 5
    assert [need.mission and need.mission.mission_id for need in needs("failed")] == [since]
    assert missions_seen.mark_all_seen(clock.now()).changed == 1
    assert needs("failed") == []


def test_only_what_failed_can_be_marked_as_seen() -> None:
    assert missions_seen.mark_seen(ended.mission(HOUR, Status.COMPLETED)).changed == 0
    assert missions_seen.mark_seen(ended.mission(HOUR, Status.RUNNING)).changed == 0


def test_a_silent_mission_is_pointed_out_as_stalled(home: Home) -> None:
    home.configure(more="")
    quiet = ended.mission(HOUR, Status.RUNNING)  # its profile allows ten minutes
    ended.mission(MINUTE, Status.RUNNING)
    stalled = needs("stalled")
    assert [need.mission and need.mission.mission_id for need in stalled] == [quiet]
    assert "60 min" in stalled[0].text
    assert stalled[0].mission is not None
    assert stalled[0].mission.stalled


def test_a_queue_that_nobody_works_on_is_pointed_out_with_what_to_do(home: Home) -> None:
    with at_age(MINUTE):
        shell("true")
        shell("true", vp_id=CODER)
    assert {need.vp_id for need in needs("no_worker")} == {GENERAL, CODER}
    assert "vp up --detach" in needs("no_worker")[0].text
    missions.pause(CODER, "API quota")
    assert [need.vp_id for need in needs("no_worker")] == [GENERAL]
    paused = needs("paused")
    assert [need.vp_id for need in paused] == [CODER]
    assert "API quota" in paused[0].text
    assert f"vp resume {CODER}" in paused[0].text
    assert missions_overview.overview().needs[-1].kind == "paused"  # it was meant so
    home.consumer()
    until(lambda: card().vp.queued == 0, "the queue is worked on")
    assert needs("no_worker") == []


def test_a_queue_that_is_empty_or_not_due_needs_nobody() -> None:
    missions.pause(CODER)
    shell("true", not_before=(clock.now() + HOUR).isoformat(), vp_id=GENERAL)
    assert needs("paused", "no_worker", "unavailable") == []


def test_a_vp_that_cannot_run_here_is_pointed_out_while_something_waits_for_it(home: Home) -> None:
    command("true", vp_id=CODER)
    assert needs("unavailable") == []
    text = (home.path / "vp_queue.toml").read_text()
    start = text.index('[vp."vp.coder.primary"]')
    broken = text[start:].replace('"command"', '"python"').replace("true", "false")
    missing = '[vp."vp.coder.primary".options]\ncallable = "nowhere_to_be_found:work"\n'
    (home.path / "vp_queue.toml").write_text(text[:start] + broken + missing)
    assert [need.vp_id for need in needs("unavailable")] == [CODER]


def test_a_lost_worker_is_pointed_out_until_another_came(home: Home) -> None:
    with at_age(HOUR), database.write_transaction() as tx:
        lost = fleet.register(tx, GENERAL, None)
    with database.write_transaction() as tx:
        fleet.end(tx, lost.worker_id, WorkerState.LOST)
    assert [need.vp_id for need in needs("worker_lost")] == [GENERAL]
    home.consumer()
    assert needs("worker_lost") == []


def test_a_lost_worker_is_nobodys_concern_where_another_works_or_none_should(home: Home) -> None:
    home.consumer()
    for vp_id in (GENERAL, CODER, "vp.gone"):
        with database.write_transaction() as tx:
            fleet.end(tx, fleet.register(tx, vp_id, None).worker_id, WorkerState.LOST)
    assert [need.vp_id for need in needs("worker_lost")] == [CODER]
    configuration = home.path / "vp_queue.toml"
    text = configuration.read_text()
    section = '[vp."vp.coder.primary"]\n'
    configuration.write_text(text.replace(section, f"{section}enabled = false\n"))
    assert needs("worker_lost") == []


def test_a_worker_without_a_sign_of_life_is_pointed_out() -> None:
    with database.write_transaction() as tx:
        silent = fleet.register(tx, GENERAL, None)
        Worker.update(heartbeat_boottime_us=clock.boottime_us() - 3_600_000_000).where(
            Worker.worker_id == silent.worker_id
        ).execute()
    assert [need.vp_id for need in needs("worker_stale")] == [GENERAL]


def test_missions_without_a_keeper_are_pointed_out(home: Home) -> None:
    assert needs("no_keeper") == []  # there is nothing to keep
    shell("true")
    assert len(needs("no_keeper")) == 1
    home.keeper()
    until(lambda: missions.keepers(), "a keeper registered")
    assert needs("no_keeper") == []


def test_more_than_is_listed_is_told() -> None:
    ended.many(limits.NEEDS_LISTED + 1, HOUR, Status.FAILED)
    seen = missions_overview.overview()
    assert (len(seen.needs), seen.needs_more) == (limits.NEEDS_LISTED, True)
    seen = missions_overview.overview(needs_limit=limits.NEEDS_LISTED - 1)
    assert (len(seen.needs), seen.needs_more) == (limits.NEEDS_LISTED - 1, True)
    missions_seen.mark_seen(seen.needs[0].mission.mission_id if seen.needs[0].mission else "")
    seen = missions_overview.overview()
    assert (len(seen.needs), seen.needs_more) == (limits.NEEDS_LISTED, False)


# --- the whole -----------------------------------------------------------------------------------


def test_the_newest_events_come_first() -> None:
    mission_id = shell("true")["mission_id"]
    tools.vp_cancel_mission(mission_id=mission_id)
    events = missions_overview.overview(events_limit=1).events
    assert [(event.type, event.mission_id) for event in events] == [("mission.cancelled", mission_id)]


def test_it_goes_through_json_and_back() -> None:
    ended.many(2, HOUR, Status.FAILED)
    ended.many(1, MINUTE, Status.RUNNING)
    seen = missions_overview.overview()
    assert OverviewAnswer.model_validate_json(seen.model_dump_json()) == seen


def test_no_query_reads_a_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for outcome in (Status.FAILED, Status.COMPLETED, Status.RUNNING, Status.QUEUED, Status.NEEDS_INPUT):
        ended.many(3, HOUR, outcome)
    # Only counts over all missions go through a whole index, and need nothing besides.
    allowed = {"SCAN t1 USING COVERING INDEX vp_mission_status_id"}
    scans = whole_reads(monkeypatch, missions_overview.overview)
    assert scans <= allowed, scans


def test_the_log_is_read_outside_of_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    ended.mission(MINUTE, Status.RUNNING)
    with database.write_transaction():
        Attempt.update(workspace="/nowhere", host=socket.gethostname()).execute()
    open_then: list[bool] = []

    def tail_text(workspace: Path, max_bytes: int) -> str:
        open_then.append(database.current().db.in_transaction())
        return "words\n"

    monkeypatch.setattr(log, "tail_text", tail_text)
    assert card().running[0].last_words == "words"
    assert open_then == [False]
