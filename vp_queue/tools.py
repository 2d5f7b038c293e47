"""The ``vp_*`` tools: what an orchestrator delegates with.

Plain synchronous functions, keyword arguments in, a JSON-able dict out, and nothing raised that the caller
or the world can cause::

    {"ok": true, ...}
    {"ok": false, "error": {"code": ..., "message": ..., "retryable": ..., "details": {...}}}

Arguments and answers are the models of ``vp_queue.contracts``; all faces (MCP, CLI, HTTP) call these.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import pydantic

from vp_queue import clock, missions, missions_artifacts, missions_inbox, missions_lists
from vp_queue.contracts import requests, views
from vp_queue.errors import InternalError, ValidationError, VpError

logger = logging.getLogger("vp_queue.tools")

Tool = Callable[..., dict[str, Any]]
Request = TypeVar("Request", bound=requests.Strict)
ERRORS_LISTED: Final = 10
DEPTH_COUNTED: Final = 2_000


class Hints(NamedTuple):
    """What a host may show or decide by (MCP's tool annotations have the same meaning)."""

    read_only: bool = False
    idempotent: bool = False
    destructive: bool = False


@dataclass(frozen=True)
class Operation:
    """Something a face offers: its name, the models of its arguments and answer, and what carries it out."""

    name: str
    title: str
    arguments: type[requests.Strict]
    answer: type[views.Answer]
    hints: Hints
    _use_case: Callable[..., views.Answer]

    @property
    def description(self) -> str:
        """What it does, for a language model."""
        return inspect.cleandoc(self.arguments.__doc__ or "")

    def parse(self, given: dict[str, Any], positional: tuple[Any, ...] = ()) -> Any:
        """The arguments as the contract's model.

        Raises:
            ValidationError: they are none; the error names the field.
        """
        return _parse(self.arguments, list(self.arguments.model_fields), positional, given)

    def answer_to(self, positional: tuple[Any, ...], given: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Carry it out; whatever goes wrong is an answer too."""
        try:
            return self._use_case(self.parse(given, positional), **more).dump()
        except VpError as error:
            return _failure(error)
        except Exception:
            error_id = clock.new_token()[:12]
            logger.exception("%s failed, error id %s", self.name, error_id)
            return _failure(
                InternalError(
                    f"vp-queue failed inside; the log has the details under error id {error_id}.", error_id=error_id
                )
            )


@dataclass(frozen=True)
class Definition(Operation):
    """One tool: an operation that every face offers, and what a host wants to know of it besides.

    ``waits``: it may take as long as its caller asked for; :func:`call` then takes ``keep_waiting``.
    """

    function: Tool
    waits: bool


DEFINITIONS: Final[dict[str, Definition]] = {}


def _tool(
    name: str,
    title: str,
    arguments: type[Request],
    answer: type[views.Answer],
    use_case: Callable[..., views.Answer],
    hints: Hints,
    *,
    waits: bool = False,
) -> Tool:
    def call(*positional: Any, **given: Any) -> dict[str, Any]:
        return definition.answer_to(positional, given)

    definition = DEFINITIONS[name] = Definition(name, title, arguments, answer, hints, use_case, call, waits)
    call.__name__ = call.__qualname__ = name
    call.__doc__ = arguments.__doc__
    signature = inspect.Signature(
        [
            inspect.Parameter(
                field,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if info.is_required() else info.get_default(call_default_factory=True),
                annotation=info.annotation,
            )
            for field, info in arguments.model_fields.items()
        ],
        return_annotation=dict[str, Any],
    )
    setattr(call, "__signature__", signature)  # noqa: B010  the documented way; a plain function declares no such field
    return call


def parsed(model: type[Request], arguments: dict[str, Any]) -> Request:
    """A request from untrusted arguments, for faces that call more use cases than the tools have.

    Raises:
        ValidationError: which names the field at fault.
    """
    return _parse(model, list(model.model_fields), (), arguments)


def _parse(model: type[Request], names: list[str], positional: tuple[Any, ...], given: dict[str, Any]) -> Request:
    if len(positional) > len(names):
        raise ValidationError(f"At most {len(names)} arguments are taken: {', '.join(names)}.", field=None)
    by_position = dict(zip(names, positional, strict=False))
    twice = by_position.keys() & given.keys()
    if twice:
        raise ValidationError(f"{min(twice)} was given twice.", field=min(twice))
    arguments = {**by_position, **given}
    for name in arguments:
        if not name.isprintable() and name not in names:  # pydantic cannot name a lone surrogate
            raise ValidationError(f"{_printable(name)}: is not known here", field=_printable(name))
    try:
        return model.model_validate(arguments)
    except pydantic.ValidationError as error:
        raise _explained(error, names, arguments) from None
    except RecursionError:
        deepest = max(arguments, key=lambda name: _depth(arguments[name]))
        raise ValidationError(f"{_printable(deepest)}: is nested too deeply.", field=_printable(deepest)) from None


def _depth(value: Any) -> int:
    """How deeply lists and dicts are nested, counted up to ``DEPTH_COUNTED`` without recursion."""
    level, depth = [value], 0
    while level and depth < DEPTH_COUNTED:
        inner = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        level, depth = [item for items in inner for item in items], depth + 1
    return depth


def _location(loc: tuple[int | str, ...], arguments: dict[str, Any]) -> list[str]:
    """The path to a value as its caller knows it: without the names pydantic gives to a union's branches."""
    path: list[str] = []
    value: Any = arguments
    for part in loc:
        if isinstance(value, dict) and part != "[key]":
            path.append(str(part))
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            path.append(str(part))
            value = value[part] if part < len(value) else None
    return path


def _explained(error: pydantic.ValidationError, names: list[str], arguments: dict[str, Any]) -> ValidationError:
    """Pydantic's findings as one error that names the field first at fault, without echoing its value."""
    found = []
    for item in error.errors(include_url=False, include_context=False, include_input=False)[:ERRORS_LISTED]:
        path = _location(item["loc"], arguments)
        message = item["msg"].removeprefix("Value error, ")
        if not path or path[-1] in ("constraints", "budget"):
            # A rule over several keys begins its message with the key it is about.
            key, _, rest = message.partition(": ")
            path, message = ([*path, key], rest) if rest and key.replace(".", "").isidentifier() else (path, message)
        if item["type"] in ("too_short", "string_too_short"):  # there is no other least length
            message = "must not be empty"
        elif item["type"] == "extra_forbidden":
            known = f"; known: {', '.join(names)}" if len(path) == 1 else ""
            message = f"is not known here{known}"
        found.append({"field": _printable(".".join(path)), "message": message})
    found = list({item["field"]: item for item in reversed(found)}.values())[::-1]  # a union tells one field twice
    first = found[0]
    field = first["field"] or None
    text = f"{field}: {first['message']}" if field else first["message"]
    if len(found) > 1:
        text += f" (and {len(found) - 1} more)"
    return ValidationError(text, field=field, errors=found)


def _printable(text: str) -> str:
    """An unknown argument's name comes from the caller: bounded, and no hostile characters in the answer."""
    return text[:200].encode("unicode_escape", "replace").decode() if not text.isprintable() else text[:200]


def _failure(error: VpError) -> dict[str, Any]:
    return {"ok": False, "error": error.as_dict()}


_READS: Final = Hints(read_only=True)

vp_dispatch_mission = _tool(
    "vp_dispatch_mission",
    "Dispatch a mission",
    requests.DispatchMission,
    views.DispatchAnswer,
    missions.dispatch,
    Hints(idempotent=True),  # with a key; without one each call is a new mission
)
vp_get_mission = _tool("vp_get_mission", "Show a mission", requests.GetMission, views.GetAnswer, missions.get, _READS)
vp_list_missions = _tool(
    "vp_list_missions", "List missions", requests.ListMissions, views.ListAnswer, missions_lists.list_missions, _READS
)
vp_wait_mission = _tool(
    "vp_wait_mission", "Wait for a mission", requests.WaitMission, views.WaitAnswer, missions.wait, _READS, waits=True
)
vp_cancel_mission = _tool(
    "vp_cancel_mission",
    "Cancel a mission",
    requests.CancelMission,
    views.CancelAnswer,
    missions.cancel,
    Hints(idempotent=True, destructive=True),
)
vp_read_result_artifacts = _tool(
    "vp_read_result_artifacts",
    "Read results and artifacts",
    requests.ReadResultArtifacts,
    views.ReadAnswer,
    missions_artifacts.read_result,
    _READS,
)
vp_retry_mission = _tool(
    "vp_retry_mission", "Retry a mission", requests.RetryMission, views.RetryAnswer, missions.retry, Hints()
)
vp_read_events = _tool(
    "vp_read_events",
    "Read your inbox",
    requests.ReadEvents,
    views.EventsAnswer,
    missions_inbox.read_events,
    Hints(idempotent=True),
    waits=True,
)
vp_list_vps = _tool("vp_list_vps", "List the VPs", requests.ListVps, views.VpsAnswer, lambda _: missions.vps(), _READS)


def call(name: str, arguments: dict[str, Any], *, keep_waiting: missions.KeepWaiting | None = None) -> dict[str, Any]:
    """Call a tool by its name, as a host does for its model.

    Args:
        keep_waiting: for a tool that waits: asked each time it has looked and is to go on waiting, with the
            mission as it stands (None where it waits for events); False ends the wait as if its time were up.
            It must not block. Ignored by the other tools.

    Returns:
        the tool's answer; a ``validation_error`` where there is no tool of this name.
    """
    definition = DEFINITIONS.get(name)
    if definition is None:
        return _failure(_no_such_tool(name))
    return definition.answer_to((), arguments, **({"keep_waiting": keep_waiting} if definition.waits else {}))


def _no_such_tool(name: str) -> ValidationError:
    return ValidationError(f"There is no tool {_printable(name)!r}; there are: {', '.join(DEFINITIONS)}.", field="tool")


def schema(name: str) -> dict[str, Any]:
    """The JSON Schemas of a tool's arguments and answers.

    Raises:
        ValidationError: there is no such tool.
    """
    definition = DEFINITIONS.get(name)
    if definition is None:
        raise _no_such_tool(name)
    return {
        "tool": name,
        "description": definition.description,
        "arguments": definition.arguments.model_json_schema(mode="validation"),
        "answer": definition.answer.model_json_schema(mode="serialization"),
        "error": views.ErrorAnswer.model_json_schema(mode="serialization"),
    }
