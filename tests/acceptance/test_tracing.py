"""One trace for each mission, received by a real OTLP server from real dispatchers, consumers and keepers."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests import oracle
from tests.harness import BIN, GENERAL, ROOT, Home, alive_with_environment, ended, events, ok, shell, until
from vp_queue import missions, tools
from vp_queue.operations import supervision

if importlib.util.find_spec("opentelemetry.sdk") is None:
    pytest.skip("OpenTelemetry is not installed; pip install -e '.[otel]'", allow_module_level=True)

from tests.otlp import Collector, Span, collector

PHASES = ("vp.prepare", "vp.execute", "vp.publish", "vp.finish")
USAGE = """echo '{"usage": {"input_tokens": 40, "output_tokens": 2, "cost_usd": 0.5}}' >&$VP_REPORT_FD"""
VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED")


@pytest.fixture
def received() -> Iterator[Collector]:
    with collector() as found:
        yield found


@pytest.fixture(autouse=True)
def checked(home: Home) -> Iterator[None]:
    yield
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")


def vp(home: Home, *argv: str, **extra: str) -> dict[str, Any]:
    """What a real `vp` answers."""
    ran = subprocess.run(
        [str(BIN / "vp"), *argv, "--json"],
        env={**home.environment, **extra},
        capture_output=True,
        text=True,
        timeout=60,
    )
    answer: dict[str, Any] = json.loads(ran.stdout)
    return ok(answer)


def dispatched(home: Home, script: str, *options: str, **extra: str) -> str:
    constraints = json.dumps({"command": ["sh", "-c", script]})
    argv = ("dispatch", GENERAL, "secret words", "--type", "command", "--constraints", constraints, *options)
    return str(vp(home, *argv, **extra)["mission"]["mission_id"])


def consumer(home: Home, **extra: str) -> subprocess.Popen[bytes]:
    return home.start("huey_consumer", "vp_queue.tasks.app.huey", VP_ID=GENERAL, **extra)


def only(spans: list[Span], name: str) -> Span:
    [found] = [span for span in spans if span.name == name]
    return found


def check_shape(spans: list[Span]) -> Span:
    """One trace; attempts and mission are children of the dispatch, phases those of an attempt. The dispatch."""
    assert len({span.trace_id for span in spans}) == 1
    root = only(spans, "vp.dispatch")
    attempts = {span.span_id for span in spans if span.name == "vp.attempt"}
    for span in spans:
        if span.name in ("vp.attempt", "vp.mission"):
            assert span.parent_id == root.span_id
        elif span.name in PHASES:
            assert span.parent_id in attempts
        assert span.start_ns <= span.end_ns
    assert "secret" not in repr(spans)
    return root


def test_a_mission_that_completes_is_one_trace(home: Home, received: Collector) -> None:
    mission_id = dispatched(home, USAGE, **received.environment())
    consumer(home, **received.environment())
    spans = received.trace_of(mission_id, "vp.dispatch", "vp.attempt", "vp.mission", *PHASES)
    root = check_shape(spans)
    assert (root.kind, root.parent_id, root.service) == ("producer", "", "vp-queue")
    attempt, mission = only(spans, "vp.attempt"), only(spans, "vp.mission")
    assert (attempt.kind, attempt.failed, mission.failed) == ("consumer", False, False)
    assert attempt.attributes == {
        "messaging.system": "vp_queue",
        "messaging.destination.name": GENERAL,
        "messaging.message.id": mission_id,
        "messaging.operation.name": "execute",
        "vp.mission.attempt": 1,
        "vp.mission.outcome": "completed",
        "gen_ai.usage.input_tokens": 40,
        "gen_ai.usage.output_tokens": 2,
        "vp.cost_usd": 0.5,
        "process.exit.code": 0,
    }
    assert mission.attributes["vp.mission.outcome"] == "completed"
    assert mission.attributes["vp.mission.attempts"] == 1
    # Within a millisecond: the dispatch reads the clock before its transaction does.
    assert root.start_ns - 1_000_000 <= mission.start_ns <= attempt.start_ns
    told = ok(tools.vp_get_mission(mission_id=mission_id))["mission"]
    assert (mission.end_ns - mission.start_ns) / 1e9 >= told["duration_seconds"] - 0.001


def test_a_mission_that_is_retried_automatically_and_then_by_hand(home: Home, received: Collector) -> None:
    mission_id = dispatched(home, "exit 3", "--max-attempts", "2", **received.environment())
    consumer(home, **received.environment())
    home.start("vp", "keeper", **received.environment())
    spans = received.trace_of(mission_id, "vp.dispatch", "vp.attempt", "vp.attempt", "vp.mission", *PHASES, *PHASES)
    check_shape(spans)
    attempts = sorted(
        (span.attributes["vp.mission.attempt"], span.attributes["vp.mission.outcome"], span.failed)
        for span in spans
        if span.name == "vp.attempt"
    )
    assert attempts == [(1, "failed", True), (2, "failed", True)]
    mission = only(spans, "vp.mission")
    assert mission.failed
    assert mission.attributes["error.type"] == "exit_nonzero"
    again = str(vp(home, "retry", mission_id, **received.environment())["mission"]["mission_id"])
    until(lambda: [span for span in received.spans if span.mission == again], "the retry is told")
    root = next(span for span in received.spans if span.mission == again and span.name == "vp.dispatch")
    assert root.trace_id != mission.trace_id
    assert root.links == (mission.trace_id,)


def test_a_mission_that_is_cancelled_in_the_queue(home: Home, received: Collector) -> None:
    mission_id = dispatched(home, "true", **received.environment())
    vp(home, "cancel", mission_id, **received.environment())
    spans = received.trace_of(mission_id, "vp.dispatch", "vp.mission")
    check_shape(spans)
    assert only(spans, "vp.mission").attributes["vp.mission.outcome"] == "cancelled"


def test_a_mission_that_is_cancelled_while_it_runs(home: Home, received: Collector) -> None:
    mission_id = dispatched(home, "sleep 600", **received.environment())
    consumer(home, **received.environment())
    until(lambda: alive_with_environment("VP_MISSION_ID", mission_id), "it runs")
    ok(tools.vp_cancel_mission(mission_id=mission_id))
    spans = received.trace_of(mission_id, "vp.dispatch", "vp.attempt", "vp.mission", *PHASES)
    check_shape(spans)
    assert not any(span.failed for span in spans)
    assert only(spans, "vp.attempt").attributes["vp.mission.outcome"] == "cancelled"


def test_an_attempt_whose_consumer_was_killed_is_told_by_the_keeper(home: Home, received: Collector) -> None:
    mission_id = dispatched(
        home, "test $VP_ATTEMPT -ge 2 || sleep 600", "--max-attempts", "2", **received.environment()
    )
    killed = consumer(home, **received.environment())
    until(lambda: alive_with_environment("VP_MISSION_ID", mission_id), "it runs")
    killed.kill()
    killed.wait()
    # What the dead consumer had told of itself depends on when it died: a phase that had ended, at most.
    received.spans[:] = [span for span in received.spans if span.name == "vp.dispatch"]
    home.start("vp", "keeper", **received.environment())
    consumer(home, **received.environment())
    spans = received.trace_of(mission_id, "vp.dispatch", "vp.attempt", "vp.attempt", "vp.mission", *PHASES)
    check_shape(spans)
    lost = next(span for span in spans if span.attributes.get("vp.mission.outcome") == "lost")
    assert (lost.name, lost.failed, lost.attributes["error.type"]) == ("vp.attempt", True, "worker_lost")
    assert only(spans, "vp.mission").attributes["vp.mission.outcome"] == "completed"


def test_what_a_stopping_consumer_gives_back_is_still_told(home: Home, received: Collector) -> None:
    mission_id = dispatched(home, "sleep 600", **received.environment())
    # Nothing is sent before the exit.
    stopped = consumer(home, **{**received.environment(), "OTEL_BSP_SCHEDULE_DELAY": "600000"})
    until(lambda: alive_with_environment("VP_MISSION_ID", mission_id), "it runs")
    stopped.send_signal(signal.SIGTERM)
    stopped.wait(60)
    phases = [phase for phase in PHASES if phase != "vp.publish"]
    spans = received.trace_of(mission_id, "vp.dispatch", "vp.attempt", *phases)
    check_shape(spans)
    assert only(spans, "vp.attempt").attributes["vp.mission.outcome"] == "released"


def test_a_mission_dispatched_without_tracing_is_still_one_trace(home: Home, received: Collector) -> None:
    mission_id = shell("exit 3", max_attempts=2)["mission_id"]
    consumer(home, **received.environment())
    home.start("vp", "keeper", **received.environment())
    spans = received.trace_of(mission_id, "vp.attempt", "vp.attempt", "vp.mission", *PHASES, *PHASES)
    assert len({span.trace_id for span in spans}) == 1


HOST = """
import sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from vp_queue import tools
provider = TracerProvider(resource=Resource.create({"service.name": "simone"}))
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(sys.argv[1] + "/v1/traces")))
trace.set_tracer_provider(provider)
with trace.get_tracer("simone").start_as_current_span("a turn of the conversation"):
    answer = tools.vp_dispatch_mission(vp_id="vp.general.primary", objective="x")
