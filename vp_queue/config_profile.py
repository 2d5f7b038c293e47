"""A VP's profile: everything that makes one VP differ from another. A VP is configuration, never code."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from vp_queue.config_notify import SILENT, Notify
from vp_queue.config_options import UnfitOption, VariableName, as_tuple, check_options
from vp_queue.config_retention import DEFAULT, Retention
from vp_queue.contracts.limits import DURATION_SECONDS, NAME_CHARS
from vp_queue.contracts.paths import has_control_characters

VP_ID: Final = re.compile(r"vp\.[a-z0-9][a-z0-9_.-]{0,80}")
USER_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?")
VP_ID_FORM: Final = 'a VP id is "vp." and up to 81 of a-z 0-9 _ . -, without ".." and with no "." at its end'


def expand_user(text: str, environ: Mapping[str, str]) -> str:
    """Expand a leading ``~`` from the given environment, so that no other environment leaks in.

    Raises:
        ValueError: there is no home directory to be found.
    """
    if text != "~" and not text.startswith("~/"):
        return text
    home = environ.get("HOME")
    if not home:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            raise ValueError('"~" means nothing here: HOME is not set and this user has no passwd entry') from None
    return home.rstrip("/") + text[1:]


def _as_root(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str | Path):
        raise ValueError("give a path")
    environ: Mapping[str, str] = info.context or os.environ
    text = expand_user(os.fspath(value), environ)
    if not text.startswith("/"):
        raise ValueError('give an absolute path, or one that begins with "~/"')
    if ".." in text.split("/") or "\0" in text:
        raise ValueError('the path must not hold ".." or NUL')
    return Path(text)


Seconds = Annotated[float, Field(gt=0, le=DURATION_SECONDS)]
TargetRoot = Annotated[Path, BeforeValidator(_as_root)]


class Profile(BaseModel):
    """How one VP works. Frozen; ``options`` is shared between callers, so read it only.

    Attributes:
        vp_id: ``vp.`` and a name, such as ``vp.coder.primary``.
        title: a short name for people.
        description: what to delegate to it; the orchestrator reads this.
        executor: the name of the executor that runs its attempts.
        enabled: whether it takes new missions.
        concurrency: missions at once per consumer.
        allow_commands: whether a mission may bring its own ``constraints.command``.
        allowed_target_roots: absolute folders in which ``constraints.target_path`` may lie.
        max_timeout_seconds: caps a mission's budget, and ``default_timeout_seconds`` too.
        default_timeout_seconds: the time limit where the budget names none.
        stall_after_seconds: silence after which a running mission is shown as stalled.
        cancel_grace_seconds: between SIGTERM and SIGKILL. At most 20: supervisord kills a consumer
            30 seconds after its TERM, and the tree must be proved dead within them.
        max_releases: orderly stops that one mission survives.
        max_processes: processes and threads of one attempt at most, where a cgroup can hold them; 0 = no limit.
        run_as: the Unix user whose rights the program has; None = the worker's. Whether it exists is asked at
            dispatch, since the file may be read where it does not.
        env_allow: variables of the worker that the program sees.
        retry_backoff_seconds: the wait before the second charged attempt, doubled for each later one.
        retention: what is kept of its ended missions; no part of the digest, as no consumer reads it.
        notify: who is told of its events; no part of the digest either.
        options: the executor's own keys; JSON-able.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    vp_id: str
    title: str = Field(min_length=1, max_length=NAME_CHARS)
    description: str = Field(max_length=2_000)
    executor: str = Field(min_length=1, max_length=NAME_CHARS)
    enabled: bool = True
    concurrency: int = Field(default=1, ge=1, le=64)
    allow_commands: bool = False
    allowed_target_roots: Annotated[tuple[TargetRoot, ...], BeforeValidator(as_tuple)] = ()
    # Before default_timeout_seconds, whose validator looks at it.
    max_timeout_seconds: Seconds = 86_400.0
    default_timeout_seconds: Seconds = Field(default=3_600.0, validate_default=True)
    stall_after_seconds: Seconds = 600.0
    cancel_grace_seconds: float = Field(default=5.0, ge=0, le=20)
    max_releases: int = Field(default=3, ge=0, le=1_000)
    run_as: str | None = None
    max_processes: int = Field(default=1_024, ge=0, le=4_194_304)  # PID_MAX_LIMIT
    env_allow: Annotated[tuple[VariableName, ...], BeforeValidator(as_tuple)] = ("PATH", "LANG", "HOME")
    retry_backoff_seconds: float = Field(default=5.0, ge=0, le=DURATION_SECONDS)
    retention: Retention = DEFAULT
    notify: Notify = SILENT
    options: dict[str, object] = Field(default_factory=dict)

    @field_validator("vp_id")
    @classmethod
    def _check_vp_id(cls, value: str) -> str:
        if not is_vp_id(value):
            raise ValueError(VP_ID_FORM)
        return value

    @field_validator("title")
    @classmethod
    def _check_title(cls, value: str) -> str:
        if has_control_characters(value):
            raise ValueError("a title is one line without control characters")
        return value

    @field_validator("run_as")
    @classmethod
    def _check_run_as(cls, value: str | None) -> str | None:
        if value is not None and not USER_NAME.fullmatch(value):
            raise ValueError("give the name of a Unix user, such as vp-coder")
        if value == "root":
            raise ValueError("root protects nothing; name another user, or leave run_as out")
        return value

    @field_validator("default_timeout_seconds")
    @classmethod
    def _cap_default_timeout(cls, value: float, info: ValidationInfo) -> float:
        return float(min(value, info.data.get("max_timeout_seconds", value)))

    @field_validator("options")
    @classmethod
    def _check_options(cls, value: dict[str, object], info: ValidationInfo) -> dict[str, object]:
        _refuse_unfit_for_json(value, ())
        check_options(info.data.get("executor", ""), value)
        return value

    @property
    def folder(self) -> str:
        """The name of this VP's folder under the workspaces root."""
        return f"{self.vp_id.replace('.', '_')}_external"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the profile: a consumer that sees another one runs an old profile."""
        canonical = json.dumps(
            self.model_dump(mode="json", exclude={"retention", "notify"}), sort_keys=True, separators=(",", ":")
        )
        return hashlib.sha256(canonical.encode()).hexdigest()


def is_vp_id(text: str) -> bool:
    """Whether a text has the form of a VP id."""
    return bool(VP_ID.fullmatch(text)) and ".." not in text and not text.endswith(".")


def _refuse_unfit_for_json(value: object, path: tuple[str | int, ...]) -> None:
    """Options are digested and shown as JSON, and TOML has values that JSON has not."""
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_unfit_for_json(item, (*path, key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            _refuse_unfit_for_json(item, (*path, position))
    elif isinstance(value, float) and not math.isfinite(value):
        raise UnfitOption("give a finite number", path)
    elif not isinstance(value, str | int | float | None):
        raise UnfitOption(f"JSON has no {type(value).__name__}; write it as a string", path)


# What a file that does not name them leaves in place (tools.md, "Settings and profiles").
BUILT_IN: Final[Mapping[str, Mapping[str, object]]] = {
    "vp.general.primary": {
        "title": "Generalist",
        "description": "Research, writing, analysis.",
        "executor": "model",
    },
    "vp.coder.primary": {
        "title": "CODIE",
        "description": "Writing, changing, testing and reviewing code in a repository.",
        "executor": "command",
    },
}
