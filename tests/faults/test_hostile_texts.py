"""NUL, lone surrogates, a megabyte, names and arguments that are not UTF-8: the same verdict everywhere.

``tests/unit`` has each argument of each tool and each report; here is what goes all the way: through the command
line as bytes, through a real program's names and output, and any text there is through the ledger and back.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import oracle
from tests.harness import BIN, GENERAL, Home, ended, ok, refused, shell
from vp_queue import missions, tools
from vp_queue.contracts import requests as asked

MEGABYTE = 1_000_000
COMMAND = {"mission_type": "command", "constraints": {"command": ["true"]}}
# Any character, those that no UTF-8 can hold among them.
ANY_TEXT = st.text(st.characters(), max_size=30)


def can_be_held(text: str) -> bool:
    return "\0" not in text and not any(0xD800 <= ord(character) <= 0xDFFF for character in text)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(objective=ANY_TEXT, key=ANY_TEXT, value=ANY_TEXT)
def test_any_text_comes_back_as_it_was_or_is_refused_with_its_field_and_nothing_is_stored(
    home: Home, objective: str, key: str, value: str
) -> None:
    before = ok(tools.vp_list_missions(limit=1))["counts"]
    answer = tools.vp_dispatch_mission(
        vp_id=GENERAL, objective=objective, idempotency_key=key, metadata={"note": value}, **COMMAND
    )
    if objective.strip() and key and all(map(can_be_held, (objective, key, value))):
        if not answer["ok"]:
            refused(answer, "idempotency_conflict")  # this key came in an earlier example
            return
        mission = ok(tools.vp_get_mission(mission_id=answer["mission"]["mission_id"]))["mission"]
        assert (mission["objective"], mission["idempotency_key"], mission["metadata"]) == (
            objective,
            key,
            {"note": value},
        )
        return
    assert refused(answer, "validation_error")["details"]["field"] in ("objective", "idempotency_key", "metadata.note")
    assert ok(tools.vp_list_missions(limit=1))["counts"] == before


TEXTS: dict[str, Any] = {
    "objective": lambda text: tools.vp_dispatch_mission(vp_id=GENERAL, objective=text, **COMMAND),
    "idempotency_key": lambda text: tools.vp_dispatch_mission(
        vp_id=GENERAL, objective="x", idempotency_key=text, **COMMAND
    ),
    "source_session_id": lambda text: tools.vp_list_missions(source_session_id=text),
    "reason": lambda text: tools.vp_cancel_mission(mission_id="m-0000000000", reason=text),
    "guidance": lambda text: tools.vp_retry_mission(mission_id="m-0000000000", guidance=text),
    "reader": lambda text: tools.vp_read_events(reader=text),
}


@pytest.mark.parametrize("field", TEXTS)
def test_a_megabyte_is_refused_by_every_text_of_the_tools(home: Home, field: str) -> None:
    refused(TEXTS[field]("x" * MEGABYTE), "validation_error", field)
    assert ok(tools.vp_list_missions())["missions"] == []


@pytest.mark.parametrize("argument", [b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80"], ids=["junk", "latin-1", "a surrogate"])
def test_an_argument_that_is_not_utf_8_is_a_usage_error_and_no_traceback(home: Home, argument: bytes) -> None:
    argv = [str(BIN / "vp").encode(), b"dispatch", GENERAL.encode(), argument, b"--json"]
    ran = subprocess.run(argv, env=home.environment, capture_output=True)
    assert ran.returncode == 2, ran
    refused(json.loads(ran.stdout), "validation_error", "objective")
    assert b"Traceback" not in ran.stderr


HOSTILE_PROGRAM = r"""
cd "$VP_WORK_PRODUCTS"
echo good > good.txt; echo bad > "$(printf 'not\377utf8')"; echo bad > "$(printf 'two\nlines\033[2J')"
printf '\000\377\355\240\200'; head -c 1000000 /dev/zero | tr '\000' x
printf '{"progress": 0.5, "message": "nul \\u0000 surrogate \\ud800"}\n' >&3
printf '{"result": "nul \\u0000 surrogate \\udfff"}\n' >&3
printf 'junk \377\000\n' >&3; head -c 1000000 /dev/zero | tr '\000' x >&3; echo >&3
"""


def test_what_a_program_names_prints_and_reports_is_cleaned_and_its_mission_completes(home: Home) -> None:
    home.consumer()
    mission_id = shell(HOSTILE_PROGRAM)["mission_id"]
    done = ended(mission_id)
    assert done["status"] == "completed", done["failure"]
    assert done["result"] == "nul \N{REPLACEMENT CHARACTER} surrogate ?"
    answer = ok(tools.vp_get_mission(mission_id=mission_id, events_limit=500))
    json.dumps(answer).encode()
    assert len(answer["events"][-1]["data"]["skipped"]) == 2
    files = ok(tools.vp_read_result_artifacts(mission_id=mission_id))["artifacts"]
    assert [file["path"] for file in files] == ["good.txt"]
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", [mission_id])


def test_control_without_the_contracts_check_the_ledger_itself_fails(home: Home) -> None:
    unchecked = asked.DispatchMission.model_construct(
        **{**asked.DispatchMission(vp_id=GENERAL, objective="x", **COMMAND).__dict__, "objective": "a\ud800b"}
    )
    with pytest.raises(UnicodeEncodeError):
        missions.dispatch(unchecked)
