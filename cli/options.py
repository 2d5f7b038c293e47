"""Kinds of arguments that several commands take."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from vp_queue import clock
from vp_queue.cli import completing
from vp_queue.contracts import Status

Command = TypeVar("Command", bound=Callable[..., Any])
FILTERS: Final = ("vp_id", "status", "source_session_id", "text", "created_after", "created_before")
STATUSES: Final = tuple(str(status) for status in Status)
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


class Moment(click.ParamType[str]):
    """An instant: RFC 3339 with an offset, which the contract judges, or how long ago, such as ``2h``."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The instant as the contract takes it."""
        text = str(value)
        if re.match(r"[0-9]{4}-", text):
            return text
        return clock.as_text(max(clock.EARLIEST, clock.now() - Age().convert(value, param, ctx)))


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


def filters(command: Command) -> Command:
    """The filters of a list, as :data:`FILTERS` names them; :func:`filtered` takes them."""
    for option in (
        click.option("--until", "created_before", type=Moment(), help="Dispatched at this time or before."),
        click.option("--since", "created_after", type=Moment(), help="Dispatched later: 2026-11-22T10:00:00Z, or 2h."),
        click.option("--text", help="In the objective or the result, or the beginning of the id."),
        click.option("--session", "source_session_id", help="Only of this source session."),
        click.option("--status", multiple=True, type=click.Choice(STATUSES), help="Only these; repeatable."),
        click.option("--vp", "vp_id", shell_complete=completing.vps, help="Only this VP's."),
    ):
        command = option(command)
    return command


def matching(command: Command) -> Command:
    """``--all`` with the filters, and ``--yes``: for a command that takes one mission, or all that match."""
    for option in (
        click.option("--yes", is_flag=True, help="With --all: do not ask first."),
        click.option("--all", "all_matching", is_flag=True, help="Every mission that the filters below match."),
    ):
        command = option(command)
    return filters(command)


def is_one(mission_id: str | None, chosen: dict[str, Any]) -> bool:
    """Whether one mission is meant, or all that match.

    Raises:
        click.UsageError: both, or neither, or filters without ``--all``.
    """
    if chosen["all_matching"] == (mission_id is not None):
        raise click.UsageError("Give a mission's id, or --all with filters such as --vp or --status.")
    wanted = filtered(**chosen)
    if mission_id is not None and wanted:
        raise click.UsageError("Filters go with --all; leave them out to name one mission.")
    if mission_id is None and not wanted:
        raise click.UsageError("--all wants at least one filter: --vp, --status, --session, --text, --since, --until.")
    return mission_id is not None


def filtered(**chosen: Any) -> dict[str, Any]:
    """Those filters that were given, by the names of the contract; an empty one too, which the contract refuses.

    Left out, as a variable that a script forgot to set, it would make `vp cancel --all` mean more than was asked for.
    """
    wanted = {**chosen, "status": list(chosen["status"]) or None}
    return {name: wanted[name] for name in FILTERS if wanted[name] is not None}


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
