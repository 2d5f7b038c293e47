"""The nine tools: whatever is given, a documented answer; what is refused stores nothing and raises nothing."""

from __future__ import annotations

import inspect
import json
import math
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness import CODER, GENERAL, Home, command, events, ok, refused
from vp_queue import clock, missions, tools
from vp_queue.contracts import EventType, FailureCode, Status, limits, views
from vp_queue.contracts.requests import Budget, Constraints
from vp_queue.errors import InternalError, LedgerBusy, VpError
from vp_queue.ledger import database, transitions
from vp_queue.ledger.models import MODELS
from vp_queue.ledger.transitions import Claim, Ending, Failure, WorkerIdentity

NOBODY = "m-0000000000-nobody"
ROMAN = "vp.roman"
TOOLS = sorted(tools.DEFINITIONS)


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    """The answer of a tool, which must have the shape of the contract."""
    answer = tools.DEFINITIONS[tool].function(**arguments)
    text = json.dumps(answer, allow_nan=False)
    text.encode("utf-8")
    model = tools.DEFINITIONS[tool].answer if answer["ok"] else views.ErrorAnswer
    model.model_validate_json(text)
    return answer


def stored() -> list[int]:
    """How many rows each table holds, Huey's included."""
    missions.ready()
    queued = database.current().db.execute_sql("SELECT COUNT(*) FROM task").fetchone()[0]
    revoked = database.current().db.execute_sql("SELECT COUNT(*) FROM kv").fetchone()[0]
    return [model.select().count() for model in MODELS] + [queued, revoked]


def claimed(mission_id: str) -> Claim:
    worker = WorkerIdentity("w-1", "host", clock.host_identity())
    with database.write_transaction() as tx:
        landed = transitions.claim(tx, mission_id, 1, worker, 30)
    assert landed is not None
    return landed[1]


def completed(mission_id: str, result: str = "done") -> None:
    claim = claimed(mission_id)
    with database.write_transaction() as tx:
        transitions.complete(tx, claim, Ending(exit_code=0, result=result))


def failed(mission_id: str) -> None:
    claim = claimed(mission_id)
    with database.write_transaction() as tx:
        failure = Failure(FailureCode.EXIT_NONZERO, "it exited with status 3", 3, "tail")
        transitions.fail(tx, claim, failure, Ending(exit_code=3), backoff_seconds=0)


def in_state(status: Status) -> str:
    """The id of a mission in this state."""
    mission_id: str = command("true", expires_at=clock.as_text(clock.now() + timedelta(hours=1)))["mission_id"]
    if status == Status.COMPLETED:
        completed(mission_id)
    elif status == Status.FAILED:
        failed(mission_id)
    elif status == Status.CANCELLED:
        ok(tools.vp_cancel_mission(mission_id=mission_id))
    elif status == Status.EXPIRED:
        with clock.use(Ahead(timedelta(hours=2))), database.write_transaction() as tx:
            transitions.expire(tx, mission_id)
    elif status != Status.QUEUED:
        claim = claimed(mission_id)
        if status == Status.NEEDS_INPUT:
            with database.write_transaction() as tx:
                transitions.ask(tx, claim, "which?")
    return mission_id


class Ahead(clock.SystemClock):
    """A wall clock that is ahead."""

    def __init__(self, by: timedelta) -> None:
        self.by = by

    def now(self) -> datetime:
        return super().now() + self.by


# --- signatures and schemas -----------------------------------------------------------------------

REQUIRED = inspect.Parameter.empty
CONTRACT: dict[str, dict[str, Any]] = {
    "vp_dispatch_mission": {
        "vp_id": REQUIRED,
        "objective": REQUIRED,
        "mission_type": "task",
        "constraints": Constraints(),
        "budget": Budget(),
        "idempotency_key": None,
        "priority": 0,
        "not_before": None,
        "expires_at": None,
        "max_attempts": 1,
        "source_session_id": None,
        "metadata": {},
    },
    "vp_get_mission": {"mission_id": REQUIRED, "events_limit": 20},
    "vp_list_missions": {
        "vp_id": None,
        "status": None,
        "source_session_id": None,
        "limit": 50,
        "cursor": None,
        "text": None,
        "created_after": None,
        "created_before": None,
    },
    "vp_wait_mission": {"mission_id": REQUIRED, "timeout_seconds": 45},
    "vp_cancel_mission": {"mission_id": REQUIRED, "reason": ""},
    "vp_read_result_artifacts": {"mission_id": REQUIRED, "paths": None, "max_files": 20, "max_bytes": 200_000},
    "vp_retry_mission": {"mission_id": REQUIRED, "guidance": None, "idempotency_key": None},
    "vp_read_events": {
        "reader": REQUIRED,
        "limit": 100,
        "acknowledge": None,
        "source_session_id": None,
        "wait_seconds": 0,
    },
    "vp_list_vps": {},
}


@pytest.mark.parametrize("tool", CONTRACT)
def test_arguments_their_order_and_defaults_are_the_contracts(tool: str) -> None:
    parameters = inspect.signature(getattr(tools, tool)).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == CONTRACT[tool]
    assert list(parameters) == list(CONTRACT[tool])
    assert {parameter.kind for parameter in parameters.values()} <= {inspect.Parameter.KEYWORD_ONLY}


def test_there_are_these_nine_tools() -> None:
    assert set(CONTRACT) == set(tools.DEFINITIONS)
    for name in CONTRACT:
        assert getattr(tools, name) is tools.DEFINITIONS[name].function
        assert getattr(tools, name).__name__ == name
        assert tools.DEFINITIONS[name].description


@pytest.mark.parametrize("tool", CONTRACT)
def test_a_schema_tells_every_argument_and_forbids_others(tool: str) -> None:
    arguments = tools.schema(tool)["arguments"]
    assert arguments["additionalProperties"] is False
    assert list(arguments.get("properties", {})) == list(CONTRACT[tool])
    required = [name for name, default in CONTRACT[tool].items() if default is REQUIRED]
    assert arguments.get("required", []) == required
    json.dumps(tools.schema(tool))


