"""Who is to blame for a wrong value, in words a person can act on: the first problem, its key, a near match."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from vp_queue.config_lines import KeyPath
from vp_queue.config_options import UnfitOption
from vp_queue.errors import ConfigurationError

SHOWN_CHARS: Final = 60  # of a wrong value in a message

# Makes the error for a key path of one source: a file's line, a variable, an argument.
Blame = Callable[[KeyPath, str], ConfigurationError]
Model = TypeVar("Model", bound=BaseModel)


def judged(
    model: type[Model], values: Mapping[str, object], blame: Blame, at: KeyPath = (), context: object = None
) -> Model:
    """Validate values that stand at a key path.

    Args:
        model: what they must fit.
        values: by key.
        blame: turns a key path and a problem into the error of the values' source.
        at: where the values stand.
        context: pydantic's validation context.

    Raises:
        ConfigurationError: of the first problem.
    """
    try:
        return model.model_validate(dict(values), context=context)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        cause = first.get("ctx", {}).get("error")
        path: KeyPath = (*at, *first["loc"], *(cause.path if isinstance(cause, UnfitOption) else ()))
        if first["type"] == "extra_forbidden":
            tables = [] if at else ["vp", "retention", "notify"]
            known = [name for name in model.model_fields if name != "vp_id"] + tables
            raise blame(path, f"unknown key{suggestion(str(path[-1]), known)}") from None
        problem = str(cause) if cause else f"{first['msg']}, not {shown(first['input'])}"
        raise blame(path, problem) from None


def dotted(path: KeyPath) -> str:
    """A key path as TOML writes it, positions in brackets: ``vp."vp.x".env_allow[1]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            quoted = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"'
            text += f".{quoted}" if text else quoted
    return text


def shown(value: object) -> str:
    """A wrong value for a message, bounded."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean …?`` if a known word is near, else nothing."""
    close = difflib.get_close_matches(word[:100], known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
