"""The API's document is valid, complete and true: a fuzzer holds a real `vp serve` to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.specs.openapi import checks as promised
from starlette.routing import Route

from tests.harness import CODER, GENERAL, ended, home_at, shell, until
from tests.web_server import Server, serving
from vp_queue import tools
from vp_queue.web import app, openapi, operations

SEED = 20261125
LONGEST_ADDRESS = 65_536  # the HTTP server's own limit; it then closes the connection
CHECKS = [
    schemathesis.checks.not_a_server_error,
    promised.status_code_conformance,
    promised.content_type_conformance,
    promised.response_headers_conformance,
    promised.response_schema_conformance,
]


def test_the_document_is_valid() -> None:
    document = openapi.document()
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    assert document["openapi"].startswith("3.1")
    json.dumps(document)


def test_each_route_of_the_api_stands_in_it_and_each_operation_has_the_name_of_its_tool() -> None:
    paths = openapi.document()["paths"]
    described = {(method.upper(), path) for path, each in paths.items() for method in each}
    served = {
        (method, route.path.replace(":path", ""))
        for route in app.face(token="x" * 20).routes
        if isinstance(route, Route) and route.path.startswith(("/api/", "/healthz", "/readyz", "/metrics"))
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert described == served
    names = [operation["operationId"] for each in paths.values() for operation in each.values()]
    assert len(names) == len(set(names))
    assert set(tools.DEFINITIONS) - set(names) == {"vp_read_events"}  # an inbox is an agent's, not a page's


def test_its_examples_are_requests_that_the_contract_takes() -> None:
    in_path: dict[str, Any] = {"mission_id": openapi._MISSION, "vp_id": GENERAL}
    for each in operations.ADDRESSES:
        if each.method == "POST":
            given_path = {name: value for name, value in in_path.items() if f"{{{name}}}" in each.path}
            each.operation.parse({**openapi.EXAMPLES[each.operation.name], **given_path})


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose ledger has something to show."""
    with pytest.MonkeyPatch.context() as patch, home_at(tmp_path_factory.mktemp("fuzzed")) as home:
        patch.setenv("VP_HOME", str(home.path))
        for vp_id in (GENERAL, CODER):
            home.consumer(vp_id)
        home.keeper()
        with serving(home) as server:
            until(lambda: httpx.get(f"{server.url}readyz").status_code == 200, "all is well")
            ended(shell("echo hello; echo poem > $VP_WORK_PRODUCTS/poem.md")["mission_id"])
            ended(shell("exit 3")["mission_id"])
            shell("true", vp_id=CODER, not_before="2999-01-01T00:00:00Z")
            yield server


def fuzz(server: Server, examples: int) -> None:
    """Ask each operation so often, half of it with what its schema allows, and hold the answers to the document."""
    headers = {"authorization": f"Bearer {server.token}"}
    known = [mission["mission_id"] for mission in tools.vp_list_missions()["missions"]]
    document = httpx.get(f"{server.url}api/v1/openapi.json", headers=headers).json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=server.url)
    for found in schema.get_all_operations():
        operation = found.ok()
        modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
        strategy = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

        @seed(SEED)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy, index=st.integers(0, 2 * len(known)))
        def ask(case: Any, index: int) -> None:
            if "mission_id" in (case.path_parameters or {}) and index < len(known):
                case.path_parameters["mission_id"] = known[index]  # one that there is
            if "timeout_seconds" in (case.query or {}):
                case.query["timeout_seconds"] = 0  # a wait as long as the fuzzer likes is not what is tested
            case.headers["accept"] = "application/json"
            try:
                answer = case.call(base_url=server.url, headers=headers, timeout=30)
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                assert len(str(case.query)) > LONGEST_ADDRESS / 2, "only an address beyond all bounds is cut off"
                return
            case.validate_response(answer, checks=CHECKS)
            if answer.headers.get("content-type") == "application/json" and answer.status_code >= 400:
                assert answer.request.method == "HEAD" or "/readyz" in answer.url or answer.json()["ok"] is False

        ask()


def test_a_fuzzer_finds_no_server_error_and_no_answer_beside_its_schema(fuzzed: Server) -> None:
    fuzz(fuzzed, examples=20)
    assert "Traceback" not in fuzzed.log.read_text()


@pytest.mark.slow
def test_a_fuzzer_finds_none_in_a_long_run(fuzzed: Server) -> None:
    fuzz(fuzzed, examples=500)
    assert "Traceback" not in fuzzed.log.read_text()
