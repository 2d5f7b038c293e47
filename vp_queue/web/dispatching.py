"""The form that dispatches a mission. Its fields are named as the contract names them, so that errors find theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from vp_queue import clock, errors, missions, tools
from vp_queue.web import forms, pages
from vp_queue.web.forms import Form, back_to, change

Read = Callable[[str], Any]
CONSTRAINTS: Final = "constraints"


def _time(text: str) -> str:
    return clock.as_text(forms.instant(text))


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'this is no JSON ({error}); write an object such as {{"key": "text"}}') from None
    if not isinstance(found, dict):
        raise ValueError('write a JSON object such as {"key": "text"}')
    return found


# By the field's name, how its text is read; what is left empty is not given.
FIELDS: Final[dict[str, Read]] = {
    "vp_id": str,
    "objective": str,
    "mission_type": str.strip,
    "constraints.target_path": str.strip,
    "constraints.command": forms.lines,
    "constraints.require_artifacts": forms.lines,
    CONSTRAINTS: _object,
    "budget.max_duration_seconds": forms.duration_seconds,
    "budget.max_cost_usd": forms.decimal,
    "budget.max_tokens": forms.whole,
    "budget.max_turns": forms.whole,
    "priority": forms.whole,
    "max_attempts": forms.whole,
    "not_before": _time,
    "expires_at": _time,
    "source_session_id": str.strip,
    "metadata": _object,
    "idempotency_key": str,
}


def routes() -> list[BaseRoute]:
    """The form."""
    return [Route("/missions/new", new), Route("/missions/new", change(dispatch), methods=["POST"])]


def new(request: Request) -> Response:
    """An empty form; its address may name a VP."""
    return _form(request, {"vp_id": request.query_params.get("vp", "")})


def dispatch(request: Request, form: Form) -> Response:
    """Dispatch it, or show the form again with what is wrong with it."""
    arguments, problems = _arguments(form)
    if problems:
        return _form(request, form, problems, errors.ValidationError.http_status)
    answer = tools.vp_dispatch_mission(**arguments)
    if answer["ok"]:
        note = "dispatched" if answer["created"] else "replayed"
        return back_to(f"/missions/{answer['mission']['mission_id']}", note)
    error = answer["error"]
    return _form(request, form, _problems(error), errors.by_code(error["code"]).http_status)


def _arguments(form: Form) -> tuple[dict[str, Any], dict[str, str]]:
    """The tool's arguments, and what could not be read, by field."""
    arguments: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, read in FIELDS.items():
        text = form.get(name, "")
        if not text.strip():
            continue
        try:
            value = read(text)
        except ValueError as error:
            problems[name] = str(error)
            continue
        section, _, key = name.partition(".")
        if key:
            arguments.setdefault(section, {})[key] = value
        elif name == CONSTRAINTS:
            twice = sorted(value.keys() & arguments.get(name, {}).keys())
            if twice:
                problems[name] = f"{twice[0]} stands in a field of its own already"
            arguments[name] = {**value, **arguments.get(name, {})}
        else:
            arguments[name] = value
    arguments.setdefault("vp_id", "")
    arguments.setdefault("objective", "")
    return arguments, problems


def _problems(error: dict[str, Any]) -> dict[str, str]:
    """The contract's findings by the form's fields; those of none are under "", for the top of the form."""
    found: dict[str, str] = {}
    details = error["details"]
    for each in details.get("errors") or [{"field": details.get("field") or "", "message": error["message"]}]:
        name = _field(each["field"])
        # At a field of many parts the message says which of them is meant.
        rest = each["field"].removeprefix(name).lstrip(".")
        found.setdefault(name, f"{rest}: {each['message']}" if rest and name else each["message"])
    return found


def _field(named: str) -> str:
    """The field of the form that an argument's name leads to: its own, or the nearest above it."""
    while named and named not in FIELDS:
        named = named.rpartition(".")[0]
    return "" if named == "idempotency_key" else named


def _form(request: Request, typed: Form, problems: dict[str, str] | None = None, status: int = 200) -> Response:
    problems = problems or {}
    # A form that was refused was not dispatched; one whose key stands for another request wants a new one.
    key = typed.get("idempotency_key") if problems and "" not in problems else None
    return pages.render(
        request,
        "new.html",
        status=status,
        section="/missions",
        live=False,
        typed={**dict.fromkeys(FIELDS, ""), **typed, "idempotency_key": key or f"dashboard-{clock.new_token()}"},
        problems=problems,
        first=next((name for name in FIELDS if name in problems), ""),
        vps=missions.vps().vps,
    )
