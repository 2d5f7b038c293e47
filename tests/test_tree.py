"""The tree stays readable and safe: short files, names that say something, no known trap in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINES_MAX = 420  # "about 400", with room for a last import
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc"}
# Everything that writes goes through write_transaction(), so only its home begins transactions.
TRANSACTIONS_HOME = "vp_queue/ledger/database.py"
UNSAFE_IMPORTS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve"}


def source_files() -> list[Path]:
    """Every file of the library, tasks and cli; not through the links, so each once."""
    found = []
    for folder in ("vp_queue", "tasks", "cli"):
        found += [
            path
            for path in sorted((ROOT / folder).rglob("*"))
            if path.is_file() and path.resolve() == path and "__pycache__" not in path.parts
        ]
    return found


def python_files() -> list[Path]:
    return [path for path in source_files() if path.suffix == ".py"]


def too_long(text: str) -> str | None:
    lines = text.count("\n") + (not text.endswith("\n"))
    return f"{lines} lines: a file is one noun of at most {LINES_MAX}; split it" if lines > LINES_MAX else None


def vague(path: str) -> str | None:
    """Names the vague word, if a part of the path is one or ends in one (``lease_utils``)."""
    for part in Path(path).with_suffix("").parts:
        words = set(re.split(r"[_\-.]", part.lower()))
        if words & VAGUE_NAMES:
            return f"'{part}' says nothing; name the noun"
    return None


def called(node: ast.AST) -> str:
    """The attribute that a call calls: ``atomic`` for ``db.atomic()``."""
    return node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""


def imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and not node.level:
        return {(node.module or "").split(".")[0]}
    return set()


def traps(path: str, source: str) -> Iterator[str]:
    """Each known trap in one module, with its line."""
    for number, line in enumerate(source.splitlines(), start=1):
        if re.search(r"\b(TODO|FIXME|XXX)\b", line):
            yield f"{number}: finish it or file it; the tree keeps no TODO"
    for node in ast.walk(ast.parse(source)):
        line_number = getattr(node, "lineno", 0)
        if isinstance(node, ast.Attribute) and node.attr in ("utcnow", "utcfromtimestamp"):
            yield f"{line_number}: {node.attr} is naive; use vp_queue.clock"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{line_number}: a bare except catches SystemExit and KeyboardInterrupt too; name the exception"
        if imported(node) & UNSAFE_IMPORTS:
            yield f"{line_number}: unpickling runs whatever the bytes say; use JSON"
        if called(node) in ("atomic", "transaction", "begin") and path != TRANSACTIONS_HOME:
            yield f"{line_number}: only {TRANSACTIONS_HOME} begins transactions; use write_transaction()"


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_tree_is_seen() -> None:
    assert "vp_queue/clock.py" in {relative(path) for path in python_files()}


def test_files_are_short() -> None:
    found = [
        f"{relative(path)}: {why}" for path in python_files() if (why := too_long(path.read_text(encoding="utf-8")))
    ]
    assert not found, "\n".join(found)


def test_names_say_something() -> None:
    found = [f"{relative(path)}: {why}" for path in source_files() if (why := vague(relative(path)))]
    assert not found, "\n".join(found)


def test_no_traps() -> None:
    found = [
        f"{relative(path)}:{trap}"
        for path in python_files()
        for trap in traps(relative(path), path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def test_links_are_relative_and_stay_inside() -> None:
    # An absolute link breaks in every other clone. The two folders are the import path of tasks and cli.
    links = [path for path in (ROOT / "vp_queue").rglob("*") if path.is_symlink()]
    assert {"vp_queue/cli", "vp_queue/tasks", "vp_queue/skills", "vp_queue/supervisord.conf"} <= {
        relative(path) for path in links
    }
    for link in links:
        assert not link.readlink().is_absolute(), link
        assert link.resolve(strict=True).is_relative_to(ROOT), link


TRAPS = [
    "import pickle",
    "from pickle import loads",
    "def late():\n    import marshal",
    "try:\n    run()\nexcept:\n    pass",
    "from datetime import datetime\nnow = datetime.utcnow()",
    "import datetime\nclock = datetime.datetime.utcnow",
    "x = 1  # " + "TODO: later",
    "# " + "FIXME",
    "with db.atomic('immediate'):\n    pass",
    "with ledger.db.transaction():\n    pass",
]


@pytest.mark.parametrize("source", TRAPS)
def test_a_trap_is_reported(source: str) -> None:
    assert len(list(traps("vp_queue/ledger/queries.py", source))) == 1


def test_what_is_no_trap_is_not_reported() -> None:
    source = "try:\n    run()\nexcept OSError:\n    pass\nwith write_transaction() as tx:\n    tx.record(now())"
    assert list(traps("vp_queue/missions.py", source)) == []
    assert list(traps(TRANSACTIONS_HOME, "with db.atomic('immediate'):\n    pass")) == []


@pytest.mark.parametrize(
    "path", ["vp_queue/utils.py", "vp_queue/helpers/text.py", "cli/lease_utils.py", "tasks/misc.toml"]
)
def test_a_vague_name_is_reported(path: str) -> None:
    assert vague(path)


def test_a_long_file_is_reported() -> None:
    assert too_long("x = 1\n" * (LINES_MAX + 1))
    assert not too_long("x = 1\n" * LINES_MAX)
    assert not vague("vp_queue/worker/process.py")
