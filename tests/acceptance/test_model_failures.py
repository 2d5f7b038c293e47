"""Executor ``model`` when things go wrong: what is tried again, what is not, and under which code it fails."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from tests.harness import Home, events
from tests.model_server import (
    Ask,
    ModelServer,
    Turn,
    delta,
    fails,
    log,
    model_server,
    products,
    raw,
    says,
    stalls_after,
    streams,
)
from vp_queue.contracts import FINAL_FAILURES

PATIENT = "max_retries = 2\nmax_retry_wait_seconds = 0.2"


def cut(*texts: str) -> Turn:
    """A stream that breaks off."""
    return streams(*(delta(text) for text in texts))


@pytest.mark.parametrize(
    ("turn", "code", "requests"),
    [
        (fails(401, "invalid_api_key"), "auth", 1),
        (fails(403), "auth", 1),
        (fails(404, "model_not_found"), "executor_unavailable", 1),
        (fails(302, Location="http://127.0.0.1:1/v1"), "executor_unavailable", 1),
        (fails(400, "context_length_exceeded"), "context_exceeded", 1),
        (fails(400, message="This model's maximum context length is 8192 tokens"), "context_exceeded", 1),
        (fails(413), "context_exceeded", 1),
        (fails(400, "content_policy_violation"), "refused", 1),
        (fails(400), "executor_error", 1),
        (fails(429, "insufficient_quota"), "rate_limited", 1),
        (fails(402), "rate_limited", 1),
        (fails(429), "rate_limited", 3),
        (fails(500), "executor_error", 3),
        (fails(503), "executor_error", 3),
        (cut("half an "), "executor_error", 3),
        (raw(b""), "executor_error", 3),
        (raw(b"data: this is not JSON\n\n"), "executor_error", 3),
        (raw(b"data: " + b"[" * 100_000 + b"\n\n"), "executor_error", 3),
        (raw(b"data: \xff\xfe\n\n"), "executor_error", 3),
        (raw(b'{"hello": 1}', "application/json"), "executor_error", 3),
        (raw(b"<html>a proxy's page</html>", "text/html"), "executor_error", 3),
        (streams(delta("half"), {"error": {"message": "overloaded", "code": 529}}), "executor_error", 3),
        (streams(delta("half"), {"error": {"message": "slow down", "code": 429}}), "rate_limited", 3),
        (streams({"error": {"message": "no", "type": "exceed_context_size_error"}}), "context_exceeded", 1),
        (says(finish="stop"), "executor_error", 1),
        (says(finish="content_filter"), "refused", 1),
        (streams(delta(refusal="I will not."), delta(finish="stop")), "refused", 1),
    ],
)
def test_what_goes_wrong_has_a_code_and_is_tried_again_only_if_it_can_help(
    ask: Ask,
    turn: Turn,
    code: str,
    requests: int,
) -> None:
    with model_server(turn) as server:
        done = ask(server, PATIENT, max_attempts=2)
        assert len(server.requests) == requests
    if code in FINAL_FAILURES:
        assert (done["status"], done["failure"]["code"]) == ("failed", code)
    else:
        assert done["status"] == "queued", "another attempt may do better"
        assert "mission.retrying" in events(done["mission_id"])


@pytest.mark.parametrize(
    "turn", [fails(429), fails(500), fails(503), cut("half an "), streams(delta("x"), {"error": {"message": "busy"}})]
)
def test_what_passes_leaves_no_trace_in_the_answer(home: Home, ask: Ask, turn: Turn) -> None:
    with model_server(turn, turn, says("the whole answer")) as server:
        done = ask(server, PATIENT)
        assert len(server.requests) == 3
    assert done["status"] == "completed", done["failure"]
    assert products(home, done) == {"response.md": b"the whole answer"}
    assert "trying again" in log(home, done)


def test_without_retries_there_are_none(home: Home, ask: Ask) -> None:
    with model_server(cut("half an "), says("never asked for")) as server:
        done = ask(server, "max_retries = 0")
        assert len(server.requests) == 1
    assert done["failure"]["message"] == "The endpoint's answer broke off in the middle (1 requests were made)"
    assert products(home, done) == {"response.md": b"half an "}, "what there was is kept"


def in_one_second() -> str:
    # A date has whole seconds; two of them so that at least one is left.
    return format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)


@pytest.mark.parametrize(
    ("retry_after", "at_least_seconds"), [(lambda: "0.4", 0.4), (lambda: "1", 1.0), (in_one_second, 0.9)]
)
def test_the_wait_that_is_asked_for_is_kept(
    ask: Ask,
    retry_after: Callable[[], str],
    at_least_seconds: float,
) -> None:
    def busy(handler: object) -> None:
        fails(429, Retry_After=retry_after())(handler)  # type: ignore[arg-type]

    with model_server(busy, says("ok")) as server:
        done = ask(server)
    assert done["status"] == "completed"
    first, second = server.requests
    assert second.at - first.at >= at_least_seconds


def test_a_wait_beyond_the_profiles_limit_fails_at_once(ask: Ask) -> None:
    with model_server(fails(429, Retry_After="3600"), says("never asked for")) as server:
        done = ask(server)
        assert len(server.requests) == 1
    assert done["failure"]["code"] == "rate_limited"
    assert "asks to wait 3600 s, max_retry_wait_seconds is 60" in done["failure"]["message"]


ABSURD_DATES = [f"Wed, 21 Oct {year} 07:28:00 GMT" for year in ("99999", "9" * 30)]


@pytest.mark.parametrize("value", ["soon", "-5", "Wed, 99 Foo 2026", "nan", *ABSURD_DATES])
def test_a_wait_that_makes_no_sense_is_no_reason_to_fail(ask: Ask, value: str) -> None:
    with model_server(fails(503, Retry_After=value), says("ok")) as server:
        assert ask(server, PATIENT)["status"] == "completed"


def test_a_refused_key_is_told_as_that_though_the_explanation_never_comes(ask: Ask) -> None:
    def stalls(handler: Any) -> None:
        handler.begin(401, "application/json")
        handler.wfile.write(b'{"error": ')
        handler.wfile.flush()
        handler.server.model.release.wait(60)

    with model_server(stalls) as server:
        done = ask(server, "timeout_seconds = 0.3\n" + PATIENT, max_attempts=2)
        server.release.set()
        assert len(server.requests) == 1
    assert (done["status"], done["failure"]["code"]) == ("failed", "auth")


def test_a_silent_endpoint_is_asked_again(home: Home, ask: Ask) -> None:
    with model_server(stalls_after("half "), says("whole")) as server:
        done = ask(server, "timeout_seconds = 0.3\n" + PATIENT)
    assert done["status"] == "completed", done["failure"]
    assert products(home, done) == {"response.md": b"whole"}
    assert "silent for 0.3 s" in log(home, done)


def test_an_endpoint_that_is_not_there_is_named(ask: Ask) -> None:
    with model_server(says("ok")) as server:
        address = server.base_url
    done = ask(ModelServer(address), PATIENT)
    assert done["failure"]["code"] == "executor_error"
    assert f"No connection to {address}" in done["failure"]["message"]


def test_a_redirect_is_not_followed_so_the_key_stays_here(ask: Ask) -> None:
    with model_server(says("stolen")) as elsewhere:
        with model_server(fails(307, Location=f"{elsewhere.base_url}/chat/completions")) as server:
            done = ask(server, 'api_key_env = "THE_KEY"')
        assert elsewhere.requests == []
    assert done["failure"]["code"] == "executor_unavailable"


def test_a_line_without_end_is_not_collected(ask: Ask) -> None:
    def endless(handler: object) -> None:
        handler.begin(200, "text/event-stream")  # type: ignore[attr-defined]
        handler.wfile.write(b"data: ")  # type: ignore[attr-defined]
        for _ in range(100):
            handler.wfile.write(b"x" * 100_000)  # type: ignore[attr-defined]

    with model_server(endless) as server:
        done = ask(server, "max_answer_bytes = 1000")
    assert done["failure"]["code"] == "output_limit"
