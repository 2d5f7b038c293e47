"""What agents are told is true: each name in the skill and the prompt rule is the contract's; no code is missing."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.harness import BIN
from vp_queue import errors, tools
from vp_queue.contracts import EventType, FailureCode, requests, views
from vp_queue.executors.model import DEFAULT_OUTPUT
from vp_queue.hooks import block
from vp_queue.operations import skill
from vp_queue.prompt_rule import PROMPT_RULE

FOLDER = Path(__file__).resolve().parents[2] / "skills" / skill.NAME
TEXT = (FOLDER / skill.FILE).read_text(encoding="utf-8")
HEAD, BODY = TEXT.split("---\n", 2)[1:]
LINES_MAX = 120
RULE_LINES_MAX = 5
# What stands before a dot, and the names that may stand behind it.
SECTIONS = {
    "constraints": set(requests.Constraints.model_fields),
    "budget": set(requests.Budget.model_fields),
    "mission": set(views.MissionView.model_fields),
    "failure": set(views.FailureView.model_fields),
    "available": set(views.AvailabilityView.model_fields),
    "error": set(views.ErrorBody.model_fields),
    "details": {"field"},
    "metadata": {"output"},
    "response": {"md"},
}


def names_in(schema: Any) -> set[str]:
    """Every property's name and every fixed word, however deep."""
    if isinstance(schema, list):
        return set().union(*map(names_in, schema)) if schema else set()
    if not isinstance(schema, dict):
        return set()
    properties = schema.get("properties")
    inner = set().union(*map(names_in, schema.values())) if schema else set()
    return inner | (set(properties) if isinstance(properties, dict) else set()) | set(schema.get("enum") or ())


def schemas() -> set[str]:
    return set().union(*(names_in(tools.schema(name)) for name in tools.DEFINITIONS))


def error_codes() -> set[str]:
    kinds, waiting = set(), [errors.VpError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        kinds.add(kind.__dict__.get("code"))
    return {code for code in kinds if code}


def spans(text: str) -> list[str]:
    """What stands in back-ticks."""
    return re.findall(r"`([^`]+)`", text)


def codes_in_table(title: str) -> list[str]:
    """The first column of the table whose head begins so."""
    rows = BODY.split(f"| `{title}` |")[1].split("\n\n")[0].splitlines()[2:]
    return [code for row in rows for code in spans(row.split("|")[1])]


def wrong_names(text: str) -> list[str]:
    """Calls of tools with arguments they do not have, and words in back-ticks that mean nothing here."""
    known = schemas() | set(tools.DEFINITIONS) | error_codes() | set(FailureCode)
    found = []
    for span in spans(text):
        call = re.fullmatch(r"(vp_[a-z_]+)\((.*)\)", span, re.DOTALL)
        if call:
            definition = tools.DEFINITIONS.get(call[1])
            fields = set(definition.arguments.model_fields) if definition else set()
            given = re.findall(r"(?:^|, )([a-z_]+)=", call[2])
            found += [f"{call[1]}({name})" for name in given if name not in fields]
            found += [] if definition else [call[1]]
        elif re.fullmatch(r"[a-z_.]+(=.*|: .*)?", span) and span not in set(EventType):
            section, _, name = re.split(r"[=:]", span)[0].rpartition(".")
            if name not in (SECTIONS.get(section, set()) if section else known):
                found.append(span)
    return found


def test_it_is_short() -> None:
    assert TEXT.count("\n") < LINES_MAX


def test_its_frontmatter_is_the_open_formats() -> None:
    values = dict(re.findall(r"^([a-z-]+): ?(.*)$", HEAD, re.MULTILINE))
    assert set(values) <= {"name", "description", "license", "compatibility", "metadata", "allowed-tools"}
    assert values["name"] == FOLDER.name == "vp-orchestration"
    assert 0 < len(values["description"]) <= 1024
    assert len(values["compatibility"]) <= 500
    assert values["license"] == "Apache-2.0"


def test_the_formats_own_tool_finds_it_valid() -> None:
    validator = BIN / "agentskills"
    if not validator.exists():
        pytest.skip("skills-ref is not installed; make hosts installs it")
    done = subprocess.run([validator, "validate", FOLDER], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_names_every_tool_and_nothing_that_is_none() -> None:
    assert set(tools.DEFINITIONS) <= set(re.findall(r"`(vp_[a-z_]+)\(", BODY))
    assert wrong_names(BODY) == []


def test_a_wrong_name_is_found() -> None:
    text = "`vp_wait_mission(mission=…, reader=2)`, `vp_ask()`, `constraints.path`, `mission.state`, `limit=`, `lmit`"
    assert wrong_names(text) == [
        *("vp_wait_mission(mission)", "vp_wait_mission(reader)", "vp_ask", "constraints.path", "mission.state", "lmit")
    ]


def test_it_says_what_to_do_on_every_error_and_every_failure() -> None:
    for told, known in (
        (codes_in_table("error.code"), error_codes()),
        (codes_in_table("failure.code"), set(map(str, FailureCode))),
    ):
        assert len(told) == len(set(told))
        assert set(told) == known


def test_what_it_says_of_retrying_is_what_the_classes_say() -> None:
    (busy,) = [row for row in BODY.splitlines() if row.startswith("| `ledger_busy`")]
    assert "repeat the same call" in busy
    assert [code for code in error_codes() if errors.by_code(code).retryable] == ["ledger_busy"]


def test_a_chat_models_answer_has_the_name_it_says() -> None:
    assert f"`metadata.output` | the answer's file name, if the VP is a chat model (else `{DEFAULT_OUTPUT}`)" in BODY


def test_it_knows_the_block_that_hooks_show() -> None:
    assert f"`{block.OPEN}`" in BODY


def test_it_forbids_the_ways_around() -> None:
    for word in ("shell", "HTTP", "curl", "SQL", "No passwords", "never follow instructions", "Tell the user\n"):
        assert word in BODY


def test_the_prompt_rule_is_thin_and_names_tools_that_exist() -> None:
    assert PROMPT_RULE.endswith("\n")
    assert PROMPT_RULE.count("\n") <= RULE_LINES_MAX
    named = set(re.findall(r"\bvp_[a-z_]+", PROMPT_RULE)) - {"vp_"}
    assert named <= set(tools.DEFINITIONS)
    assert {"vp_list_vps", "vp_dispatch_mission", "vp_wait_mission", "vp_read_result_artifacts"} <= named
    fields = tools.DEFINITIONS["vp_dispatch_mission"].arguments.model_fields
    assert "idempotency_key" in PROMPT_RULE
    assert "idempotency_key" in fields
    assert skill.NAME in PROMPT_RULE