def test_a_schema_of_no_tool_is_refused() -> None:
    with pytest.raises(VpError, match="There is no tool"):
        tools.schema("vp_nothing")


# --- hostile arguments ----------------------------------------------------------------------------

DEEP: list[Any] = []
for _ in range(10_000):
    DEEP = [DEEP]
DEEP_DICT: dict[str, Any] = {}
for _ in range(10_000):
    DEEP_DICT = {"a": DEEP_DICT}
MEGABYTES_10 = "x" * 10_000_000
HUGE = 10**400

WRONG: dict[str, Any] = {
    "none": None,
    "true": True,
    "an int": 7,
    "a float": 7.5,
    "nan": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "an int that no float holds": HUGE,
    "a text": "seven",
    "an empty text": "",
    "blanks": " \t\n",
    "NUL": "a\0b",
    "a lone surrogate": "a\ud800b",
    "10 MB": MEGABYTES_10,
    "bytes": b"seven",
    "a list": [1],
    "an empty list": [],
    "a list of 10 MB": [MEGABYTES_10],
    "a list with NUL": ["a\0b"],
    "a list with a surrogate": ["\udfff"],
    "a dict": {"a": 1},
    "a dict with NUL": {"a\0": "b"},
    "a dict with a surrogate": {"\ud800": "b"},
    "a dict of 10 MB": {"a": MEGABYTES_10},
    "a dict of a number": {1: 2},
    "a nested list": DEEP,
    "a nested dict": DEEP_DICT,
    "a set": {1},
    "a tuple": ("a",),
    "a date": date(2030, 1, 1),
    "a naive time": datetime(2030, 1, 1),  # noqa: DTZ001  the fault to refuse
    "an object": object(),
    "a class": int,
}
TEXTS = {"a text", "blanks"}
# What of the above each argument takes; everything else must be refused.
TAKES: dict[str, set[str]] = {
    "vp_id": set(),  # of the right type, yet of no VP
    "objective": {"a text"},
    "mission_type": {"a text"},
    "constraints": set(),
    "budget": set(),
    "idempotency_key": {"none", *TEXTS},
    "priority": {"an int"},
    "not_before": {"none"},
    "expires_at": {"none"},
    "max_attempts": {"an int"},
    "source_session_id": {"none", *TEXTS},
    "metadata": set(),
    "mission_id": set(),
    "events_limit": {"an int"},
    "status": {"none"},
    "limit": {"an int"},
    "cursor": {"none"},
    "text": {"none", *TEXTS},
    "created_after": {"none"},
    "created_before": {"none"},
    "timeout_seconds": set(),  # it would wait; bounds are tested below
    "reason": {"an empty text", *TEXTS},
    "paths": {"none", "a tuple"},
    "max_files": {"an int"},
    "max_bytes": set(),
    "guidance": {"none", *TEXTS},
    "reader": TEXTS,
    "acknowledge": {"none"},
    "wait_seconds": set(),
}
WAITS = {"timeout_seconds": {"an int", "a float"}, "wait_seconds": {"an int", "a float"}}
VALID: dict[str, dict[str, Any]] = {
    "vp_dispatch_mission": {"vp_id": GENERAL, "objective": "a poem"},
    "vp_get_mission": {"mission_id": NOBODY},
    "vp_list_missions": {},
    "vp_wait_mission": {"mission_id": NOBODY, "timeout_seconds": 0},
    "vp_cancel_mission": {"mission_id": NOBODY},
    "vp_read_result_artifacts": {"mission_id": NOBODY},
    "vp_retry_mission": {"mission_id": NOBODY},
    "vp_read_events": {"reader": "simone"},
    "vp_list_vps": {},
}
ARGUMENTS = [(tool, argument) for tool in CONTRACT for argument in CONTRACT[tool]]


@pytest.mark.parametrize(("tool", "argument"), ARGUMENTS)
def test_wrong_values_are_refused_by_name_and_store_nothing(home: Home, tool: str, argument: str) -> None:
    before = stored()
    for what, value in WRONG.items():
        if what in TAKES[argument] | WAITS.get(argument, set()):
            continue
        # A filter may name a VP or session that is not there; dispatching to one is unknown_vp.
        if argument == "vp_id" and (what in TEXTS or (what == "none" and tool == "vp_list_missions")):
            continue
        answer = call(tool, **{**VALID[tool], argument: value})
        error = refused(answer, "validation_error")
        field = str(error["details"]["field"])
        assert field == argument or field.startswith(f"{argument}."), (what, error)
        assert not error["retryable"]
        assert len(json.dumps(error)) < 10_000, f"{what} is echoed"
        assert field in error["message"]
    assert stored() == before


@pytest.mark.parametrize(("tool", "argument"), ARGUMENTS)
def test_the_values_an_argument_takes_are_not_refused(home: Home, tool: str, argument: str) -> None:
    # The control of the test above.
    for what in TAKES[argument]:
        answer = call(tool, **{**VALID[tool], argument: WRONG[what]})
        if not answer["ok"]:
            assert answer["error"]["code"] == "mission_not_found", (what, answer)


