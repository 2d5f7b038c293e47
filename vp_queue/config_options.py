"""The options of the built-in executors: what stands in ``[vp."…".options]``, with limits and defaults.

They are judged when the file is read, so that a wrong one is told with its line, not at the first mission.
A plugin's options are the plugin's to judge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from vp_queue.contracts.addresses import is_loopback
from vp_queue.contracts.limits import COST_USD, TOKENS

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PLACEHOLDERS: Final = ("{workspace}", "{work_products}", "{mission_file}", "{target_path}")
OPTIONS_BYTES: Final = 100_000
_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MODULE_FUNCTION: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_ENTRY_POINT: Final = re.compile(r"[\w.-]+")


class UnfitOption(ValueError):
    """A value in ``options`` that does not fit; ``path`` leads to it from there."""

    def __init__(self, message: str, path: tuple[str | int, ...]) -> None:
        super().__init__(message)
        self.path = path


def check_variable_name(value: str) -> str:
    """A name an environment variable can have.

    Raises:
        ValueError: it cannot.
    """
    if not _VARIABLE_NAME.fullmatch(value):
        raise ValueError("this is no name of an environment variable")
    return value


def as_tuple(value: object) -> tuple[object, ...]:
    """A list of the file as a tuple: TOML knows lists only; in strict mode pydantic takes a tuple for a tuple.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, list | tuple):
        raise ValueError("give a list")
    return tuple(value)


def _check_passed_on(value: str) -> str:
    check_variable_name(value)
    if value.startswith("VP_"):
        # VP_TOKEN would hand a mission the web face; the others are set by the worker for each attempt.
        raise ValueError("VP_* variables are vp-queue's own and are never passed on")
    return value


# A variable that a program may see.
VariableName = Annotated[str, Field(max_length=200), AfterValidator(_check_passed_on)]


def _check_argv(argv: list[str]) -> list[str]:
    for index, part in enumerate(argv):
        inside = next((known for known in PLACEHOLDERS if known in part and part != known), None)
        if inside is not None:
            raise UnfitOption(
                f"{inside} must be a whole element; in a shell script use $VP_WORKSPACE and its like", (index,)
            )
    return argv


def _check_callable(value: str) -> str:
    if not (_MODULE_FUNCTION if ":" in value else _ENTRY_POINT).fullmatch(value):
        raise ValueError('give "module:function", or the name of an entry point in the group vp_queue.callables')
    return value


def _check_absolute(value: str) -> str:
    if not value.startswith("/") or "\0" in value:
        raise ValueError("give an absolute path")
    return value


def _check_base_url(value: str) -> str:
    try:
        url = urlsplit(value)
        host, _ = url.hostname, url.port
    except ValueError as error:
        raise ValueError(f"this is no URL ({error})") from None
    if url.scheme not in ("http", "https") or not host or re.search(r"\s", value):
        raise ValueError("give the endpoint's URL, such as https://host/v1")
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("give the URL without user, password, query or fragment; the key comes by api_key_env")
    return value.rstrip("/")


AbsolutePath = Annotated[str, AfterValidator(_check_absolute)]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class CommandOptions(_Options):
    """Executor ``command``.

    Attributes:
        argv: the program and its arguments; None = it runs missions' own commands only.
    """

    argv: Annotated[list[str], Field(min_length=1), AfterValidator(_check_argv)] | None = None


class PythonOptions(_Options):
    """Executor ``python``.

    Attributes:
        callable: ``module:function``, or an entry point's name in the group ``vp_queue.callables``.
        path: folders put before everything else on ``sys.path``.
        arguments: what the callable finds as ``mission.arguments``.
    """

    callable: Annotated[str, AfterValidator(_check_callable)]
    path: list[AbsolutePath] = Field(default_factory=list)
    arguments: dict[str, object] = Field(default_factory=dict)


