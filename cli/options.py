"""Kinds of arguments that several commands take."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import click

UNTIL_IT_ENDS: Final = "until-it-ends"


class JsonObject(click.ParamType[dict[str, Any]]):
    """A JSON object, written out or as ``@file``."""

    name = "JSON"

    def __init__(self, example: str) -> None:
        self._example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """The parsed object; what its keys may be is the tool's to judge."""
        if isinstance(value, dict):
            return value
        text = value
        if value.startswith("@"):
            try:
                text = Path(value[1:]).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
                self.fail(f"cannot read {value[1:]} ({reason}); give @ and a file, or {self._example!r}", param, ctx)
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError) as error:
            self.fail(f"this is not JSON ({error}); write e.g. {self._example!r}, or @file", param, ctx)
        if not isinstance(parsed, dict):
            self.fail(f"give a JSON object, e.g. {self._example!r}", param, ctx)
        return parsed


class Seconds(click.ParamType[float]):
    """A number of seconds up to a maximum."""

    name = "SECONDS"

    def __init__(self, maximum: float) -> None:
        self._maximum = maximum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; NaN is none."""
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"{value!r} is no number of seconds, such as 600", param, ctx)
        if not 0 <= seconds <= self._maximum:
            self.fail(f"give 0 to {self._maximum:.0f} seconds", param, ctx)
        return seconds


class SecondsOrForEver(Seconds):
    """The same, or :data:`UNTIL_IT_ENDS`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; infinity for no limit."""
        return float("inf") if value == UNTIL_IT_ENDS else super().convert(value, param, ctx)


class Age(click.ParamType[timedelta]):
    """How long ago: a number with its unit, such as ``12h`` or ``30d``."""

    name = "AGE"
    _UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
    _MOST_DAYS: Final = 36_500

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The duration."""
        number, unit = str(value)[:-1], str(value)[-1:]
        if unit not in self._UNITS or not re.fullmatch(r"[0-9]{1,8}(\.[0-9]{1,3})?", number):
            self.fail(f"{value!r} is no age; write a number and m, h, d or w, such as 12h or 30d", param, ctx)
        age = timedelta(**{self._UNITS[unit]: float(number)})
        if age > timedelta(days=self._MOST_DAYS):
            self.fail(f"give at most {self._MOST_DAYS} days", param, ctx)
        return age


def pairs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """``--metadata key=value``, repeated, as a dict."""
    found: dict[str, str] = {}
    for value in values:
        key, separator, text = value.partition("=")
        if not separator or not key:
            raise click.BadParameter(f"write KEY=VALUE, not {value!r}", ctx=ctx, param=param)
        found[key] = text
    return found


def given(**arguments: Any) -> dict[str, Any]:
    """Those arguments that were given, so that the tool's own defaults hold for the rest."""
    return {name: value for name, value in arguments.items() if value is not None}
