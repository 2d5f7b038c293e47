"""Tells an event over HTTP: one signed POST, no redirect followed, all of it within one time limit.

Signed as https://www.standardwebhooks.com has it: HMAC-SHA256 over ``id.timestamp.body``. The timestamp is that of the
attempt, so that a receiver may refuse what is old and yet take what is tried again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import html
import logging
import threading
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx

from vp_queue import __version__, clock
from vp_queue.config_notify import Notify
from vp_queue.contracts.addresses import is_loopback
from vp_queue.contracts.retries import retry_after_seconds
from vp_queue.keeper.notice import CONTENT_TYPE, Notice
from vp_queue.keeper.outcomes import Again, Given, Outcome, Refused, shown

# It would log each whole address, whose path may be a secret.
logging.getLogger("httpx").setLevel(logging.WARNING)

PREFIX: Final = "whsec_"
LEAST_KEY_BYTES: Final = 24  # as the specification has it
ANSWER_BYTES: Final = 16 * 1024
EXPLANATION_CHARS: Final = 200
# The request is wrong now and will be as wrong later; these are the exceptions (RFC 9110, 8470, 6585).
PASSING_STATUSES: Final = (408, 425, 429)


class UnfitKey(ValueError):
    """The key cannot sign anything; says why, and never what it is."""


def signing_key(variable: str, environ: Mapping[str, str]) -> bytes:
    """The key that a variable holds: ``whsec_`` and base64, or any text.

    Raises:
        UnfitKey: there is none, or it is too short.
    """
    text = environ.get(variable, "")
    if not text:
        raise UnfitKey(f"{variable} is not set in the keeper's environment")
    key = text.encode("utf-8", "surrogateescape")
    if text.startswith(PREFIX):
        try:
            key = base64.b64decode(key[len(PREFIX) :], validate=True)
        except binascii.Error:
            raise UnfitKey(f"{variable} begins with {PREFIX}, but the rest is not base64") from None
    if len(key) < LEAST_KEY_BYTES:
        raise UnfitKey(f"{variable} holds {len(key)} bytes; a key has {LEAST_KEY_BYTES} or more")
    return key


def signed_headers(notice: Notice, key: bytes) -> dict[str, str]:
    """The headers that go with a body, as of now."""
    timestamp = int(clock.now().timestamp())
    digest = hmac.new(key, f"{notice.id}.{timestamp}.".encode() + notice.body, hashlib.sha256).digest()
    return {
        "Content-Type": CONTENT_TYPE,
        "User-Agent": f"vp-queue/{__version__}",
        "webhook-id": notice.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


class Webhook:
    """One address; what it is asked goes through here, one request at a time."""

    def __init__(self) -> None:
        self._last: threading.Thread | None = None

    def send(self, notify: Notify, notice: Notice, environ: Mapping[str, str]) -> Outcome:
        """Send a notice once.

        A receiver that sends one byte at a time would hold a request as long as it likes, since the library's limits
        are for each read; and a name may take minutes to be looked up. So the request has a thread of its own, which is
        left alone when the time is up; while it lives there is no other.
        """
        try:
            headers = signed_headers(notice, signing_key(notify.secret_env, environ))
        except UnfitKey as error:
            return Again(f"not sent: {error}")
        if self._last is not None and self._last.is_alive():
            return Again("the request before this one still has no end; the receiver is very slow")
        found: list[Outcome] = []
        request = threading.Thread(
            target=lambda: found.append(_post(notify, notice, headers)), name="webhook", daemon=True
        )
        self._last = request
        request.start()
        request.join(notify.timeout_seconds)
        return found[0] if found else Again(f"no answer within {notify.timeout_seconds:g} s")


def _post(notify: Notify, notice: Notice, headers: Mapping[str, str]) -> Outcome:
    # A proxy that the environment names would get what is meant for this machine.
    proxies = not is_loopback(notify.url)
    try:
        with (
            httpx.Client(timeout=notify.timeout_seconds, follow_redirects=False, trust_env=proxies) as client,
            client.stream("POST", notify.url, content=notice.body, headers=dict(headers)) as response,
        ):
            return _judged(response, notify.url)
    except httpx.TimeoutException:
        return Again(f"no answer within {notify.timeout_seconds:g} s")
    # ImportError: the environment names a SOCKS proxy, and the package for it is not installed.
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ImportError) as error:
        return Again(f"no connection: {shown(str(error) or type(error).__name__)}")


def _judged(response: httpx.Response, url: str) -> Outcome:
    status = response.status_code
    if response.is_success:
        return Given()
    said = f"the receiver answered {status}{_explanation(response, url)}"
    if status >= 500 or status in PASSING_STATUSES:
        return Again(said, retry_after_seconds(response.headers.get("retry-after")))
    if 300 <= status < 400:
        return Refused(f"the receiver answered {status}, a redirect, which is not followed; correct url")
    return Refused(said)


def _explanation(response: httpx.Response, url: str) -> str:
    """The beginning of what it says; as much as is there, bounded, and without the address, which many repeat."""
    raw = b""
    try:
        for piece in response.iter_raw():
            raw += piece
            if len(raw) >= ANSWER_BYTES:
                break
    except httpx.HTTPError:
        pass  # the status is known, however the explanation breaks off
    said = raw[:ANSWER_BYTES].decode("utf-8", "replace")
    parts = urlsplit(url)
    for secret in (parts.path, unquote(parts.path), parts.query, unquote(parts.query)):
        if len(secret) > 1:
            said = said.replace(secret, "…").replace(html.escape(secret), "…")
    text = shown(said, EXPLANATION_CHARS)
    return f": {text}" if text else ""
