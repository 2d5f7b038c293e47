"""A browser's session: a cookie that proves, by itself, that its bearer had the token.

Nothing is stored: a cookie names when it ends and carries a MAC made with a key that follows from the token. A
restarted server knows it, and another token ends all of them. Only what was logged out is remembered, in memory.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import deque
from dataclasses import dataclass
from typing import Final

from vp_queue import clock

COOKIE: Final = "vp_session"
LASTS_SECONDS: Final = 12 * 3_600
REVOKED_KEPT: Final = 10_000
WRONG_LOGINS: Final = 10
WRONG_LOGINS_SECONDS: Final = 60.0
_FORM: Final = re.compile(r"(v1)\.([0-9]{1,12})\.([A-Za-z0-9_-]{16,64})\.([0-9a-f]{64})")


@dataclass(frozen=True)
class Session:
    """A session that holds.

    Attributes:
        nonce: what tells it from others.
        expires: seconds since 1970.
        csrf_token: what a change from one of its pages must carry.
    """

    nonce: str
    expires: int
    csrf_token: str


class Sessions:
    """What one token's sessions are judged by."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._key = hmac.digest(self._token, b"vp-queue web session", hashlib.sha256)
        self._revoked: dict[str, int] = {}
        self._wrong: deque[float] = deque(maxlen=WRONG_LOGINS)

    def start(self) -> tuple[str, Session]:
        """A new session, and its cookie's value."""
        expires, nonce = int(clock.now().timestamp()) + LASTS_SECONDS, secrets.token_urlsafe(24)
        return f"v1.{expires}.{nonce}.{self._mac(f'v1.{expires}.{nonce}')}", self._session(nonce, expires)

    def find(self, value: str) -> Session | None:
        """The session of a cookie; None: it is none of ours, is over, or was logged out."""
        found = _FORM.fullmatch(value)
        if found is None or not hmac.compare_digest(found[4], self._mac(value.rpartition(".")[0])):
            return None
        session = self._session(found[3], int(found[2]))
        return session if self.holds(session) else None

    def holds(self, session: Session) -> bool:
        """Whether a session is neither over nor logged out."""
        return session.nonce not in self._revoked and clock.now().timestamp() < session.expires

    def end(self, session: Session) -> None:
        """Log a session out; until this server ends, its cookie is worth nothing."""
        now = clock.now().timestamp()
        self._revoked = {nonce: expires for nonce, expires in self._revoked.items() if expires > now}
        while len(self._revoked) >= REVOKED_KEPT:
            del self._revoked[next(iter(self._revoked))]
        self._revoked[session.nonce] = session.expires

    def is_token(self, given: str) -> bool:
        """Whether this is the token; a wrong one counts."""
        if hmac.compare_digest(given.encode("utf-8", "replace"), self._token):
            return True
        self._wrong.append(clock.monotonic())
        return False

    def refuses_for(self) -> float:
        """For how many seconds another wrong login is told to wait, after too many of them; 0: it is not."""
        if len(self._wrong) < WRONG_LOGINS:
            return 0.0
        return max(0.0, self._wrong[0] + WRONG_LOGINS_SECONDS - clock.monotonic())

    def _session(self, nonce: str, expires: int) -> Session:
        return Session(nonce, expires, self._mac(f"csrf.{nonce}"))

    def _mac(self, text: str) -> str:
        return hmac.digest(self._key, text.encode(), hashlib.sha256).hex()


def is_csrf_token(session: Session, given: str) -> bool:
    """Whether a change comes from a page of this session."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), session.csrf_token.encode())