def bounds(name: str) -> dict[str, tuple[list[Any], list[Any]]]:
    """(values at the bounds, values just past them)."""
    text, low, high = limits, limits.PRIORITY_RANGE[0], limits.PRIORITY_RANGE[1]
    future = (clock.now() + timedelta(days=1)).isoformat()
    table: dict[str, tuple[list[Any], list[Any]]] = {
        "vp_id": ([], ["v" * (text.NAME_CHARS + 1)]),
        "objective": (["x", "ü" * text.OBJECTIVE_CHARS], ["", "x" * (text.OBJECTIVE_CHARS + 1)]),
        "mission_type": (
            ["t" * text.NAME_CHARS, "a.b-c_1"],
            ["t" * (text.NAME_CHARS + 1), "T", "1a", "a b", "a\n", "ä"],
        ),
        "constraints": (
            [
                {},
                {"files": {f"f{number}": "" for number in range(text.FILES_COUNT)}},
                {"files": {"f": "x" * text.FILES_BYTES}},
                {"require_artifacts": ["*"] * text.GLOBS_COUNT},
            ],
            [
                {"files": {f"f{number}": "" for number in range(text.FILES_COUNT + 1)}},
                {"files": {"f": "x" * (text.FILES_BYTES + 1)}},
                {"files": {"f": "ü" * (text.FILES_BYTES // 2 + 1)}},
                {"files": {"../f": ""}},
                {"files": {"/f": ""}},
                {"files": {"a//b": ""}},
                {"files": {"mission.json": ""}},
                {"files": {"MISSION.md": ""}},
                {"files": {"f": "\0"}},
                {"files": {"f": 1}},
                {"require_artifacts": ["*"] * (text.GLOBS_COUNT + 1)},
                {"require_artifacts": [""]},
                {"target_path": ""},
                {"target_path": "/" * (text.PATH_CHARS + 1)},
                {"command": ["true"]},  # without mission_type="command"
                {"command": []},
                {"command": "true"},
                {"unknown": 1},
            ],
        ),
        "budget": (
            [
                {},
                {"max_duration_seconds": text.DURATION_SECONDS, "max_tokens": text.TOKENS, "max_turns": text.TURNS},
                {"max_cost_usd": text.COST_USD},
                {"max_duration_seconds": 1e-9, "max_tokens": 1, "max_turns": 1, "max_cost_usd": 1e-9},
            ],
            [
                {"max_duration_seconds": 0},
                {"max_duration_seconds": text.DURATION_SECONDS + 1},
                {"max_duration_seconds": math.nan},
                {"max_duration_seconds": True},
                {"max_duration_seconds": "60"},
                {"max_duration_seconds": HUGE},
                {"max_cost_usd": 0},
                {"max_cost_usd": text.COST_USD + 1},
                {"max_cost_usd": math.inf},
                {"max_tokens": 0},
                {"max_tokens": text.TOKENS + 1},
                {"max_tokens": 1.0},
                {"max_tokens": True},
                {"max_turns": 0},
                {"max_turns": text.TURNS + 1},
                {"unknown": 1},
            ],
        ),
        "idempotency_key": (["k", "k" * text.KEY_CHARS], ["", "k" * (text.KEY_CHARS + 1)]),
        "priority": ([low, 0, high], [low - 1, high + 1, -HUGE]),
        "not_before": (
            [future, "2030-01-01T00:00:00Z", "2030-01-01T00:00:00.123456+05:30", datetime(2030, 1, 1, tzinfo=UTC)],
            [
                "2030-01-01T00:00:00",
                "2030-01-01",
                "tomorrow",
                "0001-01-01T00:00:00+23:59",
                "9999-12-31T23:59:59-12:00",
                "1969-12-31T23:59:59Z",
                "2030-02-30T00:00:00Z",
                "2030-01-01T25:00:00Z",
                1_893_456_000,
                "2030-01-01T00:00:00Z" + " " * 100,
            ],
        ),
        "expires_at": ([future], ["2030-01-01T00:00:00", "2020-01-01T00:00:00Z", 1]),
        "max_attempts": ([1, text.MAX_ATTEMPTS], [0, -1, text.MAX_ATTEMPTS + 1]),
        "source_session_id": (["s", "s" * text.SESSION_CHARS], ["", "s" * (text.SESSION_CHARS + 1)]),
        "metadata": (
            [{}, {"k": "v" * (text.METADATA_BYTES - len('{"k": ""}'))}, {"": ""}],
            [{"k": "v" * (text.METADATA_BYTES - len('{"k": ""}') + 1)}, {"k": 1}, {"k": None}, {"k": {"a": "b"}}],
        ),
        "mission_id": (
            ["m-0123456789", "m-" + "z" * 60],
            [
                "m-012345678",
                "m-" + "z" * 61,
                "m-0123456789\n",
                "M-0123456789",
                "m-../../../etc/passwd",
                "m-0123456789Z",
            ],
        ),
        "events_limit": ([0, text.EVENTS_OF_MISSION], [-1, text.EVENTS_OF_MISSION + 1]),
        "status": (
            ["queued", ["queued"], list(Status)],
            ["", "Queued", [], ["queued", "x"], ["queued"] * (len(Status) + 1), [None]],
        ),
        "limit": ([1], [0, -1]),
        "cursor": (["m-0123456789"], ["", "m-1", "x"]),
        "text": (["t", "ü" * text.SEARCH_CHARS, "%", "_", "\\", "'"], ["", "t" * (text.SEARCH_CHARS + 1)]),
        "created_after": ([future, "9999-12-31T23:59:59Z"], ["2030-01-01T00:00:00", "yesterday", 1]),
        "created_before": ([future, "1970-01-01T00:00:00Z"], ["2030-01-01T00:00:00", "yesterday", 1]),
        "timeout_seconds": ([0, 0.0, 0.001], [-0.001, -1, text.WAIT_SECONDS + 0.001]),
        "reason": (["", "r" * text.REASON_CHARS], ["r" * (text.REASON_CHARS + 1)]),
        "paths": (
            [["a"], ["a"] * text.PATH_COUNT, ["p" * text.PATH_CHARS]],
            [[], [""], ["a"] * (text.PATH_COUNT + 1), ["p" * (text.PATH_CHARS + 1)], "a"],
        ),
        "max_files": ([1, text.READ_FILES], [0, text.READ_FILES + 1]),
        "max_bytes": (list(text.READ_BYTES), [text.READ_BYTES[0] - 1, text.READ_BYTES[1] + 1]),
        "guidance": (["g", "g" * text.GUIDANCE_CHARS], ["", "g" * (text.GUIDANCE_CHARS + 1)]),
        "reader": (["r", "r" * text.NAME_CHARS], ["", "r" * (text.NAME_CHARS + 1)]),
        "acknowledge": ([0], [-1, 1_000_000, 2**63 - 1, 2**63]),
        "wait_seconds": ([0, 0.001], [-0.001, text.FEED_WAIT_SECONDS + 0.001]),
    }
    return {name: table[name]}


PAGES = {"vp_list_missions": limits.LIST_PAGE, "vp_read_events": limits.EVENTS_PAGE}


@pytest.mark.parametrize(("tool", "argument"), ARGUMENTS)
def test_bounds_are_taken_and_one_past_them_is_refused(home: Home, tool: str, argument: str) -> None:
    good, bad = bounds(argument)[argument]
    if argument == "limit":
        good, bad = [*good, PAGES[tool]], [*bad, PAGES[tool] + 1]
    for value in good:
        answer = call(tool, **{**VALID[tool], argument: value})
        if not answer["ok"]:
            assert answer["error"]["code"] == "mission_not_found", (value, answer)
    before = stored()
    for value in bad:
        error = refused(call(tool, **{**VALID[tool], argument: value}), "validation_error")
        field = str(error["details"]["field"])
        assert field == argument or field.startswith(f"{argument}."), (str(value)[:100], error)
    assert stored() == before


def test_the_field_of_a_nested_fault_is_its_path(home: Home) -> None:
    for constraints, field in [
        ({"files": {"../f": ""}}, "constraints.files.../f"),
        ({"files": {"MISSION.md": ""}}, "constraints.files"),
        ({"require_artifacts": ["*", ""]}, "constraints.require_artifacts.1"),
        ({"target": "/x"}, "constraints.target"),
    ]:
        refused(
            call("vp_dispatch_mission", **VALID["vp_dispatch_mission"], constraints=constraints),
            "validation_error",
            field,
        )
    refused(
        call("vp_dispatch_mission", **VALID["vp_dispatch_mission"], budget={"max_cost_usd": "1"}),
        "validation_error",
        "budget.max_cost_usd",
    )
    refused(call("vp_list_missions", status="nope"), "validation_error", "status")


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", ["unknown", "Mission_id", "self", "\ud800", "a\0b", "x" * 10_000, "\x1b[2J", ""])
def test_an_unknown_argument_is_refused_by_a_harmless_name(home: Home, tool: str, name: str) -> None:
    before = stored()
    error = refused(call(tool, **{**VALID[tool], name: 1}), "validation_error")
    assert (error["details"]["field"] or "").isprintable()
    assert error["message"].isprintable()
    assert len(error["message"]) < 1_000
    if name.isidentifier():
        assert error["details"]["field"] == name[:200]
    assert stored() == before


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if REQUIRED in CONTRACT[tool].values()])
def test_a_missing_argument_is_named(home: Home, tool: str) -> None:
    first = next(name for name, default in CONTRACT[tool].items() if default is REQUIRED)
    refused(call(tool), "validation_error", first)


@pytest.mark.parametrize("tool", TOOLS)
def test_positional_arguments_count_in_order_and_never_raise(home: Home, tool: str) -> None:
    function = tools.DEFINITIONS[tool].function
    assert function(*VALID[tool].values()).keys() == call(tool, **VALID[tool]).keys()
    refused(function(*range(20)), "validation_error")
    if CONTRACT[tool]:
        first = next(iter(CONTRACT[tool]))
        refused(function("x", **{first: "y"}), "validation_error", first)


def test_rules_over_several_arguments_name_one(home: Home) -> None:
    base = VALID["vp_dispatch_mission"]
    refused(call("vp_dispatch_mission", **base, mission_type="command"), "validation_error", "constraints.command")
    refused(
        call("vp_dispatch_mission", **base, constraints={"command": ["true"]}),
        "validation_error",
        "constraints.command",
    )
    times = {"not_before": "2030-01-02T00:00:00Z", "expires_at": "2030-01-02T01:00:00+01:00"}
    refused(call("vp_dispatch_mission", **base, **times), "validation_error", "expires_at")


def test_several_faults_are_all_told(home: Home) -> None:
    error = refused(call("vp_dispatch_mission", vp_id="", objective="", priority=1000, nothing=1), "validation_error")
    assert {item["field"] for item in error["details"]["errors"]} == {"vp_id", "objective", "priority", "nothing"}
    assert "and 3 more" in error["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=10), inner, max_size=4)
    ),
    max_leaves=15,
)
NEVER_LONG = {"timeout_seconds": 0, "wait_seconds": 0}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_json_makes_a_tool_raise_or_fail_inside(home: Home, data: st.DataObject) -> None:
    tool = data.draw(st.sampled_from(TOOLS))
    names = st.sampled_from([*CONTRACT[tool], "unknown"]) | st.text(st.characters(), max_size=8)
    given_arguments = {**VALID[tool], **data.draw(st.dictionaries(names, JSON, max_size=4))}
    waits = {name: value for name, value in NEVER_LONG.items() if name in given_arguments}
    answer = call(tool, **{**given_arguments, **waits})
    if not answer["ok"]:
        assert answer["error"]["code"] in ("validation_error", "unknown_vp", "mission_not_found"), answer


# --- errors ---------------------------------------------------------------------------------------


def subclasses(cls: type[VpError]) -> Iterator[type[VpError]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


# Those of the contract; classes between them and their base carry no code of their own.
CODED = [cls for cls in subclasses(VpError) if cls.__module__ == "vp_queue.errors" and not cls.__subclasses__()]
CODED.append(InternalError)


def test_every_error_has_the_documented_shape() -> None:
    for cls in CODED:
        body = cls(field="x", retry_after_seconds=1.0 if cls.retryable else None).as_dict()
        views.ErrorAnswer(ok=False, error=views.ErrorBody(**body))
        assert set(body) - {"retry_after_seconds"} == {"code", "message", "retryable", "details"}
        assert body["message"]


CODES = {  # code: (retryable, HTTP, CLI)
    "validation_error": (False, 422, 2),
    "unknown_vp": (False, 404, 3),
    "mission_not_found": (False, 404, 3),
    "artifact_not_found": (False, 404, 3),
    "question_not_found": (False, 404, 3),
    "vp_disabled": (False, 403, 4),
    "target_path_denied": (False, 403, 4),
    "executor_unavailable": (False, 403, 4),
    "limit_exceeded": (False, 403, 4),
    "idempotency_conflict": (False, 409, 4),
    "not_retryable_state": (False, 409, 4),
    "unauthorized": (False, 401, 4),
    "configuration_error": (False, 500, 2),
    "ledger_busy": (True, 503, 75),
    "ledger_unavailable": (False, 503, 75),
    "internal_error": (False, 500, 70),
}


def test_the_codes_are_those_of_the_contract() -> None:
    found = {cls.code: (cls.retryable, cls.http_status, cls.exit_code) for cls in CODED}
    assert found == CODES


def test_a_bug_inside_is_an_internal_error_with_an_id_that_stands_in_the_log(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a secret of the inside")

    monkeypatch.setattr(missions, "ready", broken)
    error = refused(call("vp_list_vps"), "internal_error")
    assert error["details"]["error_id"] in error["message"]
    assert error["details"]["error_id"] in caplog.text
    assert "secret" not in json.dumps(error)
    assert "a secret of the inside" in caplog.text


def test_a_busy_ledger_says_when_to_try_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: Any) -> None:
        raise LedgerBusy(retry_after_seconds=1.5)

    monkeypatch.setattr(missions, "_accept", busy)
    error = refused(call("vp_dispatch_mission", **VALID["vp_dispatch_mission"]), "ledger_busy")
    assert (error["retryable"], error["retry_after_seconds"]) == (True, 1.5)


def test_a_broken_configuration_is_an_answer(home: Home) -> None:
    (home.path / "vp_queue.toml").write_text("lease_seconds = 'x'\n")
    error = refused(call("vp_list_vps"), "configuration_error")
    assert "vp_queue.toml" in error["message"]


# --- dispatch -------------------------------------------------------------------------------------


def test_a_dispatch_answers_with_the_whole_mission(home: Home) -> None:
    answer = call(
        "vp_dispatch_mission",
        vp_id=GENERAL,
        objective="a poem ü 🚀 \u202e",
        budget={"max_tokens": 10},
        priority=-3,
        max_attempts=2,
        source_session_id="s-1",
        metadata={"k": "v"},
        idempotency_key="key",
        not_before="2031-01-01T00:00:00+01:00",
    )
    mission = answer["mission"]
    assert answer["created"] is True
    expected = {
        "vp_id": GENERAL,
        "objective": "a poem ü 🚀 \u202e",
        "mission_type": "task",
        "constraints": {},
        "budget": {"max_tokens": 10},
        "metadata": {"k": "v"},
        "priority": -3,
        "idempotency_key": "key",
        "status": "queued",
        "terminal": False,
        "cancel_requested": False,
        "attempt": 0,
        "attempts_charged": 0,
        "max_attempts": 2,
        "started_at": None,
        "finished_at": None,
        "not_before": "2030-12-31T23:00:00Z",
        "expires_at": None,
        "duration_seconds": None,
        "stalled": False,
        "workspace": f"workspace://{GENERAL}/{mission['mission_id']}",
        "source_session_id": "s-1",
        "retry_of": None,
    }
    assert {name: mission[name] for name in expected} == expected
    assert ok(call("vp_get_mission", mission_id=mission["mission_id"]))["mission"] == mission


def test_dispatch_without_a_key_is_always_a_new_mission(home: Home) -> None:
    ids = {ok(call("vp_dispatch_mission", **VALID["vp_dispatch_mission"]))["mission"]["mission_id"] for _ in range(3)}
    assert len(ids) == 3


SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the same": ({}, {}),
    "explicit defaults": (
        {},
        {
            "mission_type": "task",
            "constraints": {"files": {}, "require_artifacts": [], "target_path": None, "command": None},
            "budget": {"max_tokens": None, "max_cost_usd": None},
            "priority": 0,
            "not_before": None,
            "expires_at": None,
            "max_attempts": 1,
            "source_session_id": None,
            "metadata": {},
        },
    ),
    "another offset": ({"not_before": "2031-01-01T00:00:00Z"}, {"not_before": "2031-01-01T05:30:00+05:30"}),
    "a datetime": ({"not_before": "2031-01-01T00:00:00Z"}, {"not_before": datetime(2031, 1, 1, tzinfo=UTC)}),
    "zero fractions": ({"not_before": "2031-01-01T00:00:00Z"}, {"not_before": "2031-01-01T00:00:00.000Z"}),
    "60 and 60.0": ({"budget": {"max_duration_seconds": 60}}, {"budget": {"max_duration_seconds": 60.0}}),
    "keys in another order": ({"metadata": {"a": "1", "b": "2"}}, {"metadata": {"b": "2", "a": "1"}}),
}
OTHER: dict[str, dict[str, Any]] = {
    "objective": {"objective": "another poem"},
    "a blank more": {"objective": "a poem "},
    "priority": {"priority": 1},
    "metadata": {"metadata": {"a": "1"}},
    "budget": {"budget": {"max_tokens": 1}},
    "constraints": {"constraints": {"files": {"a": ""}}},
    "not_before": {"not_before": "2031-01-01T00:00:00Z"},
    "expires_at": {"expires_at": "2031-01-01T00:00:00Z"},
    "max_attempts": {"max_attempts": 2},
    "session": {"source_session_id": "s"},
    "type": {"mission_type": "research"},
}


@pytest.mark.parametrize("how", SAME)
def test_the_same_request_under_the_same_key_is_the_same_mission(home: Home, how: str) -> None:
    first, second = SAME[how]
    base = {**VALID["vp_dispatch_mission"], "idempotency_key": "k"}
    made = ok(call("vp_dispatch_mission", **{**base, **first}))
    before = stored()
    again = ok(call("vp_dispatch_mission", **{**base, **second}))
    assert (made["created"], again["created"]) == (True, False)
    assert again["mission"] == made["mission"]
    assert stored() == before


@pytest.mark.parametrize("how", OTHER)
def test_another_request_under_the_same_key_is_a_conflict(home: Home, how: str) -> None:
    base = {**VALID["vp_dispatch_mission"], "idempotency_key": "k"}
    made = ok(call("vp_dispatch_mission", **base))["mission"]
    before = stored()
    error = refused(call("vp_dispatch_mission", **{**base, **OTHER[how]}), "idempotency_conflict", "idempotency_key")
    assert error["details"]["mission_id"] == made["mission_id"]
    assert stored() == before


def test_keys_are_per_vp(home: Home) -> None:
    one = command("true", idempotency_key="k")["mission_id"]
    other = command("true", idempotency_key="k", vp_id=CODER)["mission_id"]
    assert one != other
    assert command("true", idempotency_key="k", vp_id=CODER)["mission_id"] == other


def test_a_replay_shows_the_mission_as_it_is_now_even_on_a_vp_disabled_since(home: Home) -> None:
    arguments = {**VALID["vp_dispatch_mission"], "idempotency_key": "k"}
    mission_id = ok(call("vp_dispatch_mission", **arguments))["mission"]["mission_id"]
    completed(mission_id)
    disable(home)
    again = ok(call("vp_dispatch_mission", **arguments))
    assert (again["created"], again["mission"]["status"]) == (False, "completed")


def test_of_dispatches_at_once_under_one_key_one_makes_the_mission(home: Home) -> None:
    start, answers = threading.Barrier(12), []

    def dispatch() -> None:
        start.wait()
        answers.append(call("vp_dispatch_mission", **VALID["vp_dispatch_mission"], idempotency_key="k"))

    threads = [threading.Thread(target=dispatch) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(ok(answer)["created"] for answer in answers) == 1
    assert len({answer["mission"]["mission_id"] for answer in answers}) == 1
    assert ok(call("vp_list_missions"))["counts"]["queued"] == 1


def disable(home: Home) -> None:
    path = home.path / "vp_queue.toml"
    path.write_text(path.read_text().replace('[vp."vp.general.primary"]', '[vp."vp.general.primary"]\nenabled = false'))


def test_a_disabled_vp_takes_no_mission_but_shows_what_it_has(home: Home) -> None:
    mission_id = command("true")["mission_id"]
    disable(home)
    before = stored()
    refused(call("vp_dispatch_mission", **VALID["vp_dispatch_mission"]), "vp_disabled", "vp_id")
    assert stored() == before
    ok(call("vp_get_mission", mission_id=mission_id))
    (vp,) = [vp for vp in ok(call("vp_list_vps"))["vps"] if vp["vp_id"] == GENERAL]
    assert (vp["enabled"], vp["queued"]) == (False, 1)


@pytest.mark.parametrize("vp_id", [ROMAN, "vp.general.primary ", "VP.GENERAL.PRIMARY", "../vp.general.primary"])
def test_an_unknown_vp_is_told_with_those_there_are(home: Home, vp_id: str) -> None:
    before = stored()
    error = refused(call("vp_dispatch_mission", vp_id=vp_id, objective="x"), "unknown_vp", "vp_id")
    assert GENERAL in error["message"]
    assert stored() == before


def test_a_vp_whose_executor_cannot_run_is_refused_with_the_remedy(home: Home) -> None:
    before = stored()
    error = refused(call("vp_dispatch_mission", vp_id=CODER, objective="x"), "executor_unavailable", "vp_id")
    assert "argv" in error["message"]
    assert stored() == before
    assert command("true", vp_id=CODER)["status"] == "queued", "a command mission needs no argv"


def test_a_command_is_refused_where_the_profile_does_not_allow_it(home: Home) -> None:
    path = home.path / "vp_queue.toml"
    path.write_text(path.read_text().replace("allow_commands = true", "allow_commands = false"))
    before = stored()
    answer = call(
        "vp_dispatch_mission",
        vp_id=GENERAL,
        objective="x",
        mission_type="command",
        constraints={"command": ["true"]},
    )
    error = refused(answer, "validation_error", "constraints.command")
    assert "allow_commands" in error["message"]
    assert stored() == before


def test_a_target_path_outside_the_allowed_roots_is_denied(home: Home) -> None:
    before = stored()
    for path in ("/etc", str(home.path), str(home.targets / ".." / "home")):
        refused(
            call("vp_dispatch_mission", **VALID["vp_dispatch_mission"], constraints={"target_path": path}),
            "target_path_denied",
        )
    assert stored() == before
    ok(call("vp_dispatch_mission", **VALID["vp_dispatch_mission"], constraints={"target_path": str(home.targets)}))


# --- get, list, wait, cancel ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "tool",
    ["vp_get_mission", "vp_wait_mission", "vp_cancel_mission", "vp_read_result_artifacts", "vp_retry_mission"],
)
def test_an_unknown_mission_is_told(home: Home, tool: str) -> None:
    before = stored()
    refused(call(tool, mission_id=NOBODY), "mission_not_found", "mission_id")
    assert stored() == before


@pytest.mark.parametrize("status", Status)
def test_every_answer_about_a_mission_in_every_state_is_as_documented(home: Home, status: Status) -> None:
    mission_id = in_state(status)
    mission = ok(call("vp_get_mission", mission_id=mission_id))["mission"]
    assert mission["status"] == status
    assert mission["terminal"] == (status in ("completed", "failed", "cancelled", "expired"))
    assert (mission["failure"] is not None) == (status == "failed")
    assert (mission["question"] is not None) == (status == "needs_input")
    assert (mission["result"] is not None) == (status == "completed")
    waited = ok(call("vp_wait_mission", mission_id=mission_id, timeout_seconds=0))
    assert waited["timed_out"] == (status in ("queued", "running"))
    assert waited["events"] == []
    read = ok(call("vp_read_result_artifacts", mission_id=mission_id))
    assert (read["status"], read["artifacts"], read["files_total"], read["truncated"]) == (status, [], 0, False)
    assert read["result"] == ("done" if status == "completed" else None)
    ok(call("vp_list_missions", status=status))


def test_get_shows_the_newest_events_in_order(home: Home) -> None:
    mission_id = command("true")["mission_id"]
    completed(mission_id)
    for limit, expected in ((0, []), (1, [3]), (2, [2, 3]), (500, [1, 2, 3])):
        answer = ok(call("vp_get_mission", mission_id=mission_id, events_limit=limit))
        assert [event["mission_seq"] for event in answer["events"]] == expected
    assert [attempt["outcome"] for attempt in answer["attempts"]] == ["completed"]


def test_a_list_is_newest_first_in_pages_without_gaps_or_doubles(home: Home) -> None:
    made = [command("true")["mission_id"] for _ in range(7)]
    seen: list[str] = []
    cursor = None
    pages = 0
    while True:
        answer = ok(call("vp_list_missions", limit=3, cursor=cursor))
        seen += [mission["mission_id"] for mission in answer["missions"]]
        pages += 1
        command("true")  # what comes meanwhile is newer, hence on no later page
        cursor = answer["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]
    assert pages == 3


def test_a_page_that_is_just_full_is_the_last(home: Home) -> None:
    for _ in range(3):
        command("true")
    assert ok(call("vp_list_missions", limit=3))["next_cursor"] is None
    assert ok(call("vp_list_missions", limit=2))["next_cursor"] is not None


def test_filters_narrow_the_list_and_all_but_status_the_counts(home: Home) -> None:
    mine = command("true", source_session_id="s-1")["mission_id"]
    done = command("true", source_session_id="s-1")["mission_id"]
    command("true", source_session_id="s-2")
    coder = command("true", vp_id=CODER, source_session_id="s-1")["mission_id"]
    completed(done)

    def ids(**filters: Any) -> set[str]:
        return {mission["mission_id"] for mission in ok(call("vp_list_missions", **filters))["missions"]}

    assert ids(source_session_id="s-1") == {mine, done, coder}
    assert ids(source_session_id="s-1", vp_id=GENERAL) == {mine, done}
    assert ids(source_session_id="s-1", vp_id=GENERAL, status="completed") == {done}
    assert ids(source_session_id="s-1", status=["completed", "queued"]) == {mine, done, coder}
    assert ids(source_session_id="none") == ids(vp_id=ROMAN) == set()
    zeros = dict.fromkeys((str(status) for status in Status), 0)
    answer = ok(call("vp_list_missions", source_session_id="s-1", status="queued", limit=1))
    assert answer["counts"] == {**zeros, "queued": 2, "completed": 1}
    assert ok(call("vp_list_missions", vp_id=ROMAN))["counts"] == zeros


def test_wait_ends_with_the_mission_and_tells_what_happened_meanwhile(home: Home) -> None:
    mission_id = command("true")["mission_id"]
    answers: list[dict[str, Any]] = []
    looked = threading.Event()
    ready = missions.ready

    def observed(*arguments: Any) -> Any:
        settings_ = ready(*arguments)
        looked.set()
        return settings_

    waiter = threading.Thread(
        target=lambda: answers.append(call("vp_wait_mission", mission_id=mission_id, timeout_seconds=60))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(missions, "ready", observed)
        waiter.start()
        assert looked.wait(30)
    completed(mission_id)
    waiter.join()
    answer = ok(answers[0])
    assert (answer["timed_out"], answer["mission"]["status"]) == (False, "completed")
    assert [event["type"] for event in answer["events"]] in (
        ["mission.started", "mission.completed"],
        ["mission.completed"],
        [],
    )


def test_cancel_of_a_queued_mission_ends_it_and_a_second_changes_nothing(home: Home) -> None:
    mission_id = command("true")["mission_id"]
    first = ok(call("vp_cancel_mission", mission_id=mission_id, reason="enough"))
    before = stored()
    second = ok(call("vp_cancel_mission", mission_id=mission_id, reason="again"))
    assert (first["changed"], second["changed"]) == (True, False)
    assert first["mission"]["status"] == second["mission"]["status"] == "cancelled"
    assert events(mission_id) == [EventType.DISPATCHED, EventType.CANCELLED]
    assert stored() == before


@pytest.mark.parametrize("status", [Status.RUNNING, Status.NEEDS_INPUT])
def test_cancel_of_an_executing_mission_asks_once(home: Home, status: Status) -> None:
    mission_id = in_state(status)
    first = ok(call("vp_cancel_mission", mission_id=mission_id))
    second = ok(call("vp_cancel_mission", mission_id=mission_id))
    assert (first["changed"], second["changed"]) == (True, False)
    assert (first["mission"]["status"], first["mission"]["cancel_requested"]) == (status, True)


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.EXPIRED])
def test_cancel_of_an_ended_mission_changes_nothing(home: Home, status: Status) -> None:
    mission_id = in_state(status)
    answer = ok(call("vp_cancel_mission", mission_id=mission_id))
    assert (answer["changed"], answer["mission"]["status"]) == (False, status)
    assert answer["mission"]["cancel_requested"] is False


def test_an_artifact_that_is_not_there_is_told(home: Home) -> None:
    mission_id = in_state(Status.COMPLETED)
    error = refused(call("vp_read_result_artifacts", mission_id=mission_id, paths=["poem.md"]), "artifact_not_found")
    assert error["details"]["path"] == "poem.md"


# --- retry ----------------------------------------------------------------------------------------


def test_a_retry_is_a_new_mission_with_everything_it_was_asked_with(home: Home) -> None:
    constraints = {"command": ["true"], "files": {"a.txt": "b"}, "target_path": str(home.targets)}
    asked = {
        "priority": 0,
        "budget": {"max_duration_seconds": 60, "max_tokens": 5},
        "metadata": {"k": "v"},
        "max_attempts": 3,
        "source_session_id": "s-1",
    }
    old = command("true", constraints=constraints, idempotency_key="k", **asked)
    ok(call("vp_cancel_mission", mission_id=old["mission_id"]))
    answer = ok(call("vp_retry_mission", mission_id=old["mission_id"], guidance="shorter"))
    new = answer["mission"]
    assert answer["created"] is True
    assert new["mission_id"] != old["mission_id"]
    assert (new["retry_of"], new["status"], new["idempotency_key"]) == (old["mission_id"], "queued", None)
    kept = ("vp_id", "objective", "mission_type", "constraints", "budget", "metadata", "priority", "max_attempts")
    assert {name: new[name] for name in kept} == {name: old[name] for name in kept}
    assert new["source_session_id"] == "s-1"
    assert ok(call("vp_get_mission", mission_id=old["mission_id"]))["mission"]["status"] == "cancelled"


@pytest.mark.parametrize("priority", [-100, 0, 100])
def test_a_retry_keeps_the_priority_also_when_it_is_zero(home: Home, priority: int) -> None:
    old = command("true", priority=priority)["mission_id"]
    failed(old)
    assert ok(call("vp_retry_mission", mission_id=old))["mission"]["priority"] == priority


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED, Status.EXPIRED])
def test_what_ended_without_success_can_be_retried(home: Home, status: Status) -> None:
    mission_id = in_state(status)
    new = ok(call("vp_retry_mission", mission_id=mission_id))["mission"]
    assert (new["status"], new["expires_at"]) == ("queued", None)


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING, Status.NEEDS_INPUT, Status.COMPLETED])
def test_what_has_not_ended_or_was_completed_cannot_be_retried(home: Home, status: Status) -> None:
    mission_id = in_state(status)
    before = stored()
    error = refused(call("vp_retry_mission", mission_id=mission_id), "not_retryable_state", "mission_id")
    assert error["details"]["status"] == status
    assert stored() == before


