"""What is short to send or to print is cheap to answer: no text makes the server busy for long, or large."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from starlette.requests import Request

from vp_queue import wording
from vp_queue.contracts.views import ArtifactView
from vp_queue.errors import ValidationError
from vp_queue.web import arguments, forms, previews

SECONDS = 2.0  # hundreds of times what is needed


@pytest.fixture(autouse=True)
def _soon_over() -> Any:
    began = time.process_time()
    yield
    assert time.process_time() - began < SECONDS


@pytest.mark.parametrize("beginning", ["\x1bP", "\x1bX", "\x1b]", "\x1b[", "\x1b[0", "\x9b", "\x1b"])
def test_a_log_full_of_escape_sequences_that_never_end(beginning: str) -> None:
    assert "\x1b" not in wording.clean(beginning * 64 * 1024)


def test_a_body_with_many_keys_of_which_the_last_stands_twice() -> None:
    keys = [f"k{number}" for number in range(60_000)]
    body = json.dumps(dict.fromkeys([*keys, "k60000"])).replace("k60000", keys[-1])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body.encode(), "more_body": False}

    headers = [(b"content-type", b"application/json")]
    request = Request({"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}, receive)
    with pytest.raises(ValidationError, match="k59999: stands twice"):
        asyncio.run(arguments.of_body(request))


@pytest.mark.parametrize("text", ["1" * 60 + "x", "1 " * 60 + "x", "1" * 60, "1" + " " * 2_000 + "x"])
def test_a_duration_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="write a"):
        forms.duration_seconds(text)


def test_json_so_deep_that_indenting_all_of_it_would_take_hundreds_of_megabytes() -> None:
    text = "[" * 900 + ",".join("1" * 120_000) + "]" * 900
    artifact = ArtifactView(
        path="deep.json",
        size=len(text),
        media_type="application/json",
        sha256="0" * 64,
        attempt=1,
        content=text,
        encoding="utf-8",
        truncated=False,
        problem=None,
        uri="workspace://vp/m/deep.json",
    )
    shown = previews.preview(artifact)
    assert shown.kind == "json"
    assert shown.cut
    assert sum(map(len, shown.lines)) <= 2 * previews.PRETTY_CHARS
