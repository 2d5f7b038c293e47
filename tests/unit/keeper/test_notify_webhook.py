"""What each answer of a receiver means, against a real one that plays what real ones do on bad days."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from tests import receiver
from tests.receiver import KEY, KEY_BYTES, VARIABLE, Receiver, Turn, drip, flood, listening, stall, status
from vp_queue.config_notify import Notify
from vp_queue.contracts.retries import backoff_seconds, retry_after_seconds
from vp_queue.keeper.notice import test_notice as a_notice
from vp_queue.keeper.notify_webhook import UnfitKey, Webhook, signing_key
from vp_queue.keeper.outcomes import Again, Given, Outcome, Refused

ENVIRONMENT = {VARIABLE: KEY}


@pytest.fixture
def hooked() -> Iterator[Receiver]:
    with listening(Receiver()) as made:
        yield made


def told(
    hooked: Receiver, turn: Turn, timeout_seconds: float = 30, environment: dict[str, str] = ENVIRONMENT
) -> Outcome:
    hooked.script = (turn,)
    notify = Notify(url=hooked.url, secret_env=VARIABLE, timeout_seconds=timeout_seconds)
    return Webhook().send(notify, a_notice("vp.general.primary"), environment)


@pytest.mark.parametrize("code", [200, 202, 204])
def test_any_success_is_told(hooked: Receiver, code: int) -> None:
    assert told(hooked, status(code)) == Given()
    assert [each.signed for each in hooked.received] == [True]


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(hooked: Receiver, code: int) -> None:
    assert told(hooked, status(code)) == Again(f"the receiver answered {code}")


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 413, 422])
def test_what_will_not_change_is_given_up_at_once(hooked: Receiver, code: int) -> None:
    assert told(hooked, status(code, b" No.\n")) == Refused(f"the receiver answered {code}: No.")


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(hooked: Receiver, code: int) -> None:
    outcome = told(hooked, status(code, Location=f"http://127.0.0.1:{hooked.port}/elsewhere"))
    assert isinstance(outcome, Refused)
    assert "redirect" in outcome.error
    assert len(hooked.received) == 1


def test_retry_after_is_handed_on(hooked: Receiver) -> None:
    assert told(hooked, status(429, Retry_After="17")) == Again("the receiver answered 429", 17.0)


@pytest.mark.parametrize("turn", [stall, drip], ids=["silent", "byte by byte"])
def test_the_time_limit_is_for_all_of_it(hooked: Receiver, turn: Turn) -> None:
    assert told(hooked, turn, timeout_seconds=0.5) == Again("no answer within 0.5 s")


def test_while_a_request_has_no_end_there_is_no_other(hooked: Receiver) -> None:
    hooked.script = (drip,)
    notify = Notify(url=hooked.url, secret_env=VARIABLE, timeout_seconds=0.5)
    webhook = Webhook()
    for _ in range(3):
        assert isinstance(webhook.send(notify, a_notice("vp.x"), ENVIRONMENT), Again)
    assert len(hooked.received) == 1


def test_a_body_without_an_end_is_cut(hooked: Receiver) -> None:
    outcome = told(hooked, flood)
    assert isinstance(outcome, Again)
    assert len(outcome.error) < 300


def test_nobody_there_is_tried_again() -> None:
    with listening(Receiver()) as made:
        pass
    outcome = told(made, status(200))
    assert isinstance(outcome, Again)
    assert receiver.PATH not in outcome.error


def test_what_is_meant_for_this_machine_goes_to_no_proxy(hooked: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(Receiver()) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert told(hooked, status(200)) == Given()
        assert proxy.received == []


def test_an_answer_that_repeats_the_address_is_kept_without_it(hooked: Receiver) -> None:
    outcome = told(hooked, status(404, f"Cannot POST {receiver.PATH}, http://x{receiver.PATH}".encode()))
    assert outcome == Refused("the receiver answered 404: Cannot POST …, http://x…")


def test_a_proxy_that_cannot_be_used_is_said_and_not_called_a_slow_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:1")
    outcome = Webhook().send(
        Notify(url="https://hooks.invalid/path", secret_env=VARIABLE), a_notice("vp.x"), ENVIRONMENT
    )
    assert isinstance(outcome, Again)
    assert outcome.error.startswith("no connection: ")


def test_nothing_is_sent_unsigned(hooked: Receiver) -> None:
    outcome = told(hooked, status(200), environment={})
    assert outcome == Again(f"not sent: {VARIABLE} is not set in the keeper's environment")
    assert hooked.received == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("short", "24 or more"),
        ("whsec_%%%", "not base64"),
        (f"whsec_{base64.b64encode(b'short').decode()}", "24 or more"),
    ],
)
def test_an_unfit_key_is_told_without_saying_what_it_is(text: str, why: str) -> None:
    with pytest.raises(UnfitKey, match=why) as unfit:
        signing_key("HOOK", {"HOOK": text})
    assert "short" not in str(unfit.value)


def test_a_key_is_base64_behind_its_prefix_or_any_text() -> None:
    assert signing_key("HOOK", {"HOOK": KEY}) == KEY_BYTES
    assert signing_key("HOOK", {"HOOK": "x" * 24}) == b"x" * 24


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("3", 3.0), ("-1", 0.0), ("soon", None), ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0)],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header) == seconds


def test_the_back_off_doubles_up_to_its_limit_with_jitter() -> None:
    for failures, most in ((0, 5.0), (1, 10.0), (3, 40.0), (20, 3_600.0), (10_000, 3_600.0)):
        assert most / 2 <= backoff_seconds(5.0, failures, 3_600.0) <= most