def test_without_a_key_each_retry_is_a_new_mission_and_with_one_the_same(home: Home) -> None:
    old = in_state(Status.FAILED)
    assert (
        ok(call("vp_retry_mission", mission_id=old))["mission"]["mission_id"]
        != ok(call("vp_retry_mission", mission_id=old))["mission"]["mission_id"]
    )
    first = ok(call("vp_retry_mission", mission_id=old, idempotency_key="k"))
    again = ok(call("vp_retry_mission", mission_id=old, guidance=None, idempotency_key="k"))
    assert (first["created"], again["created"]) == (True, False)
    assert first["mission"] == again["mission"]
    refused(call("vp_retry_mission", mission_id=old, guidance="x", idempotency_key="k"), "idempotency_conflict")
    refused(call("vp_dispatch_mission", **VALID["vp_dispatch_mission"], idempotency_key="k"), "idempotency_conflict")


def test_a_retry_is_checked_like_a_dispatch(home: Home) -> None:
    old = ok(call("vp_dispatch_mission", **VALID["vp_dispatch_mission"]))["mission"]["mission_id"]
    ok(call("vp_cancel_mission", mission_id=old))
    disable(home)
    before = stored()
    refused(call("vp_retry_mission", mission_id=old), "vp_disabled")
    assert stored() == before


