"""Who may ask the web face for what: each rule over every route there is, so that no new one is forgotten.

The gate stands here in front of an application that only notes what reaches it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import anyio
import httpx
import pytest
from starlette.routing import Mount, Route

from tests import mutants
from vp_queue.web import access, app, sessions

TOKEN = "0123456789abcdef-the-token"
OWN = "http://127.0.0.1:8787"
OPEN = {"/healthz", "/readyz", "/login", "/static/app.css"}
CHANGES_NOTHING = {"/login", "/logout"}
PROGRAMS_ASK = ("/api/", "/mcp", "/metrics")


class Asked(NamedTuple):
    method: str
    path: str

    @property
    def changes(self) -> bool:
        return self.method not in ("GET", "HEAD", "OPTIONS")


def asked() -> list[Asked]:
    """Every method of every route."""
    found = []
    for route in app.face(token=TOKEN).routes:
        if isinstance(route, Mount):
            found += [Asked("GET", f"{route.path}/app.css")]
            continue
        assert isinstance(route, Route), f"{route} is of a kind that this test does not know"
        path = route.path
        for name in route.param_convertors:
            path = path.replace(f"{{{name}:path}}", "a/b.txt").replace(f"{{{name}}}", "m-0mdq3v8k2f-7x0k3w9c2h1")
        found += [Asked(method, path) for method in sorted(route.methods or {"GET", "POST", "DELETE"})]
    return found


ASKED = asked()
CHANGES = [each for each in ASKED if each.changes]


class Gate:
    """A gate, what reached the application behind it, and the sessions it knows."""

    def __init__(self, *, read_only: bool = False) -> None:
        self.reached: list[dict[str, Any]] = []
        self.sessions = app.Sessions(TOKEN)  # which a mutant may have replaced
        self._gate = access.Gate(
            self._behind, token=TOKEN, sessions=self.sessions, hosts=["127.0.0.1", "localhost"], read_only=read_only
        )

    async def _behind(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        self.reached.append({**scope["state"], "body": body})
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def ask(self, each: Asked, *, bearer: str | None = None, cookie: str | None = None, **more: Any) -> httpx.Response:
        headers = {"accept": "application/json", **more.pop("headers", {})}
        if bearer is not None:
            headers["authorization"] = f"Bearer {bearer}"
        if cookie is not None:
            headers["cookie"] = f"vp_session={cookie}"

        async def one() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._gate)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url=OWN) as client:
                return await client.request(each.method, each.path, headers=headers, **more)

        answer = anyio.run(one)
        for name, value in access.HEADERS.items():
            assert answer.headers[name] == value, (each, name)
        return answer

    def passes(self, each: Asked, **how: Any) -> None:
        before = len(self.reached)
        answer = self.ask(each, **how)
        assert answer.status_code == 204, (each, how, answer.text)
        assert len(self.reached) == before + 1

    def refuses(self, each: Asked, status: int, **how: Any) -> httpx.Response:
        before = len(self.reached)
        answer = self.ask(each, **how)
        assert answer.status_code == status, (each, how, answer.text)
        assert len(self.reached) == before, (each, how)
        if each.method != "HEAD" and status != 303:
            assert answer.json()["error"]["message"]
        return answer


def hosts_and_origins() -> None:
    gate = Gate()
    for each in ASKED:
        for host in ("evil.example", "127.0.0.1.evil.example", "", "[::1].evil.example", "localhost:evil"):
            gate.refuses(each, 403, bearer=TOKEN, headers={"host": host})
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "https://localhost:8787", ""):
            gate.refuses(each, 403, bearer=TOKEN, headers={"origin": origin})
        gate.passes(each, bearer=TOKEN, headers={"origin": OWN})
        gate.passes(each, bearer=TOKEN, headers={"host": "LocalHost:9", "origin": "https://localhost:9"})
    for each in CHANGES:
        for site in ("cross-site", "same-site", ""):
            gate.refuses(each, 403, bearer=TOKEN, headers={"sec-fetch-site": site})
        for site in ("same-origin", "none"):
            gate.passes(each, bearer=TOKEN, headers={"sec-fetch-site": site})


def tokens() -> None:
    gate = Gate()
    for each in ASKED:
        gate.passes(each, bearer=TOKEN)
        if each.path in OPEN:
            gate.passes(each)
            continue
        for wrong in (None, "", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), f"{TOKEN} x"):
            refused = gate.refuses(each, 401, bearer=wrong)
            assert refused.headers["www-authenticate"] == "Bearer"
        gate.refuses(each, 401, headers={"authorization": f"Basic {TOKEN}"})
        asked, looks = Asked(each.method, f"{each.path}?a=b&c=%26"), {"accept": "text/html,*/*"}
        if each.method != "GET" or each.path.startswith(PROGRAMS_ASK):
            gate.refuses(asked, 401, headers=looks)
            continue
        led = gate.refuses(asked, 303, headers=looks)
        assert led.headers["location"] == f"/login?next={quote(f'{each.path}?a=b&c=%26', safe='/')}"
        # The login page would take the place of what the page's script asked for.
        gate.refuses(asked, 401, headers={**looks, "hx-request": "true"})


def cookies() -> None:
    gate = Gate()
    value, session = gate.sessions.start()
    version, expires, nonce, mac = value.split(".")
    later, other = str(int(expires) + 1), "A" * len(nonce)
    forged = [f"{version}.{later}.{nonce}.{mac}", f"{version}.{expires}.{other}.{mac}", f"v2.{expires}.{nonce}.{mac}"]
    forged += [
        value[:-1],
        value[:-64] + "0" * 64,
        value + "0",
        "",
        "x",
        f"{value}.x",
        sessions.Sessions("x" * 20).start()[0],
    ]
    for each in (each for each in ASKED if each.path not in OPEN):
        for wrong in forged:
            gate.refuses(each, 401, cookie=wrong)
        gate.refuses(each, 401, cookie=value, bearer="wrong")  # who shows a token is judged by it
        if each.path == "/mcp":
            gate.refuses(each, 401, cookie=value, headers={"x-csrf-token": session.csrf_token})
        elif not each.changes:
            gate.passes(each, cookie=value)
            assert gate.reached[-1]["csrf_token"] == session.csrf_token
    gate.sessions.end(session)
    gate.refuses(Asked("GET", "/api/v1/vps"), 401, cookie=value)


def csrf_tokens() -> None:
    gate = Gate()
    value, session = gate.sessions.start()
    _, other = gate.sessions.start()
    form = {"content-type": "application/x-www-form-urlencoded"}
    for each in (each for each in CHANGES if each.path not in ("/login", "/mcp")):
        gate.refuses(each, 403, cookie=value)
        for wrong in ("", "x", other.csrf_token, session.nonce, session.csrf_token[:-1]):
            gate.refuses(each, 403, cookie=value, headers={"x-csrf-token": wrong})
            gate.refuses(each, 403, cookie=value, content=f"csrf_token={wrong}", headers=form)
            gate.refuses(
                each,
                403,
                cookie=value,
                content=f"csrf_token={session.csrf_token}",
                headers={**form, "x-csrf-token": wrong},
            )
        twice = f"csrf_token={session.csrf_token}&csrf_token={other.csrf_token}"
        gate.refuses(each, 403, cookie=value, content=twice, headers=form)
        as_text = {"content-type": "text/plain"}  # which another site's form may send
        gate.refuses(each, 403, cookie=value, content=f"csrf_token={session.csrf_token}", headers=as_text)
        gate.passes(each, cookie=value, headers={"x-csrf-token": session.csrf_token})
        body = f"reason=a%26b&csrf_token={session.csrf_token}"
        gate.passes(each, cookie=value, content=body, headers=form)
        assert gate.reached[-1]["body"] == body.encode()  # which the application reads in its turn
        gate.passes(each, bearer=TOKEN)


def read_only() -> None:
    gate = Gate(read_only=True)
    value, session = gate.sessions.start()
    for each in ASKED:
        if each.changes and each.path not in CHANGES_NOTHING:
            refused = gate.refuses(each, 403, bearer=TOKEN)
            assert "read-only" in refused.json()["error"]["message"]
            if each.path != "/mcp":
                gate.refuses(each, 403, cookie=value, headers={"x-csrf-token": session.csrf_token})
        else:
            gate.passes(each, bearer=TOKEN)
            assert gate.reached[-1]["read_only"]


RULES: list[tuple[Callable[[], None], str]] = [
    (hosts_and_origins, "answers-any-host-and-origin"),
    (tokens, "takes-any-token"),
    (cookies, "takes-any-cookie"),
    (csrf_tokens, "takes-changes-without-csrf-token"),
    (read_only, "forgets-what-read-only-means"),
]


def test_the_routes_are_those_of_the_contract() -> None:
    api = {f"{each.method} {each.path}" for each in ASKED if each.method != "HEAD" and each.path.startswith("/api/")}
    mission = "/api/v1/missions/m-0mdq3v8k2f-7x0k3w9c2h1"
    vp = "/api/v1/vps/m-0mdq3v8k2f-7x0k3w9c2h1"
    assert api == {
        "GET /api/v1/missions",
        "POST /api/v1/missions",
        f"GET {mission}",
        f"POST {mission}/cancel",
        f"POST {mission}/retry",
        f"GET {mission}/wait",
        f"GET {mission}/events",
        f"GET {mission}/artifacts",
        f"GET {mission}/artifacts/a/b.txt",
        f"GET {mission}/log",
        "GET /api/v1/events",
        "GET /api/v1/vps",
        f"POST {vp}/pause",
        f"POST {vp}/drain",
        f"POST {vp}/resume",
        "GET /api/v1/overview",
        "GET /api/v1/openapi.json",
    }
    assert {each.path for each in ASKED} >= {"/", "/healthz", "/readyz", "/metrics", "/mcp", "/login", "/logout"} - {
        "/"
    }


@pytest.mark.parametrize("rule", [rule for rule, _ in RULES])
def test_every_route_keeps_the_rule(rule: Callable[[], None]) -> None:
    rule()


@pytest.mark.parametrize(("rule", "guard"), RULES)
def test_control_without_its_guard_the_rule_is_broken(rule: Callable[[], None], guard: str) -> None:
    with mutants.removed(guard), pytest.raises(AssertionError):
        rule()


def test_a_body_may_have_two_mebibytes_whether_or_not_it_says_how_long_it_is() -> None:
    gate, each = Gate(), Asked("POST", "/api/v1/missions")
    gate.passes(each, bearer=TOKEN, content=b"x" * access.BODY_BYTES)

    async def pieces() -> Any:
        for _ in range(3):
            yield b"x" * (access.BODY_BYTES // 2)

    for content in (b"x" * (access.BODY_BYTES + 1), pieces()):
        refused = gate.refuses(each, 413, bearer=TOKEN, content=content)
        assert refused.json()["error"]["code"] == "limit_exceeded"
    gate.refuses(Asked("POST", "/login"), 413, content=b"x" * (access.LOGIN_BODY_BYTES + 1))
    gate.refuses(each, 401, content=b"x" * (access.BODY_BYTES + 1))  # nothing is read for a stranger


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "BODY_SECONDS", 0.05)

    async def never() -> Any:
        yield b"x"
        await anyio.sleep_forever()

    Gate().refuses(Asked("POST", "/api/v1/missions"), 408, bearer=TOKEN, content=never())


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """How far the clock has gone on, in seconds."""
    from datetime import timedelta

    from vp_queue import clock

    gone = [0.0]

    class Later(clock.SystemClock):
        def now(self) -> Any:
            return super().now() + timedelta(seconds=gone[0])

        def monotonic(self) -> float:
            return super().monotonic() + gone[0]

    with clock.use(Later()):
        yield gone


def test_a_session_lasts_twelve_hours_outlives_the_server_and_ends_with_the_token(frozen: list[float]) -> None:
    value, session = sessions.Sessions(TOKEN).start()
    restarted = sessions.Sessions(TOKEN)
    assert restarted.find(value) == session
    assert sessions.Sessions(TOKEN + "2").find(value) is None
    frozen[0] = 12 * 3_600 - 2
    assert restarted.find(value) == session
    frozen[0] = 12 * 3_600 + 2
    assert restarted.find(value) is None
    assert not restarted.holds(session)


def test_after_ten_wrong_tokens_in_a_minute_the_next_is_told_to_wait(frozen: list[float]) -> None:
    known = sessions.Sessions(TOKEN)
    for _ in range(sessions.WRONG_LOGINS):
        assert known.refuses_for() == 0
        assert not known.is_token("wrong")
    assert 59 < known.refuses_for() <= 60
    frozen[0] = 61
    assert known.refuses_for() == 0
    assert known.is_token(TOKEN)
    assert known.refuses_for() == 0


Sent = Callable[[Any], Awaitable[None]]


def test_nothing_but_http_comes_past_the_gate() -> None:
    gate, sent = Gate(), []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def test() -> None:
        await gate._gate({"type": "websocket", "headers": [(b"host", b"localhost")]}, receive, send)

    anyio.run(test)
    assert sent == [{"type": "websocket.close"}]
    assert not gate.reached
