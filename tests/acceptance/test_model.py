"""Executor ``model`` against a scripted endpoint: what is asked, what becomes of the answer, what is recorded."""

from __future__ import annotations

import atexit
from collections.abc import Callable

import pytest

from tests.harness import GENERAL, Home, ended, events, exited, milliseconds_to_cancel, ok, refused, until
from tests.model_server import (
    KEY,
    Ask,
    Turn,
    answers_whole,
    byte_by_byte,
    configure,
    delta,
    echoes_the_key,
    fails,
    log,
    model_server,
    pause_of,
    products,
    raw,
    says,
    stalls_after,
    streams,
    talks_on,
    usage,
)
from vp_queue import missions, tools
from vp_queue.worker.consumer import MissionWorker

MEGABYTE = "x" * 1_000_000
HELLO = '{"choices": [{"delta": {"content": "héllo"}, "finish_reason": "stop"}]}'


def test_the_answer_becomes_the_artifact_the_mission_asks_for(home: Home, ask: Ask) -> None:
    with model_server(says("Roses are red,\n", "violets are bläu.\n")) as server:
        done = ask(server, metadata={"output": "out/poem.md"}, constraints={"require_artifacts": ["out/poem.md"]})
    assert done["status"] == "completed"
    assert products(home, done) == {"out/poem.md": "Roses are red,\nviolets are bläu.\n".encode()}
    assert done["result"] == "Roses are red,\nviolets are bläu."
    assert done["usage"] == {"input_tokens": 12, "output_tokens": 34, "turns": 1, "cost_usd": None}
    assert "mission.progress" in events(done["mission_id"])
    assert "violets are bläu." in log(home, done)


