"""Forms: how they are answered, and what stands in them, read as people write it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from vp_queue import clock, origin

Form = dict[str, str]
Change = Callable[[Request, Form], Response]

CHANGES_AT_ONCE: Final = 16
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_AMOUNT: Final = r"[0-9]{1,9}(?:\.[0-9]{1,6})?"
_PART: Final = re.compile(rf"({_AMOUNT})\s*([dhms]?)", re.IGNORECASE)
_SECONDS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1, "": 1}


def change(made: Change) -> Callable[[Request], Any]:
    """The endpoint of a form: its fields are read here, the rest is done in a thread.

    Of threads of its own: under a foreign lock a change waits long, and pages must not wait behind it.
    """
    writing = anyio.CapacityLimiter(CHANGES_AT_ONCE)

    async def endpoint(request: Request) -> Response:
        form = await request.form()
        # Browsers end a line with CRLF, whatever was typed.
        fields = {name: value.replace("\r\n", "\n") for name, value in form.items() if isinstance(value, str)}
        with origin.acting("dashboard"):
            return await anyio.to_thread.run_sync(made, request, fields, limiter=writing)

    return endpoint


def back_to(address: str, note: str, **parameters: str) -> Response:
    """To a page that says what was done; 303, so that reloading it does nothing twice."""
    mark = "&" if "?" in address else "?"
    return RedirectResponse(f"{address}{mark}{urlencode({'note': note, **parameters})}", status_code=303)


def instant(text: str, *, end_of_day: bool = False) -> datetime:
    """An instant as a form has it: a day, or a day and a time; in UTC unless it says otherwise.

    Args:
        end_of_day: a day alone means its end rather than its beginning.

    Raises:
        ValueError: it is none; the message says how to write one.
    """
    text = text.strip()
    try:
        found = datetime.fromisoformat(text)
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        if end_of_day and _DAY.fullmatch(text):
            found += timedelta(days=1) - clock.MICROSECOND
    except (ValueError, OverflowError):
        raise ValueError("write a day or a time, in UTC: 2026-11-22 or 2026-11-22T10:00") from None
    return found


def duration_seconds(text: str) -> float:
    """A duration as people write it, in seconds: ``90``, ``90s``, ``45m``, ``1h30m``, ``2d``.

    Raises:
        ValueError: it is none; the message says how to write one.
    """
    parts: list[tuple[str, str]] = _PART.findall(text)
    # Part by part: one expression for the whole would try every way to cut a row of digits.
    if not parts or _PART.sub("", text).strip():
        raise ValueError("write a duration such as 45m, 1h30m or 2d; a number alone is seconds")
    if len(parts) > 1 and not all(unit for _, unit in parts):
        raise ValueError("write a unit after each number: 1h30m")
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in parts)


def whole(text: str) -> int:
    """A whole number; spaces, commas and underscores between its digits count for nothing.

    Raises:
        ValueError: it is none.
    """
    plain = re.sub(r"(?<=[0-9])[ _,](?=[0-9])", "", text.strip())
    if not re.fullmatch(r"-?[0-9]{1,30}", plain):
        raise ValueError("write a whole number")
    return int(plain)


def decimal(text: str) -> float:
    """A number.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(rf"\$?\s*-?{_AMOUNT}", text.strip()):
        raise ValueError("write a number such as 2.50")
    return float(text.strip().removeprefix("$"))


def lines(text: str) -> list[str]:
    """The lines of a text, without those that are empty."""
    return [line for line in text.split("\n") if line.strip()]
