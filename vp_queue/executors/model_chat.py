"""The conversation of a ``model`` mission, in the attempt's own process: prompt in, answer to a file.

The answer is written as it comes, so that a mission that is cancelled or cut off keeps what there was.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from vp_queue.executors import child, model_http, model_local
from vp_queue.executors.context import MissionContext, MissionFailed

SYSTEM: Final = (
    "You carry out one mission in one answer. Your whole answer is saved as the file {output}: "
    "write what belongs in that file, and nothing before or after it."
)
WHOLE_RESULT_CHARS: Final = 500
RESULT_BEGINNING_CHARS: Final = 300
PROGRESS_SECONDS: Final = 0.5
PROGRESS_CHARS: Final = 200
MILLION: Final = 1_000_000
BYTES_PER_TOKEN: Final = 4  # of a prompt, roughly, in most languages and vocabularies


def answer(mission: MissionContext) -> str:
    """Have the model answer the mission; returns the short result.

    Raises:
        MissionFailed: with the failure code of what went wrong.
    """
    # The callable's event would be looked at between two chunks only; this ends a silent wait as well.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    options = dict(mission.arguments)
    mission.report(message=f"asking {options['model'] or 'the local model'}")
    with Answer(mission, options) as written:
        if options["base_url"]:
            endpoint = model_http.Endpoint(
                options["base_url"],
                os.environ.get(child.MODEL_KEY_VARIABLE),
                options["timeout_seconds"],
                options["max_retries"],
                options["max_retry_wait_seconds"],
                options["max_answer_bytes"],
            )
            model_http.stream(endpoint, request(mission, options), written.take, written.begin_again)
        else:
            _generate(mission, options, written)
        written.end()
    return written.result()


def _generate(mission: MissionContext, options: dict[str, Any], written: Answer) -> None:
    missing = model_local.problem(options["model_path"])
    if missing is not None:
        raise MissionFailed("executor_unavailable", f"This worker cannot run it: {missing}. Run: vp model fetch")
    os.chdir(mission.workspace)  # for the engine's socket, away from a target path
    demonstration = model_local.DEMONSTRATION_REQUEST if _is_demonstration(options) else {}
    body = {**demonstration, **request(mission, options)}
    body.setdefault(options["token_limit_field"], model_local.DEFAULT_OUTPUT_TOKENS)
    try:
        model_local.stream(body, options["model_path"], options["context_tokens"], written.take)
    except model_http.Trouble as trouble:  # of an engine on this machine, none passes
        raise MissionFailed(trouble.code, trouble.message) from trouble


def request(mission: MissionContext, options: dict[str, Any]) -> dict[str, Any]:
    """The body of the chat completion request."""
    system = options["system"]
    if system is None and not _is_demonstration(options):  # so small a model would answer to it, not follow it
        system = SYSTEM.format(output=options["output"])
    messages = [
        *([{"role": "system", "content": system}] if system else []),
        {"role": "user", "content": prompt(mission)},
    ]
    body: dict[str, Any] = {
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    limit = _token_limit(mission, options, sum(len(message["content"].encode()) for message in messages))
    given = {"model": options["model"], "temperature": options["temperature"], options["token_limit_field"]: limit}
    return {**body, **{name: value for name, value in given.items() if value is not None}, **options["request"]}


def prompt(mission: MissionContext) -> str:
    """What the model is told: the objective, guidance if it is a retry, and the files the mission brings."""
    parts = [mission.objective]
    if mission.guidance:
        parts.append(f"## Guidance\n\n{mission.guidance}")
    parts += [f"## File {name}\n\n{text}" for name, text in mission.constraints.get("files", {}).items()]
    return "\n\n".join(parts)


def _token_limit(mission: MissionContext, options: dict[str, Any], prompt_bytes: int) -> int | None:
    """The smallest of the limits: the profile's, and what of the budget's tokens and money the prompt leaves.

    How many tokens a prompt has, only the model knows; here it is reckoned, and judged when usage is told.
    """
    limits = [options["max_output_tokens"]]
    prompt_tokens = prompt_bytes // BYTES_PER_TOKEN
    tokens, money = mission.budget.get("max_tokens"), mission.budget.get("max_cost_usd")
    if tokens is not None:
        limits.append(max(1, tokens - prompt_tokens))
    price = options["output_usd_per_million"]
    if price and money is not None:
        left = money * MILLION - prompt_tokens * (options["input_usd_per_million"] or 0)
        limits.append(max(1, int(left / price)))
    return min((limit for limit in limits if limit is not None), default=None)


def _is_demonstration(options: dict[str, Any]) -> bool:
    return not options["base_url"] and not options["model_path"]


def _text(content: object) -> str:
    """The text of a message: a string, or a list of parts of which some are text."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _sum(before: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Usage of two requests together."""
    return {name: before.get(name, 0) + more.get(name, 0) for name in {**before, **more}}


