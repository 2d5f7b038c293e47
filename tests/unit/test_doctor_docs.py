"""docs/operations.md explains every message of ``vp doctor``: they are read out of its source, so none is forgotten."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vp_queue.operations import doctor

ROOT = Path(__file__).resolve().parents[2]
MARK = "<!-- check: doctor-messages -->\n"


@dataclass(frozen=True)
class Finding:
    """One call in the source: the line's name, and the texts it may show, "…" for what differs."""

    name: str
    details: tuple[str, ...]
    fixes: tuple[str, ...]


def texts(expression: ast.expr, function: ast.AST) -> Iterator[str]:
    """The texts an expression can become, "…" in the place of values."""
    match expression:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)
        case ast.IfExp(body=first, orelse=second):
            yield from texts(first, function)
            yield from texts(second, function)
        case ast.BoolOp(values=values):
            for value in values:
                yield from texts(value, function)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            for pair in itertools.product(texts(left, function), texts(right, function)):
                yield "".join(pair)
        case ast.Name(id=name):
            assigned = [
                node.value
                for node in ast.walk(function)
                if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)
            ]
            for value in assigned:
                yield from texts(value, function)
            if not assigned:
                yield "…"
        case _:
            yield "…"


def telling(expression: ast.expr, function: ast.AST) -> tuple[str, ...]:
    """Those that hold words of doctor's own."""
    found = (re.sub("…+", "…", text) for text in texts(expression, function))
    return tuple(dict.fromkeys(text for text in found if re.search("[a-z]{2}", text)))


def findings(source: str) -> list[Finding]:
    """What ``check`` is called with wherever it is given something to do about it."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for call in ast.walk(function):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "check"):
                continue
            if len(call.args) < 4:
                continue
            name, _, detail, fix = call.args
            found.append(Finding(next(texts(name, function)), telling(detail, function), telling(fix, function)))
    return found


def plain(text: str) -> str:
    return " ".join(text.replace("`", "").replace("\\|", "|").split())


def explained() -> str:
    """The table of messages, as plain text."""
    after = (ROOT / "docs/operations.md").read_text(encoding="utf-8").partition(MARK)[2]
    return plain(after.partition("\n\n")[0])


SOURCE = Path(doctor.__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize("finding", findings(SOURCE), ids=lambda finding: f"{finding.name}: {finding.fixes[:1]}")
def test_every_message_of_doctor_is_explained(finding: Finding) -> None:
    missing = [text for text in (*finding.details, *finding.fixes) if plain(text) not in explained()]
    assert not missing, f"docs/operations.md, table after {MARK.strip()}: add a row for {finding.name!r} with {missing}"


def test_what_is_read_out_of_the_source_is_what_doctor_says() -> None:
    """The negative control: a message that nobody explained is found, however it is put together."""
    source = """
def new(disk):
    fix = f"Turn {disk} round."
    if disk:
        fix = "Buy one."
    yield check("disk", None, "it spins" if disk else "it " + "stands", fix)
    yield check("fine", True, "nothing to do")
"""
    assert findings(source) == [Finding("disk", ("it spins", "it stands"), ("Turn … round.", "Buy one."))]
