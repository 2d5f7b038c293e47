"""``[notify]``: who is told of what happens. One table for all VPs, one in each VP's own that overrides keys.

A profile tells a command, a webhook, both or nobody. What is told, and to whom, is read by the keeper alone, anew
each time it looks, so a change needs no restart. The key that signs a webhook never stands here: ``secret_env``
names a variable of the keeper's environment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from vp_queue.config_blame import Blame, judged, shown, suggestion
from vp_queue.config_lines import KeyPath
from vp_queue.config_options import VariableName, as_tuple, check_variable_name
from vp_queue.contracts import EventType, limits
from vp_queue.contracts.addresses import is_loopback

NOTIFY: Final = "notify"
URL_CHARS: Final = 2_000
# What a person wants to know who is doing something else meanwhile.
USUAL_EVENTS: Final = (
    EventType.COMPLETED,
    EventType.FAILED,
    EventType.CANCELLED,
    EventType.EXPIRED,
    EventType.NEEDS_INPUT,
    EventType.WORKER_LOST,
)


def _check_event(value: str) -> str:
    if value not in list(EventType):
        raise ValueError(f"no event is called {shown(value)}{suggestion(value, EventType)}")
    return value


def _check_argument(value: str) -> str:
    if "\0" in value:
        raise ValueError("an argument cannot hold NUL")
    return value


EventName = Annotated[str, AfterValidator(_check_event)]
Argument = Annotated[str, Field(max_length=limits.PATH_CHARS), AfterValidator(_check_argument)]


class Notify(BaseModel):
    """Who is told of a VP's events, and how patiently.

    Attributes:
        events: the types that are told.
        command: a program and its arguments, no shell; empty = none. The event is its standard input.
        command_timeout_seconds: then it is ended with everything it started.
        env_allow: variables of the keeper that the command sees.
        secret_env: the NAME of the variable of the keeper's environment that holds the key webhooks are signed with.
        url: where the event is sent; empty = nowhere.
        timeout_seconds: for one request, all of it.
        max_attempts: then the event goes to the dead-letter list.
        retry_backoff_seconds: the wait after a first failure, doubled for each further one up to an hour.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    events: Annotated[tuple[EventName, ...], BeforeValidator(as_tuple)] = tuple(map(str, USUAL_EVENTS))
    command: Annotated[tuple[Argument, ...], BeforeValidator(as_tuple), Field(max_length=100)] = ()
    command_timeout_seconds: float = Field(default=30.0, gt=0, le=600)
    env_allow: Annotated[tuple[VariableName, ...], BeforeValidator(as_tuple)] = ("PATH", "LANG", "HOME")
    # Before url, whose validator looks at it.
    secret_env: str = Field(default="", max_length=200)
    url: str = Field(default="", max_length=URL_CHARS)
    timeout_seconds: float = Field(default=10.0, gt=0, le=120)
    max_attempts: int = Field(default=20, ge=1, le=100)
    retry_backoff_seconds: float = Field(default=5.0, ge=0.01, le=3_600)

    @field_validator("command")
    @classmethod
    def _check_command(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value and not value[0]:
            raise ValueError("the first element is the program; it is empty")
        return value

    @field_validator("secret_env")
    @classmethod
    def _check_secret_env(cls, value: str) -> str:
        return check_variable_name(value) if value else value

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str, info: ValidationInfo) -> str:
        if not value:
            return value
        try:
            parts = urlsplit(value)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        if host is None or parts.scheme not in ("http", "https") or not value.isascii() or not value.isprintable():
            raise ValueError("give an http or https URL, such as https://hooks.example/vp, in ASCII")
        if parts.username is not None or parts.fragment or " " in value:
            raise ValueError("leave user, password, blanks and fragment out: requests are signed with secret_env's key")
        if parts.scheme == "http" and not is_loopback(value):
            raise ValueError("plain http is for this machine only (127.0.0.1, ::1, localhost); use https")
        if not info.data.get("secret_env"):
            raise ValueError('webhooks are signed: name the variable with the key, such as secret_env = "VP_HOOK_KEY"')
        return value

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """Whom it tells."""
        found = []
        if self.command:
            found.append(Sink("command", json.dumps(self.command), self.command[0]))
        if self.url:
            parts = urlsplit(self.url)
            # A path or a query may be a secret, as with chat services.
            found.append(Sink("webhook", self.url, f"{parts.scheme}://{parts.netloc}"))
        return tuple(found)

    def sink(self, key: str) -> Sink | None:
        """The sink of this key, if it still tells it."""
        return next((sink for sink in self.sinks if sink.key == key), None)


@dataclass(frozen=True)
class Sink:
    """Somebody who is told: one command, or one address, whichever VPs name it.

    Attributes:
        kind: how it is told.
        target: the command as JSON, or the whole address.
        label: what of it may be shown.
    """

    kind: Literal["command", "webhook"]
    target: str
    label: str

    @property
    def key(self) -> str:
        """What it is known by in the ledger, without what must not stand there."""
        return f"{self.kind}-{hashlib.sha256(self.target.encode()).hexdigest()[:16]}"


SILENT: Final = Notify()


def notify_of(table: object, inherited: Notify, blame: Blame, at: KeyPath) -> Notify:
    """What a table states, on top of what it inherits.

    Args:
        table: what stands in the file; keys it does not name are inherited.
        inherited: from ``[notify]``, or the defaults.
        blame: makes the error for a key path.
        at: where the table stands.

    Raises:
        ConfigurationError: an unknown key, an unknown event, or a value that does not fit.
    """
    if not isinstance(table, Mapping):
        raise blame(at, f"give a table, not {shown(table)}")
    return judged(Notify, {**inherited.model_dump(), **table}, blame, at)