print(answer["mission"]["mission_id"])
"""


def test_a_dispatch_is_part_of_what_its_caller_does_by_the_callers_own_provider(
    home: Home, received: Collector
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", HOST, received.endpoint], env=home.environment, capture_output=True, text=True, cwd=ROOT
    )
    assert ran.returncode == 0, ran.stderr
    consumer(home, **received.environment())
    spans = received.trace_of(
        ran.stdout.strip(), "a turn of the conversation", "vp.dispatch", "vp.attempt", "vp.mission", *PHASES
    )
    root = check_shape(spans)
    assert root.parent_id == only(spans, "a turn of the conversation").span_id
    assert root.service == "simone"
    assert only(spans, "vp.attempt").service == "vp-queue"


FORKS = """
import os, sys
from vp_queue import tools
def dispatch():
    print(tools.vp_dispatch_mission(vp_id="vp.general.primary", objective="x")["mission"]["mission_id"], flush=True)
dispatch()
child = os.fork()
dispatch()
sys.stdin.read()  # until the test has seen the spans: a forked child sends nothing at its exit
if child:
    os.waitpid(child, 0)
"""


def test_a_process_that_forks_goes_on_telling_on_both_sides(home: Home, received: Collector) -> None:
    forks = subprocess.Popen(
        [sys.executable, "-c", FORKS],
        env={**home.environment, **received.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        until(lambda: len({span.mission for span in received.spans}) == 3, "both have told")
    finally:
        stdout, _ = forks.communicate(timeout=60)
    assert forks.returncode == 0
    assert {span.mission for span in received.spans} == set(stdout.split())


# --- when it cannot be told ---------------------------------------------------------------------


@contextlib.contextmanager
def deaf() -> Iterator[str]:
    """An endpoint that takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def nobody() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("answers", [False, True], ids=["nobody listens", "it never answers"])