def test_what_the_endpoint_is_asked(home: Home, ask: Ask) -> None:
    options = """
temperature = 0.25
max_output_tokens = 900
token_limit_field = "max_completion_tokens"
api_key_env = "THE_KEY"
request = {top_p = 0.5}
"""
    files = {"notes/a.txt": "first note"}
    with model_server(says("ok")) as server:
        ask(server, options, objective="Sum up.", constraints={"files": files}, budget={"max_tokens": 500})
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    system, user = request.body.pop("messages")
    assert (system["role"], user["role"]) == ("system", "user")
    assert "response.md" in system["content"]
    assert user["content"] == "Sum up.\n\n## File notes/a.txt\n\nfirst note"
    prompt = len(system["content"]) + len(user["content"])
    assert request.body == {
        "model": "scripted",
        "temperature": 0.25,
        "max_completion_tokens": 500 - prompt // 4,  # the smaller: what the prompt leaves of the budget
        "top_p": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_guidance_of_a_retry_and_a_system_prompt_of_ones_own_reach_the_model(home: Home, ask: Ask) -> None:
    with model_server(fails(400), says("ok")) as server:
        failed = ask(server, 'system = "Be brief."')
        again = ok(tools.vp_retry_mission(mission_id=failed["mission_id"], guidance="In French."))["mission"]
        settings = missions.ready()
        worker = MissionWorker(settings, settings.profile(GENERAL))
        worker.run(again["mission_id"], 1)
        worker.close()
        atexit.unregister(worker.close)
    system, user = server.requests[1].body["messages"]
    assert system["content"] == "Be brief."
    assert "## Guidance\n\nIn French." in user["content"]


def test_prices_give_the_cost_and_the_budget_of_money_limits_the_answer(home: Home, ask: Ask) -> None:
    prices = "input_usd_per_million = 2.0\noutput_usd_per_million = 10.0"
    with model_server(says("ok", tokens=(1_000, 100))) as server:
        done = ask(server, prices, budget={"max_cost_usd": 0.01})
    assert done["usage"]["cost_usd"] == pytest.approx(0.003)
    assert 980 < server.requests[0].body["max_tokens"] < 1_000, "less what the prompt costs"


def test_a_budget_that_is_passed_all_the_same_fails_the_mission_and_keeps_the_answer(home: Home, ask: Ask) -> None:
    with model_server(says("a long answer", tokens=(10, 900))) as server:
        done = ask(server, budget={"max_tokens": 100})
    assert (done["status"], done["failure"]["code"]) == ("failed", "budget_exhausted")
    assert products(home, done) == {"response.md": b"a long answer"}


def test_of_a_long_answer_the_ledger_gets_the_beginning(home: Home, ask: Ask) -> None:
    with model_server(says("word " * 1_000)) as server:
        done = ask(server)
    assert done["result"].startswith("word word")
    assert done["result"].endswith("… (5000 characters in response.md)")
    assert len(done["result"]) < 400


def test_an_answer_that_was_cut_off_says_so(home: Home, ask: Ask) -> None:
    with model_server(says("To be continued", finish="length")) as server:
        done = ask(server)
    assert done["status"] == "completed"
    assert "cut off" in done["result"]


@pytest.mark.parametrize(
    "turn",
    [
        says(*[MEGABYTE] * 10),
        says(MEGABYTE * 10),
        answers_whole(MEGABYTE * 10),
    ],
    ids=["in pieces", "in one line", "not streamed"],
)
def test_ten_megabytes_arrive_whole(home: Home, ask: Ask, turn: Turn) -> None:
    with model_server(turn) as server:
        done = ask(server)
    assert done["status"] == "completed", done["failure"]
    assert products(home, done) == {"response.md": MEGABYTE.encode() * 10}


@pytest.mark.parametrize("turn", [says(*[MEGABYTE] * 3), answers_whole(MEGABYTE * 3), raw(b"x" * 3_000_000)])
def test_more_than_the_profile_takes_is_ended(home: Home, ask: Ask, turn: Turn) -> None:
    with model_server(turn) as server:
        done = ask(server, "max_answer_bytes = 1500000")
    assert (done["status"], done["failure"]["code"]) == ("failed", "output_limit")
    assert sum(map(len, products(home, done).values())) <= 1_500_000


@pytest.mark.parametrize(
    "turn",
    [
        byte_by_byte('data: {"choices":[{"delta":{"content":"héllo"},"finish_reason":"stop"}]}\r\n\r\n'.encode()),
        streams(delta("héllo"), delta(finish="stop")),
        streams(delta("héllo", finish="stop"), "[DONE]"),
        answers_whole("héllo"),
        says("héllo", tokens=None, done=False),
        raw(b'event: x\nid: 1\ndata:{"choices":[{"delta":{"content":"h\\u00e9llo"},"finish_reason":"stop"}]}'),
    ],
    ids=["split in packets", "without [DONE]", "without usage", "not streamed", "neither", "without an empty line"],
)
def test_servers_have_their_own_ways_to_say_hello(home: Home, ask: Ask, turn: Turn) -> None:
    with model_server(turn) as server:
        done = ask(server, "max_retries = 0")
    assert done["status"] == "completed", done["failure"]
    assert products(home, done) == {"response.md": "héllo".encode()}


HOSTILE = ["../x.md", "/tmp/x.md", "", "a//b", ".git/hooks/x", "a/.hidden", "line\nbreak", "x" * 300, "."]
NEVER_COLLECTED = ["__pycache__/a.md", "node_modules/a.md", "a.pyc", "out/a.pyc/b.md"]


@pytest.mark.parametrize("output", [*HOSTILE, *NEVER_COLLECTED])
def test_a_name_that_cannot_become_an_artifact_is_refused_at_dispatch(home: Home, output: str) -> None:
    with model_server(says("ok")) as server:
        configure(home, server)
        answer = tools.vp_dispatch_mission(vp_id=GENERAL, objective="x", metadata={"output": output})
    error = refused(answer, "validation_error")
    assert error["details"]["field"] == "metadata.output"
    assert "Give one such as poem.md" in error["message"]
    assert ok(tools.vp_list_missions())["missions"] == []


@pytest.mark.parametrize(
    ("output", "brought"), [("out/poem.md", "work_products/out"), ("out", "work_products/out/draft.md")]
)
def test_a_name_that_a_file_of_the_mission_stands_in_the_way_of_is_refused(
    home: Home, output: str, brought: str
) -> None:
    with model_server(says("ok")) as server:
        configure(home, server)
        answer = tools.vp_dispatch_mission(
            vp_id=GENERAL, objective="x", metadata={"output": output}, constraints={"files": {brought: "x"}}
        )
    assert refused(answer, "validation_error")["details"]["field"] == "metadata.output"


def test_a_file_that_the_mission_brings_under_that_name_is_replaced_by_the_answer(home: Home, ask: Ask) -> None:
    draft = {"work_products/response.md": "A draft, which is longer than what comes."}
    with model_server(fails(500), says("The better version.")) as server:
        done = ask(server, "max_retry_wait_seconds = 0.1", constraints={"files": draft})
    assert done["status"] == "completed", done["failure"]
    assert products(home, done) == {"response.md": b"The better version."}


def test_a_bad_name_that_is_found_at_the_start_only_is_not_tried_again(home: Home) -> None:
    mission = ok(  # to the executor `command`, which has nothing against it
        tools.vp_dispatch_mission(vp_id=GENERAL, objective="x", metadata={"output": "a.pyc"}, max_attempts=3)
    )["mission"]
    with model_server(says("ok")) as server:
        configure(home, server)
        settings = missions.ready()
        worker = MissionWorker(settings, settings.profile(GENERAL))
        worker.run(mission["mission_id"], 1)
        worker.close()
        atexit.unregister(worker.close)
    done = ok(tools.vp_get_mission(mission_id=mission["mission_id"]))["mission"]
    assert (done["status"], done["failure"]["code"]) == ("failed", "executor_unavailable")
    assert "metadata.output" in done["failure"]["message"]
    assert server.requests == []


def test_a_refusal_is_bounded_as_an_answer_is(ask: Ask) -> None:
    with model_server(streams(*[delta(refusal=MEGABYTE)] * 3, delta(finish="stop"))) as server:
        done = ask(server, "max_answer_bytes = 1500000")
    assert (done["status"], done["failure"]["code"]) == ("failed", "output_limit")


def test_blanks_alone_are_no_answer_and_no_artifact(home: Home, ask: Ask) -> None:
    with model_server(says(" " * 600, "\n" * 600)) as server:
        done = ask(server)
    assert (done["status"], done["failure"]["code"]) == ("failed", "executor_error")
    assert "answered nothing" in done["failure"]["message"]
    assert products(home, done) == {}


def test_text_after_many_blanks_is_the_result(home: Home, ask: Ask) -> None:
    with model_server(says(" " * 600, "\n\nHere it is.")) as server:
        done = ask(server)
    assert (done["status"], done["result"].partition("…")[0]) == ("completed", "Here it is.")
    assert products(home, done) == {"response.md": b" " * 600 + b"\n\nHere it is."}


def test_an_answer_in_parts_is_put_together(home: Home, ask: Ask) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "two"}]
    with model_server(streams(delta(content=parts), delta(finish="stop"))) as server:
        done = ask(server)
    assert products(home, done) == {"response.md": b"one two"}


