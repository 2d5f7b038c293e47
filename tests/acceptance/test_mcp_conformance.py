"""The official conformance suite, in both revisions that it knows, against a real `vp mcp --http`.

What is expected to fail stands in ``tests/hosts/conformance_expected.toml`` with its reasons, check by check. The
scenarios of the tasks extension want tools of their own: ``tests/hosts/task_server.py`` has them, over our extension.
"""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import ROOT, Home, exited, shell, until
from tests.hosts import installed
from tests.hosts.installed import needs_hosts

WITHIN_SECONDS = 240
EXPECTED = tomllib.loads((ROOT / "tests/hosts/conformance_expected.toml").read_text())["expected"]
TASKS = "tasks-"
# What must run and pass whole, whatever else is expected.
WHOLE = {
    "2025-11-25": {
        "server-initialize",
        "server-session-lifecycle",
        "ping",
        "tools-list",
        "tools-call-simple-text",
        "tools-call-error",
        "server-sse-multiple-streams",
        "resources-list",
        "resources-subscribe",
        "resources-unsubscribe",
        "dns-rebinding-protection",
    },
    "2026-07-28": {
        "tools-list",
        "tools-call-simple-text",
        "tools-call-error",
        "server-sse-multiple-streams",
        "resources-list",
        "sep-2164-resource-not-found",
        "dns-rebinding-protection",
        "http-header-validation",
        "input-required-result-unsupported-methods",
        "input-required-result-ignore-extra-params",
    },
}
TASK_SCENARIOS = {
    f"{TASKS}{name}"
    for name in (
        "lifecycle",
        "capability-negotiation",
        "wire-fields",
        "request-state-removal",
        "mrtr-input",
        "request-headers",
        "dispatch-and-envelope",
        "required-task-error",
        "mrtr-composition",
        "status-notifications",  # of which the suite itself says that it cannot be checked yet
    )
}

Verdicts = dict[str, dict[str, str]]  # scenario: check: what went wrong, if anything


@contextmanager
def listening(home: Home, *argv: str, **extra: str) -> Iterator[str]:
    """Run a server; its address, as it tells it."""
    process = home.start(*argv, **extra)
    found = until(lambda: re.search(r"MCP server on (\S+)", home.logs()) or exited(process), "the server listens")
    yield found[1]


def verdicts(url: str, revision: str, folder: Path) -> Verdicts:
    """Run the suite; what it says of each scenario."""
    argv = [str(installed.BIN / "conformance"), "server", "--url", url, "--requirements", revision, "-o", str(folder)]
    environment = {"PATH": installed.PATH, "HOME": str(folder)}
    done = subprocess.run(argv, env=environment, cwd=folder, capture_output=True, text=True, timeout=WITHIN_SECONDS)
    found: Verdicts = {}
    for checks in folder.glob("server-*/checks.json"):
        named = re.fullmatch(r"server-(.+)-\d{4}-\d\d-\d\dT.*", checks.parent.name)
        assert named is not None, checks
        failed = found.setdefault(named[1], {})
        for check in json.loads(checks.read_text()):
            if check["status"] in ("FAILURE", "WARNING"):
                failed[check["id"]] = check.get("errorMessage", check["status"])
    assert found, done.stderr
    return found


def unexpected(found: Verdicts) -> set[str]:
    """The checks that failed and should have passed, or passed and should have failed."""
    named = {check for group in EXPECTED for check in group["checks"]}
    failed = {f"{scenario}/{check}" for scenario, checks in found.items() for check in checks}
    return failed ^ {check for check in named if check.partition("/")[0] in found}


@needs_hosts
@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
def test_all_applicable_scenarios_pass(home: Home, tmp_path: Path, revision: str) -> None:
    shell("true")  # something to list and to read
    with listening(home, "vp", "mcp", "--http", "--port", "0", "--no-auth") as url:
        found = verdicts(url, revision, tmp_path)
    ours = {scenario: failed for scenario, failed in found.items() if not scenario.startswith(TASKS)}
    assert not unexpected(ours), ours
    assert {scenario for scenario, failed in ours.items() if not failed} >= WHOLE[revision]


@needs_hosts
def test_the_tasks_extension_passes_every_scenario(home: Home, tmp_path: Path) -> None:
    with listening(home, "python", "-m", "tests.hosts.task_server", PYTHONPATH=str(ROOT)) as url:
        found = verdicts(url, "2026-07-28", tmp_path)
    tasks = {scenario: failed for scenario, failed in found.items() if scenario.startswith(TASKS)}
    assert tasks == {scenario: {} for scenario in TASK_SCENARIOS}


def test_each_expected_failure_has_a_reason_and_fails_somewhere() -> None:
    checks = [check for group in EXPECTED for check in group["checks"]]
    assert len(set(checks)) == len(checks)
    assert all(len(group["reason"]) > 20 for group in EXPECTED)
    assert not [check for check in checks if check.partition("/")[0] in WHOLE["2025-11-25"] | WHOLE["2026-07-28"]]


def test_a_new_failure_and_a_stale_expectation_are_both_told() -> None:
    """The control of the comparison."""
    assert unexpected({"ping": {"ping": "no answer"}}) == {"ping/ping"}
    assert unexpected({"prompts-list": {}}) == {"prompts-list/prompts-list"}
    assert unexpected({"prompts-list": {"prompts-list": "Method not found"}}) == set()
