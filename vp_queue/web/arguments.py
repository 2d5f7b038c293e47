"""Arguments of an operation, from an address, a query or a JSON body.

Nothing is judged here but the form: what stands there goes to the contract, whose errors name the field.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from typing import Any, Final

from starlette.requests import Request

from vp_queue.errors import ValidationError
from vp_queue.tools import Operation

_INTEGER: Final = re.compile(r"-?[0-9]{1,30}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?")
SHOWN: Final = 100


def of_query(request: Request, operation: Operation) -> dict[str, Any]:
    """What stands in the address, with the types that the operation's arguments have.

    Raises:
        ValidationError: a parameter stands twice and is no list.
    """
    kinds = _kinds(operation)
    found: dict[str, Any] = dict(request.path_params)
    for name in dict.fromkeys(request.query_params):
        texts = request.query_params.getlist(name)
        kind = kinds.get(name, frozenset())
        if name in request.path_params:
            raise ValidationError(f"{name}: stands in the path already", field=name)
        if len(texts) > 1 and "array" not in kind:
            raise ValidationError(f"{_shown(name)}: was given more than once", field=_shown(name))
        many = len(texts) > 1 or ("array" in kind and "string" not in kind)
        found[name] = texts if many else _typed(texts[0], kind)
    return found


async def of_body(request: Request) -> dict[str, Any]:
    """What stands in the path and the JSON body; no body is an empty one.

    Raises:
        ValidationError: it is no JSON object, or says that it is something else.
    """
    body = await request.body()
    found: dict[str, Any] = _object(request, body) if body else {}
    for name in request.query_params:
        raise ValidationError(f"{_shown(name)}: arguments of a change stand in the JSON body", field=_shown(name))
    for name in request.path_params:
        if name in found:
            raise ValidationError(f"{name}: stands in the path already", field=name)
    return {**found, **request.path_params}


def _object(request: Request, body: bytes) -> dict[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ValidationError("The body must be JSON: send it with Content-Type: application/json.", field=None)
    try:
        found = json.loads(body.decode(), object_pairs_hook=_pairs)
    except RecursionError:
        raise ValidationError("The body is nested too deeply.", field=None) from None
    except ValueError as error:  # the decoder's too
        raise ValidationError(f"The body is no JSON: {error}", field=None) from None
    if not isinstance(found, dict):
        raise ValidationError("The body must be a JSON object.", field=None)
    return found


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        # Of two, which one counts would be a matter of taste.
        counts = Counter(name for name, _ in pairs)
        twice = _shown(next(name for name, count in counts.items() if count > 1))
        raise ValidationError(f"{twice}: stands twice in the body", field=twice)
    return found


def _typed(text: str, kind: frozenset[str]) -> Any:
    if "integer" in kind and _INTEGER.fullmatch(text):
        return int(text)
    if "number" in kind and _NUMBER.fullmatch(text):
        return float(text)
    if "boolean" in kind and text in ("true", "false"):
        return text == "true"
    return text


@functools.cache
def _kinds(operation: Operation) -> dict[str, frozenset[str]]:
    """By argument, the JSON types it may have."""
    schema = operation.arguments.model_json_schema(mode="validation")
    definitions = schema.get("$defs", {})

    def kinds(part: dict[str, Any]) -> set[str]:
        if "$ref" in part:
            return kinds(definitions[part["$ref"].rpartition("/")[2]])
        return {part["type"]} if "type" in part else set().union(*map(kinds, part.get("anyOf", [])))

    return {name: frozenset(kinds(part)) for name, part in schema.get("properties", {}).items()}


def _shown(name: str) -> str:
    return name[:SHOWN].encode("unicode_escape", "replace").decode() if not name.isprintable() else name[:SHOWN]