def test_an_endpoint_that_is_dead_changes_nothing_for_a_mission(home: Home, answers: bool) -> None:
    with deaf() if answers else contextlib.nullcontext(nobody()) as endpoint:
        extra = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "10"}
        mission_id = dispatched(home, "true", **extra)
        running = consumer(home, **extra)
        assert ended(mission_id)["status"] == "completed"
        assert events(mission_id) == ["mission.dispatched", "mission.started", "mission.completed"]
        running.terminate()
        assert running.wait(30) in (0, -signal.SIGTERM, 1), home.logs()


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_BSP_MAX_QUEUE_SIZE": "-1"},
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_TRACES_SAMPLER": "always_off"},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_settings_that_forbid_or_spoil_traces_do_no_more_than_that(
    home: Home, received: Collector, variables: dict[str, str]
) -> None:
    dispatched(home, "true", **{**received.environment(), **variables})
    assert received.spans == []


def test_without_the_variables_opentelemetry_is_not_imported(home: Home) -> None:
    script = (
        "import sys\nfrom vp_queue import tools\n"
        "answer = tools.vp_dispatch_mission(vp_id='vp.general.primary', objective='x')\nassert answer['ok'], answer\n"
        "tools.vp_cancel_mission(mission_id=answer['mission']['mission_id'])\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry') or name.endswith('tracing_sdk')])"
    )
    environment = {name: value for name, value in home.environment.items() if name not in VARIABLES}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert (ran.stdout.strip(), ran.stderr) == ("[]", "")


def test_where_it_is_not_installed_the_variables_do_nothing(home: Home) -> None:
    script = (
        "import sys\nsys.modules['opentelemetry'] = None\nfrom vp_queue import tools\n"
        "print(tools.vp_dispatch_mission(vp_id='vp.general.primary', objective='x')['ok'])"
    )
    environment = {**home.environment, "OTEL_EXPORTER_OTLP_ENDPOINT": nobody()}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert (ran.stdout.strip(), ran.stderr) == ("True", "")


def test_what_vp_up_starts_gets_the_variables(home: Home) -> None:
    given = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SERVICE_NAME": "mine"}
    passed = supervision.environment(missions.ready(), given)
    assert {name: value for name, value in passed.items() if name.startswith("OTEL_")} == {
        name: value for name, value in given.items() if name.startswith("OTEL_")
    }


def test_a_missions_program_gets_none_of_them(home: Home, received: Collector) -> None:
    extra = {**received.environment(), "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret"}
    consumer(home, **extra)
    mission_id = shell('env > "$VP_WORK_PRODUCTS/env.txt"')["mission_id"]
    ended(mission_id)
    [artifact] = ok(tools.vp_read_result_artifacts(mission_id=mission_id))["artifacts"]
    assert "OTEL_" not in artifact["content"]