def test_what_is_meant_for_this_machine_is_given_to_no_proxy(
    ask: Ask, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with model_server(says("from the proxy")) as proxy, model_server(says("from here")) as server:
        for variable in ("HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(variable, proxy.base_url.removesuffix("/v1"))
        done = ask(server, 'api_key_env = "THE_KEY"', profile='env_allow = ["PATH", "HTTP_PROXY", "ALL_PROXY"]')
    assert proxy.requests == []
    assert products(home, done) == {"response.md": b"from here"}


def test_a_repeated_request_is_paid_as_well(ask: Ask) -> None:
    prices = "input_usd_per_million = 1000.0\noutput_usd_per_million = 1000.0"
    broken_off = streams(delta("half"), usage(100, 20), {"error": {"message": "overloaded", "code": 529}})
    with model_server(broken_off, says("whole", tokens=(100, 30))) as server:
        done = ask(server, f"max_retry_wait_seconds = 0.1\n{prices}")
    assert done["status"] == "completed", done["failure"]
    assert done["usage"] == {"input_tokens": 200, "output_tokens": 50, "turns": 2, "cost_usd": pytest.approx(0.25)}


def test_the_answers_limit_is_what_the_prompt_leaves_of_the_budget(ask: Ask) -> None:
    prices = "input_usd_per_million = 1.0\noutput_usd_per_million = 1.0"
    with model_server(says("ok", tokens=(1, 1))) as server:
        ask(server, objective="x" * 4_000, budget={"max_tokens": 5_000})
        ask(server, prices, objective="x" * 4_000, budget={"max_cost_usd": 0.005})
        ask(server, objective="x" * 4_000, budget={"max_tokens": 10})
    by_tokens, by_money, too_little = (request.body["max_tokens"] for request in server.requests)
    assert 3_900 < by_tokens < 4_000
    assert 3_900 < by_money < 4_000
    assert too_little == 1


def test_the_key_is_nowhere_to_be_found(home: Home, ask: Ask) -> None:
    with model_server(echoes_the_key) as server:
        done = ask(server, 'api_key_env = "THE_KEY"')
    assert (done["status"], done["failure"]["code"]) == ("failed", "auth")
    assert "no such key: Bearer [redacted]" in done["failure"]["message"]
    files = [path for path in home.path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_without_the_keys_variable_it_says_which(home: Home, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THE_KEY")
    with model_server(says("ok")) as server:
        done = ask(server, 'api_key_env = "THE_KEY"')
    assert (done["failure"]["code"], server.requests) == ("executor_unavailable", [])
    assert "THE_KEY" in done["failure"]["message"]


def test_a_key_that_no_header_can_hold_is_not_quoted(home: Home, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "half\nofakey")
    with model_server(says("ok")) as server:
        done = ask(server, 'api_key_env = "THE_KEY"')
    assert (done["failure"]["code"], server.requests) == ("auth", [])
    assert "half" not in done["failure"]["message"]


# --- with a real consumer -----------------------------------------------------------------------


@pytest.mark.parametrize("turn", [talks_on, stalls_after("some ", "words ")], ids=["in mid-generation", "in a stall"])
def test_a_cancel_ends_it_at_once_and_keeps_what_there_was(
    home: Home, turn: Turn, record_property: Callable[[str, object], None]
) -> None:
    with model_server(turn) as server:
        configure(home, server)
        consumer = home.consumer()
        mission = ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="Talk."))["mission"]
        until(lambda: server.stalled.is_set() or exited(consumer), "the answer began")
        until(lambda: products(home, mission).get("response.md"), "the text reached the file")
        ok(tools.vp_cancel_mission(mission_id=mission["mission_id"]))
        done = ended(mission["mission_id"])
        assert done["status"] == "cancelled"
        assert server.dropped.wait(10), "the endpoint saw the connection close"
    took = milliseconds_to_cancel(mission["mission_id"])
    record_property("cancel_ms", took)
    assert took < 1_000, "by the events' own times; 26 to 200 ms were measured"
    read = ok(tools.vp_read_result_artifacts(mission_id=mission["mission_id"]))
    assert read["artifacts"][0]["content"].split()[0] in ("word", "some")


def test_a_stall_that_ends_is_waited_for(home: Home) -> None:
    """The negative control of the one above: the same silence, and nobody cancels."""
    with model_server(stalls_after("some ", "words ")) as server:
        configure(home, server)
        home.consumer()
        mission = ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="Talk."))["mission"]
        until(server.stalled.is_set, "the answer began")
        server.release.set()
        assert ended(mission["mission_id"])["status"] == "completed"
    assert products(home, mission) == {"response.md": b"some words the end"}