# --- the inbox and the roster ---------------------------------------------------------------------


def inbox(**arguments: Any) -> dict[str, Any]:
    return ok(call("vp_read_events", **{"reader": "simone", **arguments}))


def test_a_reader_gets_everything_until_it_acknowledges(home: Home) -> None:
    assert inbox() == {"ok": True, "events": [], "last_seq": 0, "pruned": 0}
    mission_id = command("true")["mission_id"]
    completed(mission_id)
    first = inbox()
    assert [event["type"] for event in first["events"]] == [
        "mission.dispatched",
        "mission.started",
        "mission.completed",
    ]
    assert first["last_seq"] == first["events"][-1]["seq"]
    assert inbox() == first, "reading alone acknowledges nothing"
    assert inbox(acknowledge=first["last_seq"]) == {**first, "events": []}
    assert inbox(reader="another")["events"] == first["events"]


def test_pages_of_the_inbox_follow_by_acknowledging(home: Home) -> None:
    for _ in range(5):
        command("true")
    seen: list[int] = []
    page = inbox(limit=2)
    while page["events"]:
        seen += [event["seq"] for event in page["events"]]
        page = inbox(limit=2, acknowledge=page["last_seq"])
    assert seen == [1, 2, 3, 4, 5]


def test_an_acknowledgement_never_goes_back_nor_beyond_the_newest(home: Home) -> None:
    for _ in range(3):
        command("true")
    inbox(acknowledge=2)
    assert [event["seq"] for event in inbox(acknowledge=1)["events"]] == [3]
    refused(call("vp_read_events", reader="simone", acknowledge=4), "validation_error", "acknowledge")
    assert [event["seq"] for event in inbox()["events"]] == [3]


