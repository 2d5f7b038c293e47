"""Kinds of arguments that several commands take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


class JsonObject(click.ParamType[dict[str, Any]]):
    """A JSON object, written out or as ``@file``."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """The parsed object; what its keys may be is the tool's to judge."""
        if isinstance(value, dict):
            return value
        text = value
        if value.startswith("@"):
            try:
                text = Path(value[1:]).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                self.fail(f"cannot read {value[1:]}: {error}", param, ctx)
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError) as error:
            self.fail(
                f"this is not JSON ({error}); write e.g. '{{\"max_duration_seconds\": 600}}', or @file", param, ctx
            )
        if not isinstance(parsed, dict):
            self.fail("give a JSON object, {...}", param, ctx)
        return parsed


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
