"""Talks to an OpenAI-compatible chat endpoint: streams the answer, tries again what can succeed, names the rest.

The stream is read by hand rather than by a library for server-sent events: such endpoints send nothing but
``data:`` lines, and a line needs a limit, which no library for it has.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from vp_queue.contracts.addresses import is_loopback
from vp_queue.contracts.retries import backoff_seconds, retry_after_seconds
from vp_queue.executors.context import MissionFailed

CONNECT_SECONDS: Final = 10.0
ERROR_BODY_BYTES: Final = 64 * 1024
ERROR_TEXT_CHARS: Final = 500
# Beside the text: a chunk of one token comes wrapped in some 300 bytes of JSON.
LINE_OVERHEAD_BYTES: Final = 1024 * 1024
FIRST_BACKOFF_SECONDS: Final = 1.0
_CONTEXT_CODES: Final = {"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"}
_CONTEXT_WORDS: Final = re.compile(
    r"context (length|window|size)|maximum context|prompt is too long|too many tokens", re.IGNORECASE
)
_REFUSAL_CODES: Final = {"content_filter", "content_policy_violation"}
_QUOTA_CODES: Final = {"insufficient_quota", "billing_hard_limit_reached"}

Take = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True)
class Endpoint:
    """Where to ask and how patiently; the fields are those of ``config_options.ModelOptions``."""

    base_url: str
    key: str | None
    timeout_seconds: float
    max_retries: int
    max_retry_wait_seconds: float
    max_answer_bytes: int


class Trouble(Exception):
    """A request that failed in a way that may pass."""

    def __init__(self, code: str, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.retry_after_seconds = code, message, retry_after_seconds


def stream(
    endpoint: Endpoint,
    body: Mapping[str, Any],
    take: Take,
    again: Callable[[str], None],
) -> None:
    """Ask, giving each ``chat.completion.chunk`` to ``take`` as it comes.

    Args:
        endpoint: where to ask.
        body: a chat completion request.
        take: gets each chunk; may raise :class:`Trouble` of an error told in mid-stream.
        again: told, in words, before a request is repeated; what was taken so far is void.

    Raises:
        MissionFailed: it cannot succeed, or did not within ``max_retries``.
    """
    timeout = httpx.Timeout(endpoint.timeout_seconds, connect=CONNECT_SECONDS)
    headers = {"Accept": "text/event-stream, application/json", "Accept-Encoding": "identity"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    # A proxy that the environment names would get what is meant for this machine, the key included, in clear.
    proxies = not is_loopback(endpoint.base_url)
    with httpx.Client(timeout=timeout, headers=headers, follow_redirects=False, trust_env=proxies) as client:
        for attempt in range(endpoint.max_retries + 1):
            try:
                return _ask(client, endpoint, body, take)
            except httpx.TransportError as error:
                trouble = Trouble("executor_error", _told(error, endpoint))
            except Trouble as found:
                trouble = found
            if attempt == endpoint.max_retries:
                raise MissionFailed(trouble.code, f"{trouble.message} ({attempt + 1} requests were made)")
            wait_seconds = _wait_seconds(trouble, attempt, endpoint)
            again(f"{trouble.message}; trying again in {wait_seconds:.1f} s ({attempt + 1} of {endpoint.max_retries})")
            time.sleep(wait_seconds)


def _ask(client: httpx.Client, endpoint: Endpoint, body: Mapping[str, Any], take: Take) -> None:
    with client.stream("POST", f"{endpoint.base_url}/chat/completions", json=dict(body)) as response:
        if response.status_code != httpx.codes.OK:
            raise _failure(response, endpoint)
        most_bytes = endpoint.max_answer_bytes + LINE_OVERHEAD_BYTES
        if (
            "json" in response.headers.get("content-type", "")
            and "event-stream" not in response.headers["content-type"]
        ):
            take(_as_chunk(_object(b"".join(_bounded(response, most_bytes)))))
            return
        finished = False
        try:
            for data in _data_lines(response, most_bytes):
                if data == b"[DONE]":
                    return
                chunk = _object(data)
                finished = finished or bool(first_choice(chunk).get("finish_reason"))
                if take(chunk):
                    return
        except httpx.TransportError:
            if not finished:
                raise
        # The closing mark may be missing, as with some servers, but not the model's own end.
        if not finished:
            raise Trouble("executor_error", "The endpoint's answer broke off in the middle")


def _data_lines(response: httpx.Response, most_bytes: int) -> Iterator[bytes]:
    """What stands behind ``data:``, line by line; other lines (comments, ids, event names) are passed over."""
    partial: list[bytes] = []
    held = 0
    for piece in response.iter_raw():
        *ended, rest = piece.replace(b"\r", b"\n").split(b"\n")
        for line in ended:
            whole = b"".join((*partial, line))
            partial, held = [], 0
            if whole.startswith(b"data:"):
                yield whole[5:].strip()
        partial.append(rest)
        held += len(rest)
        if held > most_bytes:
            raise _too_long(most_bytes)
    whole = b"".join(partial)
    if whole.startswith(b"data:"):
        yield whole[5:].strip()


def _bounded(response: httpx.Response, most_bytes: int) -> Iterator[bytes]:
    read = 0
    for piece in response.iter_raw():
        read += len(piece)
        if read > most_bytes:
            raise _too_long(most_bytes)
        yield piece


def _too_long(most_bytes: int) -> MissionFailed:
    return MissionFailed("output_limit", f"The endpoint sent more than {most_bytes} bytes (max_answer_bytes).")


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        shown = data[:100].decode("utf-8", "replace")
        raise Trouble("executor_error", f"The endpoint sent what is no chat completion: {shown!r}")
    return found


def first_choice(chunk: Mapping[str, Any]) -> dict[str, Any]:
    """The one choice of a chunk; empty if it has none, as the one that tells usage."""
    choices = chunk.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else {}


def _as_chunk(completion: dict[str, Any]) -> dict[str, Any]:
    """A whole answer, from a server that does not stream, as if it were one chunk of a stream."""
    choice = first_choice(completion)
    if not choice and "error" not in completion:
        raise Trouble("executor_error", "The endpoint sent JSON that is no chat completion")
    return {**completion, "choices": [{**choice, "delta": choice.get("message")}]}


# --- what went wrong ----------------------------------------------------------------------------


def _failure(response: httpx.Response, endpoint: Endpoint) -> Exception:
    """What an answer other than 200 means."""
    raw = b""
    with contextlib.suppress(httpx.TransportError):  # the status is known, however the explanation breaks off
        for piece in response.iter_raw():
            raw += piece
            if len(raw) > ERROR_BODY_BYTES:
                break
    try:
        answer = json.loads(raw)
        error = answer.get("error", answer)
    except (ValueError, RecursionError, AttributeError):
        error = raw[:ERROR_TEXT_CHARS].decode("utf-8", "replace")
    return classified(response.status_code, error, retry_after_seconds(response.headers.get("retry-after")), endpoint)


def classified(
    status: int, error: object, retry_after_seconds: float | None = None, endpoint: Endpoint | None = None
) -> Exception:
    """What an endpoint's error means for the mission.

    Args:
        status: the HTTP status; 0 if the error was told in the stream, or by the local engine.
        error: the ``error`` object, or a text.
        retry_after_seconds: what the endpoint asks for.
        endpoint: named in what is to be corrected there.

    Returns:
        :class:`Trouble` if it may pass, else :class:`MissionFailed`.
    """
    told = error if isinstance(error, dict) else {"message": error}
    names = {str(told.get(key)) for key in ("code", "type") if told.get(key)}
    text = " ".join(str(told.get("message") or "").split())[:ERROR_TEXT_CHARS] or "it gives no reason"
    status = status or next((int(name) for name in names if re.fullmatch("[45]..", name)), 0)
    where = endpoint.base_url if endpoint else "The model"
    said = f"{where} answered {status}: {text}" if status else f"{where} reports an error: {text}"
    if names & _REFUSAL_CODES:
        return MissionFailed("refused", said)
    if status == 413 or names & _CONTEXT_CODES or (status in (0, 400, 422) and _CONTEXT_WORDS.search(text)):
        return MissionFailed("context_exceeded", f"{said}. Shorten the objective or its files.")
    if names & _QUOTA_CODES or status == 402:
        return MissionFailed("rate_limited", f"{said}. The account has no quota left.")
    if status in (401, 403):
        return MissionFailed("auth", f"{said}. Check the key in the worker's environment (api_key_env).")
    if status == 404:
        return MissionFailed("executor_unavailable", f"{said}. Check base_url and model in the profile.")
    if status == 429:
        return Trouble("rate_limited", said, retry_after_seconds)
    if status in (0, 408, 409, 425) or status >= 500:
        return Trouble("executor_error", said, retry_after_seconds)
    if 300 <= status < 400:
        return MissionFailed("executor_unavailable", f"{where} answered {status}, a redirect. Correct base_url.")
    return MissionFailed("executor_error", said)


def _wait_seconds(trouble: Trouble, attempt: int, endpoint: Endpoint) -> float:
    asked, most = trouble.retry_after_seconds, endpoint.max_retry_wait_seconds
    if asked is None:
        return backoff_seconds(FIRST_BACKOFF_SECONDS, attempt, most)
    if asked > most:
        message = f"{trouble.message}; it asks to wait {asked:.0f} s, max_retry_wait_seconds is {most:g}"
        raise MissionFailed(trouble.code, message)
    return asked


def _told(error: httpx.TransportError, endpoint: Endpoint) -> str:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return f"No connection to {endpoint.base_url}: {str(error) or 'time-out'}"
    if isinstance(error, httpx.TimeoutException):
        return f"{endpoint.base_url} was silent for {endpoint.timeout_seconds:g} s"
    return f"The connection to {endpoint.base_url} broke: {str(error) or type(error).__name__}"