def test_a_session_sees_the_events_of_its_missions_only(home: Home) -> None:
    mine = command("true", source_session_id="s-1")["mission_id"]
    command("true", source_session_id="s-2")
    missions.pause(GENERAL, "lunch")
    assert {event["mission_id"] for event in inbox(source_session_id="s-1")["events"]} == {mine}
    assert inbox(source_session_id="s-3")["events"] == []
    assert len(inbox()["events"]) == 3


def test_reading_can_wait_for_a_first_event(home: Home) -> None:
    answers: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: answers.append(inbox(wait_seconds=60)))
    reader.start()
    command("true")
    reader.join()
    assert [event["type"] for event in answers[0]["events"]] == ["mission.dispatched"]


def test_the_roster_tells_what_each_vp_is_for_and_whether_it_can_run(home: Home) -> None:
    command("true")
    in_state(Status.RUNNING)
    in_state(Status.NEEDS_INPUT)
    missions.pause(GENERAL, "lunch")
    general, coder = ok(call("vp_list_vps"))["vps"]
    assert (general["vp_id"], coder["vp_id"]) == (GENERAL, CODER)
    shown = ("queued", "running", "needs_input", "paused", "pause_reason", "draining", "enabled", "executor", "workers")
    assert [general[name] for name in shown] == [1, 1, 1, True, "lunch", False, True, "command", []]
    assert general["available"] == {"ok": True, "reason": None}
    # Without argv it runs missions' own commands, as allow_commands says, and nothing else.
    assert coder["available"]["ok"] is True
    assert 'only mission_type="command"' in coder["available"]["reason"]
    assert "argv" in coder["available"]["reason"]


READS: list[Callable[[], dict[str, Any]]] = [
    lambda: call("vp_list_missions"),
    lambda: call("vp_list_vps"),
    lambda: call("vp_read_events", reader="simone"),
]


def test_reads_never_write(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    mission_id = in_state(Status.COMPLETED)

    def never() -> None:
        raise AssertionError("a read began a write transaction")

    monkeypatch.setattr(database, "write_transaction", never)
    for read in READS:
        ok(read())
    for tool in ("vp_get_mission", "vp_wait_mission", "vp_read_result_artifacts"):
        ok(call(tool, mission_id=mission_id))