class ModelOptions(_Options):
    """Executor ``model``: an OpenAI-compatible endpoint if ``base_url`` is given, else a local GGUF file.

    Attributes:
        base_url: the endpoint; ``/chat/completions`` is appended.
        model: the model's name there.
        api_key_env: the *name* of the worker's variable that holds the key.
        allow_plain_http: send the key over http to another host all the same.
        system: instead of the built-in system prompt.
        temperature: the endpoint's own default where not given.
        max_output_tokens: of one answer; a mission's ``budget.max_tokens`` lowers it.
        token_limit_field: how the endpoint calls that limit.
        timeout_seconds: of silence on the connection.
        max_retries: of 429, 5xx, refused connections and cut streams, within one attempt.
        max_retry_wait_seconds: a ``Retry-After`` beyond it fails at once.
        max_answer_bytes: a longer answer fails with ``output_limit``.
        input_usd_per_million, output_usd_per_million: prices, from which cost is reckoned.
        request: further fields of the request's body.
        model_path: for the local model: another GGUF file than the demonstration model's.
        context_tokens: for the local model: prompt and answer together.
    """

    base_url: Annotated[str, AfterValidator(_check_base_url)] | None = None
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    api_key_env: Annotated[str, AfterValidator(check_variable_name)] | None = None
    allow_plain_http: bool = False
    system: str | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_output_tokens: int | None = Field(default=None, ge=1, le=TOKENS)
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    timeout_seconds: float = Field(default=120.0, gt=0, le=3_600)
    max_retries: int = Field(default=4, ge=0, le=20)
    max_retry_wait_seconds: float = Field(default=60.0, ge=0, le=3_600)
    max_answer_bytes: int = Field(default=16 * 1024 * 1024, ge=1, le=256 * 1024 * 1024)
    input_usd_per_million: float | None = Field(default=None, ge=0, le=COST_USD)
    output_usd_per_million: float | None = Field(default=None, ge=0, le=COST_USD)
    request: dict[str, object] = Field(default_factory=dict)
    model_path: AbsolutePath | None = None
    context_tokens: int = Field(default=4_096, ge=256, le=1_000_000)

    @model_validator(mode="after")
    def _check_together(self) -> ModelOptions:
        if self.base_url is None:
            for name in ("model", "api_key_env"):
                if getattr(self, name) is not None:
                    raise UnfitOption("this goes with base_url, which is not given", (name,))
            return self
        if self.model is None:
            raise UnfitOption("name the endpoint's model: model = …", ("base_url",))
        if self.model_path is not None:
            raise UnfitOption("give either base_url or model_path", ("model_path",))
        if self.api_key_env and not self.allow_plain_http and not _is_private_way(self.base_url):
            raise UnfitOption(
                "the key would go over the network unencrypted: use https, or set allow_plain_http = true",
                ("base_url",),
            )
        return self


def _is_private_way(base_url: str) -> bool:
    """Whether nobody else can read what is sent there: TLS, or this machine."""
    return urlsplit(base_url).scheme == "https" or is_loopback(base_url)


OPTIONS: Final[Mapping[str, type[_Options]]] = {
    "command": CommandOptions,
    "model": ModelOptions,
    "python": PythonOptions,
}


def check_options(executor: str, options: Mapping[str, object]) -> None:
    """Judge the options of a built-in executor.

    Raises:
        UnfitOption: of the first problem, with its place in ``options``.
    """
    model = OPTIONS.get(executor)
    if model is None:
        return
    if executor != "command" and len(json.dumps(options)) > OPTIONS_BYTES:
        raise UnfitOption(f"the options are longer than {OPTIONS_BYTES} bytes of JSON", ())
    try:
        model.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        cause = first.get("ctx", {}).get("error")
        path = (*first["loc"], *(cause.path if isinstance(cause, UnfitOption) else ()))
        raise UnfitOption(_problem(executor, model, first, cause), path) from None


def _problem(executor: str, model: type[_Options], first: ErrorDetails, cause: object) -> str:
    if first["type"] == "extra_forbidden":
        return f'unknown option of executor "{executor}"; it knows {", ".join(model.model_fields)} only'
    if first["type"] == "missing":
        return f'executor "{executor}" needs this option'
    if cause:
        return str(cause)
    return "give the program and its arguments as a list of strings" if "argv" in first["loc"] else str(first["msg"])
