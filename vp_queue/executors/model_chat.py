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
    body: dict[str, Any] = {
        "messages": [
            *([{"role": "system", "content": system}] if system else []),
            {"role": "user", "content": prompt(mission)},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    limit = _token_limit(mission, options)
    given = {"model": options["model"], "temperature": options["temperature"], options["token_limit_field"]: limit}
    return {**body, **{name: value for name, value in given.items() if value is not None}, **options["request"]}


def prompt(mission: MissionContext) -> str:
    """What the model is told: the objective, guidance if it is a retry, and the files the mission brings."""
    parts = [mission.objective]
    if mission.guidance:
        parts.append(f"## Guidance\n\n{mission.guidance}")
    parts += [f"## File {name}\n\n{text}" for name, text in mission.constraints.get("files", {}).items()]
    return "\n\n".join(parts)


def _token_limit(mission: MissionContext, options: dict[str, Any]) -> int | None:
    """The smallest of the limits: the profile's, the budget's tokens, what the budget's money buys."""
    limits = [options["max_output_tokens"], mission.budget.get("max_tokens")]
    price, money = options["output_usd_per_million"], mission.budget.get("max_cost_usd")
    if price and money is not None:
        limits.append(max(1, int(money / price * MILLION)))
    return min((limit for limit in limits if limit is not None), default=None)


def _is_demonstration(options: dict[str, Any]) -> bool:
    return not options["base_url"] and not options["model_path"]


class Answer:
    """The answer as it comes in: to the file, to the log, as progress; and how it ended."""

    def __init__(self, mission: MissionContext, options: dict[str, Any]) -> None:
        self._mission = mission
        self._options = options
        self._path = Path(mission.work_products, options["output"])
        self._beginning = self._tail = self._refusal = ""
        self._chars = self._bytes = 0
        self._finish: str | None = None
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
            self._write(delta.get("content"))
            if isinstance(delta.get("refusal"), str):
                self._refusal += delta["refusal"]
        self._finish = choice.get("finish_reason") or self._finish
        self._take_usage(chunk.get("usage"))
        return False

    def _write(self, text: object) -> None:
        if not isinstance(text, str) or not text:
            return
        data = text.encode("utf-8", "replace")  # JSON can hold lone surrogates
        text = data.decode()
        self._bytes += len(data)
        if self._bytes > self._options["max_answer_bytes"]:
            limit = self._options["max_answer_bytes"]
            raise MissionFailed("output_limit", f"The answer is longer than {limit} bytes (max_answer_bytes).")
        self._opened().write(data)
        sys.stdout.write(text)
        self._chars += len(text)
        room = WHOLE_RESULT_CHARS + 1 - len(self._beginning)
        self._beginning += text[:room] if room > 0 else ""
        self._tail = (self._tail + text[-PROGRESS_CHARS:])[-PROGRESS_CHARS:]
        now = time.monotonic()
        if now >= self._told_at + PROGRESS_SECONDS:
            self._told_at = now
            self._mission.report(message=self._tail)

    def _opened(self) -> io.FileIO:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = io.FileIO(self._path, "xb")
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
        self._mission.report(usage=told)

    def end(self) -> None:
        """Judge the whole answer.

        Raises:
            MissionFailed: the model refused, or said nothing.
        """
        sys.stdout.write("\n")
        if self._finish == "content_filter" or (self._refusal and not self._beginning.strip()):
            raise MissionFailed(
                "refused", f"The model refused: {self._refusal.strip() or 'its content filter ended it'}"
            )
        if not self._beginning.strip() and self._chars <= WHOLE_RESULT_CHARS:
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
