"""Secrets never come out, however the stream is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vp_queue.worker.redaction import REDACTED, Redactor, redacted

SHOWN = REDACTED.encode()


def stream(secrets: list[str], chunks: list[bytes]) -> bytes:
    redactor = Redactor(sorted(secrets, key=len, reverse=True))
    return b"".join([*(redactor.feed(chunk) for chunk in chunks), redactor.rest()])


@pytest.mark.parametrize(
    ("secrets", "chunks", "shown"),
    [
        (["secret"], [b"a secret b"], b"a " + SHOWN + b" b"),
        (["secret"], [b"a sec", b"ret b"], b"a " + SHOWN + b" b"),
        (["secret"], [b"s", b"e", b"c", b"r", b"e", b"t"], SHOWN),
        (["secret"], [b"a sec", b"ond b"], b"a second b"),
        (["abc123", "abc123xyz"], [b"-abc123", b"xyz-"], b"-" + SHOWN + b"-"),
        (["abc123", "abc123xyz"], [b"-abc123", b"-"], b"-" + SHOWN + b"-"),
        (["abc123", "3zzzzzz"], [b"-abc123", b"-"], b"-" + SHOWN + b"-"),
        (["abc123"], [b"-abc123"], b"-" + SHOWN),
        ([], [b"anything"], b"anything"),
    ],
)
def test_a_secret_cut_in_two_is_redacted_and_ordinary_text_passes(
    secrets: list[str], chunks: list[bytes], shown: bytes
) -> None:
    assert stream(secrets, chunks) == shown


def test_ordinary_output_is_not_held_back() -> None:
    assert Redactor(["secret"]).feed(b"hello\n") == b"hello\n"


@given(st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.lists(st.text("abcd", max_size=5), max_size=8))
def test_no_chunking_lets_a_secret_out(secrets: list[str], chunks: list[str]) -> None:
    shown = stream(secrets, [chunk.encode() for chunk in chunks]).replace(SHOWN, b"|")
    for secret in secrets:
        assert secret.encode() not in shown


def test_of_two_secrets_the_longer_is_blotted_out_whole() -> None:
    assert redacted("x abc123xyz", ("abc123xyz", "abc123")) == f"x {REDACTED}"
