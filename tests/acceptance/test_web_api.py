"""The HTTP API of a real `vp serve`: the tools' own answers, errors with their status, and logging in."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.harness import BIN, CODER, GENERAL, Home, ended, ok, shell, until
from tests.web_server import API, Server, serving
from vp_queue import tools

POEM = {"vp_id": GENERAL, "objective": "a poem"}


@pytest.fixture
def server(home: Home) -> Iterator[Server]:
    with serving(home) as running:
        yield running


@pytest.fixture
def api(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def error(answer: httpx.Response, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["ok"] is False
    assert body["error"]["code"] == code, body
    if field is not None:
        assert body["error"]["details"]["field"] == field, body
    found: dict[str, Any] = body["error"]
    return found


def test_a_mission_from_dispatch_to_its_result(home: Home, api: httpx.Client) -> None:
    asked = {**POEM, "idempotency_key": "one"}
    made = api.post(f"{API}/missions", json=asked)
    assert (made.status_code, made.json()["created"]) == (201, True)
    again = api.post(f"{API}/missions", json=asked)
    assert (again.status_code, again.json()["created"]) == (200, False)
    assert error(api.post(f"{API}/missions", json={**asked, "priority": 1}), 409, "idempotency_conflict")
    mission = f"{API}/missions/{made.json()['mission']['mission_id']}"
    assert api.get(f"{mission}/log").text == ""
    assert api.get(f"{mission}/wait", params={"timeout_seconds": "0"}).json()["timed_out"] is True

    home.consumer()
    waited = api.get(f"{mission}/wait", params={"timeout_seconds": 60}).json()
    assert (waited["timed_out"], waited["mission"]["status"]) == (False, "completed")
    mission_id = waited["mission"]["mission_id"]
    assert api.get(mission).json() == ok(tools.vp_get_mission(mission_id=mission_id))
    assert len(api.get(mission, params={"events_limit": 1}).json()["events"]) == 1
    page = api.get(f"{mission}/events", params={"limit": 2}).json()
    assert [event["type"] for event in page["events"]] == ["mission.dispatched", "mission.started"]
    rest = api.get(f"{mission}/events", params={"after": page["next_after"]}).json()
    assert [event["type"] for event in rest["events"]] == ["mission.completed"]
    assert api.get(f"{mission}/artifacts").json() == ok(tools.vp_read_result_artifacts(mission_id=mission_id))
    assert api.get(f"{mission}/artifacts/poem.md").text == "Roses are red\n"
    assert error(api.post(f"{mission}/retry"), 409, "not_retryable_state")


def test_lists_filter_and_page_by_their_address(api: httpx.Client) -> None:
    made = [shell("true", source_session_id=session)["mission_id"] for session in ("a", "b", "a")]
    coder = shell("true", vp_id=CODER)["mission_id"]
    api.post(f"{API}/missions/{coder}/cancel", json={"reason": "not needed"})

    def ids(**query: Any) -> list[str]:
        answer = api.get(f"{API}/missions", params=query)
        assert answer.status_code == 200, answer.text
        return [mission["mission_id"] for mission in answer.json()["missions"]]

    assert ids() == [coder, *reversed(made)]
    assert ids(status="cancelled") == [coder]
    assert ids(status=["cancelled", "queued"], limit=2) == [coder, made[2]]
    assert ids(vp_id=GENERAL, source_session_id="a") == [made[2], made[0]]
    first = api.get(f"{API}/missions", params={"limit": 3}).json()
    assert ids(cursor=first["next_cursor"]) == [made[0]]
    feed = api.get(f"{API}/events", params={"types": ["mission.cancelled"], "limit": 5}).json()
    assert [event["mission_id"] for event in feed["events"]] == [coder]
    assert api.get(f"{API}/overview").json()["counts"]["queued"] == 3


def test_what_an_address_or_body_says_wrong_is_named(api: httpx.Client) -> None:
    missions = f"{API}/missions"
    error(api.get(missions, params={"limit": "x"}), 422, "validation_error", "limit")
    error(api.get(missions, params={"limit": "0"}), 422, "validation_error", "limit")
    error(api.get(missions, params={"limit": " 5"}), 422, "validation_error", "limit")
    error(api.get(missions, params={"limit": ["1", "2"]}), 422, "validation_error", "limit")
    error(api.get(missions, params={"colour": "red"}), 422, "validation_error", "colour")
    error(api.get(missions, params={"status": "odd"}), 422, "validation_error", "status")
    error(api.get(f"{missions}/m-0mdq3v8k2f-7x0k3w9c2h1"), 404, "mission_not_found")
    error(api.get(f"{missions}/m-0mdq3v8k2f-7x0k3w9c2h1/log"), 404, "mission_not_found")
    error(api.get(f"{missions}/m-0mdq3v8k2f-7x0k3w9c2h1/events"), 404, "mission_not_found")
    error(api.get(f"{missions}/..%2f..%2fetc"), 404, "validation_error")
    error(api.get(f"{missions}/%00"), 422, "validation_error", "mission_id")
    error(api.post(missions, json={**POEM, "vp_id": "vp.nobody"}), 404, "unknown_vp", "vp_id")
    error(api.post(missions, json={**POEM, "priority": "1"}), 422, "validation_error", "priority")
    error(api.post(f"{missions}?vp_id={GENERAL}", json=POEM), 422, "validation_error", "vp_id")
    error(api.post(missions), 422, "validation_error", "vp_id")
    json_type = {"content-type": "application/json"}
    half = b'{"vp_id": "vp.general.primary", "objective": "half of an emoji: \\ud83d"}'
    error(api.post(missions, content=half, headers=json_type), 422, "validation_error", "objective")
    for body in (b"{", b"[]", b"\xff", b"nul", b'{"vp_id": NaN}', b"[" * 100_000, b"1" * 5_000, b'"\xed\xa0\x80"'):
        error(api.post(missions, content=body, headers=json_type), 422, "validation_error")
    twice = b'{"vp_id": "a", "objective": "x", "vp_id": "vp.general.primary"}'
    error(api.post(missions, content=twice, headers=json_type), 422, "validation_error", "vp_id")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        refused = api.post(missions, content=json.dumps(POEM), headers={"content-type": kind})
        assert "Content-Type: application/json" in error(refused, 422, "validation_error")["message"]
    assert api.get(missions).json()["missions"] == []


def test_an_address_that_is_none_and_a_method_that_is_not_taken_are_told_alike(
    server: Server, api: httpx.Client
) -> None:
    error(api.get(f"{API}/nothing"), 404, "validation_error")
    refused = api.delete(f"{API}/missions")
    error(refused, 405, "validation_error")
    assert set(refused.headers["allow"].replace(" ", "").split(",")) == {"GET", "HEAD"} or "POST" in refused.text
    assert api.head(f"{API}/vps").status_code == 200
    with server.browser() as browser:
        page = browser.get("/nothing")
        assert page.status_code == 404
        assert "<html" in page.text


def test_pause_drain_and_resume_say_who_did_it(api: httpx.Client) -> None:
    vp = f"{API}/vps/{GENERAL}"
    paused = api.post(f"{vp}/pause", json={"reason": "quota"}).json()
    assert (paused["vp"]["paused"], paused["vp"]["pause_reason"]) == (True, "quota")
    assert api.post(f"{vp}/drain").json()["vp"]["draining"] is True
    resumed = api.post(f"{vp}/resume").json()["vp"]
    assert (resumed["paused"], resumed["draining"]) == (False, False)
    error(api.post(f"{vp}/pause", json={"reason": 5}), 422, "validation_error", "reason")
    error(api.post(f"{vp}/pause", json={"vp_id": CODER}), 422, "validation_error", "vp_id")
    error(api.post(f"{API}/vps/vp.nobody/pause"), 404, "unknown_vp")
    assert api.get(f"{API}/vps").json() == ok(tools.vp_list_vps())
    done = api.get(f"{API}/events", params={"types": ["vp.paused", "vp.draining", "vp.resumed"]}).json()["events"]
    assert [event["data"]["by"]["face"] for event in done] == ["http"] * 3


def test_a_log_is_read_piece_by_piece_and_holds_no_tricks(home: Home, api: httpx.Client) -> None:
    home.consumer()
    script = r"printf 'one\n\033[31mred\033[0m \342\202'; until [ -e go ]; do sleep 0.05; done; printf '\254 end\n'"
    mission_id = shell(script)["mission_id"]
    log = f"{API}/missions/{mission_id}/log"

    def begun() -> httpx.Response | None:
        answer = api.get(log)
        return answer if "red" in answer.text else None

    first = until(begun, "it prints")
    assert first.text == "one\nred "
    assert first.headers["content-type"] == "text/plain; charset=utf-8"
    assert (first.headers["x-attempt"], first.headers["x-log-over"]) == ("1", "false")
    offset = first.headers["x-next-offset"]
    assert api.get(log, params={"offset": offset}).headers["x-next-offset"] == offset  # half a character is waited for
    (home.workspace(mission_id) / "go").touch()
    ended(mission_id)
    rest = api.get(log, params={"offset": offset})
    assert rest.text == "€ end\n"
    assert rest.headers["x-log-over"] == "true"
    error(api.get(log, params={"attempt": 2}), 422, "validation_error", "attempt")
    error(api.get(log, params={"offset": -1}), 422, "validation_error", "offset")


def test_a_browser_logs_in_acts_and_logs_out(server: Server) -> None:
    own = {"origin": server.url.rstrip("/")}
    with httpx.Client(base_url=server.url, headers={"accept": "text/html"}) as browser:
        led = browser.get("/vps?x=1")
        assert (led.status_code, led.headers["location"]) == (303, "/login?next=/vps%3Fx%3D1")
        assert 'value="/vps?x=1"' in browser.get(led.headers["location"]).text
        refused = browser.post("/login", data={"token": "wrong", "next": "/vps"}, headers=own)
        assert refused.status_code == 401
        assert "not the token" in refused.text
        entered = browser.post("/login", data={"token": f" {server.token}\n", "next": "/vps?x=1"}, headers=own)
        assert (entered.status_code, entered.headers["location"]) == (303, "/vps?x=1")
        told = entered.headers["set-cookie"].lower()
        assert all(each in told for each in ("httponly", "samesite=strict", "path=/", "max-age=43200"))
        assert "secure" not in told
        page = browser.get("/vps")
        assert page.status_code == 200
        token = page.text.split('name="csrf_token" value="')[1].split('"')[0]
        assert browser.get(f"{API}/vps").status_code == 200
        error(browser.post(f"{API}/vps/{GENERAL}/pause", headers={"accept": "*/*"}), 403, "unauthorized")
        assert browser.post(f"{API}/vps/{GENERAL}/pause", headers={"x-csrf-token": token}).status_code == 200
        cookie = browser.cookies["vp_session"]
        assert browser.post("/logout", data={"csrf_token": token}, headers=own).headers["location"] == "/login"
        assert browser.get("/vps").status_code == 303
        browser.cookies.set("vp_session", cookie)  # kept by somebody
        assert browser.get("/vps").status_code == 303


ELSEWHERE = (
    *("//evil.example", "https://evil.example", "/\\evil.example", "/\t/evil.example", "evil", "", "/\r\nX: 1"),
    *("//[", "///evil.example", "/\x00"),
)


def test_a_login_leads_nowhere_else(server: Server) -> None:
    for elsewhere in ELSEWHERE:
        entered = httpx.post(f"{server.url}login", data={"token": server.token, "next": elsewhere})
        assert (entered.status_code, entered.headers["location"]) == (303, "/"), elsewhere
        assert httpx.get(f"{server.url}login", params={"next": elsewhere}).status_code == 200


def test_over_tls_the_cookie_is_for_tls_only_and_only_wrong_tokens_wait(server: Server) -> None:
    login, behind = f"{server.url}login", {"x-forwarded-proto": "https"}
    assert "secure" in httpx.post(login, data={"token": server.token}, headers=behind).headers["set-cookie"].lower()
    for _ in range(10):
        error(httpx.post(login, data={"token": "wrong"}), 401, "unauthorized")
    refused = httpx.post(login, data={"token": "wrong"})
    error(refused, 429, "unauthorized")
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert "set-cookie" not in refused.headers
    assert "set-cookie" in httpx.post(login, data={"token": server.token}).headers
    with server.client() as client:
        assert client.get(f"{API}/vps").status_code == 200


def test_health_tells_strangers_names_and_booleans_only(home: Home, server: Server) -> None:
    assert httpx.get(f"{server.url}healthz").json() == {"ok": True}
    missing = httpx.get(f"{server.url}readyz")
    assert missing.status_code == 503
    checks = missing.json()["checks"]
    assert checks["ledger_writable"]
    assert not checks["keeper_alive"]
    assert all(isinstance(each, bool) for each in checks.values())
    assert str(home.path) not in missing.text
    with server.client() as client:
        figures = client.get("/metrics")
        assert figures.headers["content-type"].startswith("text/plain")
        assert "vp_" in figures.text


def test_a_locked_ledger_is_told_with_when_to_try_again(home: Home, api: httpx.Client, server: Server) -> None:
    from vp_queue.ledger import database

    ok(tools.vp_list_vps())
    with database.write_transaction():
        assert httpx.get(f"{server.url}readyz", timeout=30).json()["checks"]["ledger_writable"] is False
        busy = api.post(f"{API}/missions", json=POEM)
        assert api.get(f"{API}/missions").status_code == 200
    error(busy, 503, "ledger_busy")
    assert int(busy.headers["retry-after"]) >= 1


def test_read_only_shows_and_changes_nothing(home: Home) -> None:
    with serving(home, "--read-only") as server, server.client() as api:
        refused = error(api.post(f"{API}/missions", json=POEM), 403, "unauthorized")
        assert "--read-only" in refused["message"]
        assert api.post("/mcp").status_code == 403
        assert api.get("/mcp").status_code == 404
        assert api.get(f"{API}/missions").json()["missions"] == []
        with server.browser() as browser:
            assert "read-only" in browser.get("/vps").text


def test_a_static_file_is_kept_for_good_under_its_version(server: Server) -> None:
    page = httpx.get(f"{server.url}login").text
    address = page.split('href="')[2].split('"')[0]
    file = httpx.get(server.url.rstrip("/") + address)
    assert file.status_code == 200
    assert file.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert httpx.get(f"{server.url}static/app.css").headers["cache-control"] == "no-cache"
    assert httpx.get(f"{server.url}static/../pages.py").status_code in (401, 404)
    assert httpx.get(f"{server.url}static/%2e%2e/pages.py").status_code == 404


def test_mcp_is_served_beside_it(server: Server, api: httpx.Client) -> None:
    from tests.acceptance.test_mcp_http import HEADERS, LIST

    assert len(api.post("/mcp", json=LIST, headers=HEADERS).json()["result"]["tools"]) == 9


def refusal(home: Home, *options: str, **extra: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [str(BIN / "vp"), "serve", "--json", *options],
        env={**home.environment, **extra},
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.returncode, json.loads(done.stdout)["error"]


def test_an_address_that_others_reach_needs_a_flag(home: Home) -> None:
    for host in ("0.0.0.0", "::", "agents.example", "192.0.2.1"):
        code, told = refusal(home, "--host", host, "--port", "0")
        assert (code, told["code"]) == (2, "configuration_error")
        assert "--allow-remote" in told["message"]
    with serving(home, "--host", "0.0.0.0", "--allow-remote", "--allow-host", "agents.example") as server:
        ask = f"http://127.0.0.1:{server.port}/healthz"
        assert httpx.get(ask, headers={"host": "agents.example"}).status_code == 200
        assert httpx.get(ask, headers={"host": "other.example"}).status_code == 403
    code, told = refusal(home, "--host", "0.0.0.0", "--allow-remote", "--port", "0", VP_TOKEN="short")
    assert (code, told["code"]) == (2, "configuration_error")


def test_a_taken_port_is_told_and_the_file_says_where(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        home.configure(web=f"port = {port}")
        code, told = refusal(home)
        assert code == 2
        assert f"cannot listen on 127.0.0.1 port {port}" in told["message"]
    home.configure(web='port = 1\nallowed_hosts = ["agents.example"]\nread_only = true')
    with serving(home) as server:  # whose --port comes first
        answer = httpx.get(f"{server.url}healthz", headers={"host": "agents.example"})
        assert answer.status_code == 200
        with server.client() as api:
            error(api.post(f"{API}/missions", json=POEM), 403, "unauthorized")


def test_it_ends_in_order_and_answers_what_waits(home: Home) -> None:
    import threading

    mission_id = shell("true")["mission_id"]
    with serving(home) as server, server.client() as api:
        answers: list[httpx.Response] = []
        wait = threading.Thread(
            target=lambda: answers.append(api.get(f"{API}/missions/{mission_id}/wait", params={"timeout_seconds": 600}))
        )
        with server.client() as other:
            wait.start()
            for _ in range(20):
                assert other.get(f"{API}/vps").status_code == 200
        assert server.stop() == 0
        wait.join(30)
        assert answers[0].json()["timed_out"] is True
        assert "Traceback" not in server.log.read_text()


def test_a_body_that_is_too_long_is_answered_however_it_comes(server: Server, api: httpx.Client) -> None:
    large = b"x" * (3 * 1024 * 1024)
    json_type = {"content-type": "application/json"}
    for content in (large, iter([large[: len(large) // 2]] * 2)):
        error(api.post(f"{API}/missions", content=content, headers=json_type), 413, "limit_exceeded")
    error(httpx.post(f"{server.url}login", content=large), 413, "limit_exceeded")
    error(api.post("/mcp", content=large), 413, "limit_exceeded")


def test_what_nobody_foresaw_is_an_internal_error_with_an_id_that_stands_in_the_log(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import anyio

    from vp_queue.web import api as routes
    from vp_queue.web import app

    def broken(*_: Any) -> Any:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(routes.arguments, "of_query", broken)
    made = app.face(token="0123456789abcdef")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=made.app, raise_app_exceptions=False)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(f"{API}/vps", headers={"authorization": "Bearer 0123456789abcdef"})

    told = error(anyio.run(ask), 500, "internal_error")
    assert told["details"]["error_id"] in caplog.text
    assert "secret" not in told["message"]