@pytest.mark.slow
def test_thirty_seconds_of_silence_are_waited_for_and_then_told(home: Home, ask: Ask) -> None:
    """The short ones wait 0.3 s; here the clock is let run."""
    quiet = pause_of(30)
    with model_server(quiet) as server:
        done = ask(server, "timeout_seconds = 60")
    assert done["status"] == "completed", done["failure"]
    assert products(home, done) == {"response.md": b"before, after"}
    assert done["duration_seconds"] >= 30
    with model_server(quiet) as server:
        done = ask(server, "timeout_seconds = 20\nmax_retries = 0")
    assert (done["status"], done["failure"]["code"]) == ("failed", "executor_error")
    assert "silent for 20 s" in done["failure"]["message"]
    assert 20 <= done["duration_seconds"] < 30


def test_a_consumer_that_is_stopped_gives_the_mission_back(home: Home) -> None:
    with model_server(stalls_after("first try"), says("second try")) as server:
        configure(home, server)
        consumer = home.consumer()
        mission = ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="Talk."))["mission"]
        until(server.stalled.is_set, "the answer began")
        consumer.terminate()
        consumer.wait(40)
        home.consumer()
        done = ended(mission["mission_id"])
    assert (done["status"], done["attempt"], done["attempts_charged"]) == ("completed", 2, 1)
    second = home.workspace(mission["mission_id"], attempt=2) / "work_products" / "response.md"
    assert second.read_text() == "second try"