class Answer:
    """The answer as it comes in: to the file, to the log, as progress; and how it ended."""

    def __init__(self, mission: MissionContext, options: dict[str, Any]) -> None:
        self._mission = mission
        self._options = options
        self._path = Path(mission.work_products, options["output"])
        self._beginning = self._tail = self._refusal = ""
        self._chars = self._bytes = 0
        self._finish: str | None = None
        self._used: dict[str, Any] = {}  # by this request
        self._used_before: dict[str, Any] = {}  # by those it repeats: they are paid as well
        self._told_at = 0.0
        self._file: io.FileIO | None = None  # made by the first text: a refusal leaves no empty artifact

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def begin_again(self, why: str) -> None:
        """Forget what came so far: the request is made anew."""
        print(f"\n[{why}]", file=sys.stderr)
        self._mission.report(message=why)
        self._beginning = self._tail = self._refusal = ""
        self._chars = self._bytes = 0
        self._finish = None
        self._used_before, self._used = _sum(self._used_before, self._used), {}
        self._discard()

    def _discard(self) -> None:
        if self._file is not None:
            self._file.close()
            self._path.unlink()
            self._file = None

    def take(self, chunk: dict[str, Any]) -> bool:
        """Take in one chunk; never ends the generation early but by raising.

        Raises:
            MissionFailed, model_http.Trouble: the chunk tells an error, or the answer is too long.
        """
        if chunk.get("error"):
            raise model_http.classified(0, chunk["error"])
        choice = model_http.first_choice(chunk)
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._write(_text(delta.get("content")))
            refusal = _text(delta.get("refusal"))
            self._count(refusal.encode("utf-8", "replace"))
            self._refusal += refusal
        self._finish = choice.get("finish_reason") or self._finish
        self._take_usage(chunk.get("usage"))
        return False

    def _count(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > self._options["max_answer_bytes"]:
            limit = self._options["max_answer_bytes"]
            raise MissionFailed("output_limit", f"The answer is longer than {limit} bytes (max_answer_bytes).")

    def _write(self, text: str) -> None:
        if not text:
            return
        data = text.encode("utf-8", "replace")  # JSON can hold lone surrogates
        text = data.decode()
        self._count(data)
        self._opened().write(data)
        sys.stdout.write(text)
        self._chars += len(text)
        if len(self._beginning) <= WHOLE_RESULT_CHARS:  # without the blanks that come before all else
            self._beginning = (self._beginning + text).lstrip()[: WHOLE_RESULT_CHARS + 1]
        self._tail = (self._tail + text[-PROGRESS_CHARS:])[-PROGRESS_CHARS:]
        now = time.monotonic()
        if now >= self._told_at + PROGRESS_SECONDS:
            self._told_at = now
            self._mission.report(message=self._tail)

    def _opened(self) -> io.FileIO:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # What is there is a file the mission brought, in a folder that is new: the answer takes its place.
            self._file = io.FileIO(self._path, "wb")
        return self._file

    def _take_usage(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        told: dict[str, Any] = {"turns": 1}
        for name, theirs in (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens")):
            if isinstance(usage.get(theirs), int):
                told[name] = usage[theirs]
        prices = self._options["input_usd_per_million"], self._options["output_usd_per_million"]
        if None not in prices and {"input_tokens", "output_tokens"} <= told.keys():
            told["cost_usd"] = (told["input_tokens"] * prices[0] + told["output_tokens"] * prices[1]) / MILLION
        self._used = told
        self._mission.report(usage=_sum(self._used_before, told))

    def end(self) -> None:
        """Judge the whole answer.

        Raises:
            MissionFailed: the model refused, or said nothing.
        """
        sys.stdout.write("\n")
        if not self._beginning:
            self._discard()  # nothing but blanks is no answer, and no artifact
        if self._finish == "content_filter" or (self._refusal and not self._beginning):
            raise MissionFailed(
                "refused", f"The model refused: {self._refusal.strip() or 'its content filter ended it'}"
            )
        if not self._beginning:
            raise MissionFailed("executor_error", f"The model answered nothing (finish_reason {self._finish}).")

    def result(self) -> str:
        """The short result for the orchestrator."""
        text = self._beginning.strip()
        output = self._options["output"]
        if self._chars > WHOLE_RESULT_CHARS:
            text = f"{text[:RESULT_BEGINNING_CHARS].rstrip()}… ({self._chars} characters in {output})"
        if self._finish == "length":
            text += "\n(The answer was cut off at its limit of tokens.)"
        if _is_demonstration(self._options):
            text += f"\n(By the {model_local.LABEL}.)"
        return text
