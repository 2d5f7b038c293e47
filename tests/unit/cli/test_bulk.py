"""list, cancel and retry by filters on the command line: what is asked first, and what is refused."""

from __future__ import annotations

import pytest

from tests import ended
from tests.ended import HOUR
from tests.harness import CODER, GENERAL, Home, status
from tests.unit.cli.driver import UNKNOWN, Cli
from vp_queue import missions
from vp_queue.contracts import Status
from vp_queue.contracts.overview import BulkAnswer


@pytest.fixture(autouse=True)
def _ready(home: Home) -> None:
    missions.ready()


def test_a_list_takes_text_and_times(cli: Cli) -> None:
    old = ended.mission(3 * HOUR, objective="Read the invoices")
    new = ended.mission(HOUR, objective="Read the orders")
    for filters, ids in (
        (("--text", "READ"), [new, old]),
        (("--text", "invoices"), [old]),
        (("--since", "2h"), [new]),
        (("--until", "120m"), [old]),
        (("--since", "2020-01-01T00:00:00Z", "--until", "2h"), [old]),
    ):
        code, answer = cli.json("list", *filters)
        assert code == 0
        assert [mission["mission_id"] for mission in answer["missions"]] == ids, filters
        assert sum(answer["counts"].values()) == len(ids)


@pytest.mark.parametrize("wrong", ["yesterday", "2026-11-22", "2026-11-22T10:00:00", "5"])
def test_a_time_that_names_no_instant_is_refused_with_an_example(cli: Cli, wrong: str) -> None:
    code, _, told = cli("list", "--since", wrong)
    assert code == 2
    assert "--since" in told
    assert "such as" in told or "add Z" in told


@pytest.mark.parametrize("option", ["--vp", "--session", "--text"])
def test_an_empty_filter_is_refused_rather_than_left_out(cli: Cli, option: str) -> None:
    waiting = ended.mission(HOUR, Status.QUEUED)
    for command in (("cancel", "--all", "--status", "queued", "--yes"), ("list",)):
        code, _, told = cli(*command, option, "")
        assert code == 2
        assert "must not be empty" in told
    assert status(waiting) == "queued"


def test_all_that_match_are_cancelled_and_the_others_stay(cli: Cli) -> None:
    ids = [cli.dispatched() for _ in range(3)]
    other = cli.dispatched("--type", "command", "--constraints", '{"command": ["true"]}', vp_id=CODER)
    code, shown, _ = cli("cancel", "--all", "--vp", GENERAL, "--yes", "--reason", "enough")
    assert code == 0
    assert "3 missions" in shown
    assert {status(each) for each in ids} == {"cancelled"}
    assert status(other) == "queued"
    assert "No mission matches" in cli("cancel", "--all", "--vp", GENERAL, "--yes")[1]


def test_it_goes_on_until_nothing_is_left(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vp_queue.contracts.limits.BULK_SECONDS", 0.0)
    for _ in range(3):
        cli.dispatched()
    code, answer = cli.json("cancel", "--all", "--status", "queued", "--yes")
    assert (code, answer["matched"], answer["changed"], answer["failed"]) == (0, 3, 3, 0)


def test_all_that_failed_are_dispatched_again_once(cli: Cli) -> None:
    failed = ended.many(2, HOUR, Status.FAILED)
    code, answer = cli.json("retry", "--all", "--status", "failed", "--guidance", "Use the other API", "--yes")
    assert (code, answer["changed"], len(answer["retried"])) == (0, 2, 2)
    assert [cli.json("get", each)[1]["mission"]["retry_of"] for each in answer["retried"]] == failed
    assert cli.json("retry", "--all", "--status", "failed", "--yes")[1]["changed"] == 0


def test_one_that_is_refused_is_named(cli: Cli) -> None:
    ended.mission(HOUR, Status.FAILED, vp_id="vp.gone")
    code, shown, told = cli("retry", "--all", "--status", "failed", "--yes")
    assert code == 0
    assert "Dispatched 0 missions" in shown
    assert "is left as it is" in told


@pytest.mark.parametrize("command", ["cancel", "retry"])
def test_one_mission_or_all_that_match_must_be_meant(cli: Cli, command: str) -> None:
    mission_id = cli.dispatched()
    for args, said in (
        ((), "Give a mission's id, or --all"),
        ((UNKNOWN, "--all"), "Give a mission's id, or --all"),
        ((UNKNOWN, "--vp", GENERAL), "Filters go with --all"),
        (("--all",), "at least one filter"),
    ):
        code, _, told = cli(command, *args)
        assert (code, said in told) == (2, True), args
    assert status(mission_id) == "queued"


def test_where_nobody_can_be_asked_it_wants_a_yes(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    mission_id = cli.dispatched()
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115  closed with the process
    code, _, told = cli("cancel", "--all", "--vp", GENERAL)
    assert (code, "--yes" in told) == (2, True)
    assert status(mission_id) == "queued"


def test_a_ledger_without_missions_has_nothing_to_do(cli: Cli) -> None:
    code, answer = cli.json("cancel", "--all", "--vp", GENERAL)
    assert code == 0
    assert set(answer) >= set(BulkAnswer.model_fields) - {"left", "continue_after"}
