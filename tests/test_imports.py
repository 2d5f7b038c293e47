"""Who may import whom, kept over the syntax tree: the table of docs/architecture.md as code.

Data flows one way, so imports point down only. A module may import lower layers and its own package;
two members of one layer do not know each other. Imports under ``TYPE_CHECKING``, inside functions and
by ``importlib.import_module("…")`` count like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "vp_queue"

# The longest matching name decides: these four stand above the rest of worker.
LAYERS = {
    "vp_queue.errors": 0,
    "vp_queue.clock": 0,
    "vp_queue.code_digest": 0,
    "vp_queue.wording": 0,
    "vp_queue.prompt_rule": 0,
    "vp_queue.contracts": 0,
    "vp_queue.origin": 0,
    "vp_queue.config": 1,
    "vp_queue.ledger": 2,
    "vp_queue.queue": 3,
    "vp_queue.tracing": 3,
    "vp_queue.executors": 3,
    "vp_queue.worker": 3,
    "vp_queue.worker.consumer": 4,
    "vp_queue.worker.control": 4,
    "vp_queue.worker.lease": 4,
    "vp_queue.worker.runner": 4,
    "vp_queue.keeper": 4,
    "vp_queue.missions": 5,
    "vp_queue.tools": 6,
    "vp_queue.tool_schemas": 6,
    "vp_queue.metrics": 6,  # not within web: any face may show figures
    "vp_queue.operations": 6,
    "vp_queue.operations.demo": 7,  # a user of the tools, as an agent is
    "vp_queue.hooks": 7,  # a face, as mcp is: what an agent host hears of the inbox
    "vp_queue.mcp": 7,
    "vp_queue.web": 8,  # serves the MCP server beside its own routes, and shares its pools and guards
    "vp_queue.adapters": 8,  # hosts within an agent's process: they call as the MCP server does, by mcp.calls
}
# Leaves may import everything; nothing imports them but themselves.
LEAVES = {"vp_queue.tasks", "vp_queue.cli", "vp_queue.testing"}
# Contracts read instants, which only the clock knows, and errors need nothing. Schemas are made from the tools. Who
# acts is cleaned as any text is.
WITHIN_A_LAYER = {("contracts", "clock"), ("contracts", "errors"), ("origin", "wording"), ("tool", "tools")}

# Libraries that only some may touch. A leaf that needs Huey is tasks alone.
LIBRARIES = {
    "huey": {"vp_queue.queue", "vp_queue.tasks"},
    "peewee": {"vp_queue.ledger", "vp_queue.queue"},
    "playhouse": {"vp_queue.ledger", "vp_queue.queue"},
    "cysqlite": {"vp_queue.ledger", "vp_queue.queue"},
}

# Lower, yet out of sight: an executor gets the contracts and a control handle.
OUT_OF_SIGHT = {("executors", "ledger")}

# Views show; what writes for them is missions. These are the ledger's writers (ledger.md, rules 1 and 8).
VIEWS = {
    "vp_queue.tools",
    "vp_queue.tool_schemas",
    "vp_queue.metrics",
    "vp_queue.hooks",
    "vp_queue.mcp",
    "vp_queue.web",
    "vp_queue.adapters",
}
NEVER_OPEN_A_WRITE = {*VIEWS, "vp_queue.ledger.queries", "vp_queue.ledger.accounts"}
WRITERS = {
    "vp_queue.ledger.transitions",
    "vp_queue.ledger.leases",
    "vp_queue.ledger.inbox",
    "vp_queue.ledger.fleet",
    "vp_queue.ledger.retention",
    "vp_queue.ledger.deliveries",
    "vp_queue.ledger.seen",
    "vp_queue.ledger.models",
    "vp_queue.queue",
}


@dataclass(frozen=True)
class Module:
    """One source file: its dotted name, whether it is a package's ``__init__``, its text."""

    name: str
    is_package: bool
    source: str


@dataclass(frozen=True)
class Import:
    """One imported name: ``a.b`` may be a module, or ``b`` something that module ``a`` defines."""

    name: str
    line: int


def within(name: str, package: str) -> bool:
    # A module that outgrew its file has siblings of its name: config_profile stands with config.
    return name == package or name.startswith((f"{package}.", f"{package}_"))


def member(name: str, members: set[str] | dict[str, int]) -> str | None:
    """The longest member of the table that this module is or lies in."""
    return max((m for m in members if within(name, m)), key=len, default=None)


def family(name: str) -> str:
    """What belongs together: ``worker`` for ``vp_queue.worker.runner``, ``config`` for ``vp_queue.config_profile``."""
    return name.split(".")[1].partition("_")[0]


def modules_of(root: Path) -> list[Module]:
    """Every module of the package in a checkout, under the one name it is imported by."""
    found = []
    # Not through the links vp_queue/tasks and vp_queue/cli: each file counts once.
    for folder, prefix in (
        (root / PACKAGE, PACKAGE),
        (root / "tasks", "vp_queue.tasks"),
        (root / "cli", "vp_queue.cli"),
    ):
        for path in sorted(folder.rglob("*.py")):
            if path.resolve() != path:
                continue
            parts = path.relative_to(folder).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join((prefix, *(parts[:-1] if is_package else parts)))
            found.append(Module(name, is_package, path.read_text(encoding="utf-8")))
    return found


def imports_of(module: Module, known: set[str]) -> Iterator[Import]:
    """Each import of the module, absolute; ``from a import b`` is ``a.b`` if that is a module, else ``a``."""
    # A module that is in a table but not written yet is forbidden all the same.
    known = known | LAYERS.keys() | LEAVES | WRITERS
    package = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
    for node in ast.walk(ast.parse(module.source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{origin}.{alias.name}"
                yield Import(full if full in known else origin, node.lineno)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            target = node.args[0].value
            if called in ("import_module", "__import__") and isinstance(target, str):
                yield Import(target, node.lineno)


def why_not_library(importer: str, library: str) -> str | None:
    allowed = LIBRARIES.get(library)
    if allowed is None or any(within(importer, package) for package in allowed):
        return None
    return f"only {', '.join(sorted(allowed))} may import {library}"


def why_not_module(importer: str, imported: str) -> str | None:
    """Why this import within vp_queue is forbidden, or None."""
    if imported == PACKAGE:
        return None  # the root holds the version and imports nothing
    leaf = member(imported, LEAVES)
    if leaf is not None:
        return None if within(importer, leaf) else f"nothing imports {leaf}"
    if member(importer, LEAVES):
        return None
    target = member(imported, LAYERS)
    source = member(importer, LAYERS)
    if target is None or source is None:
        return "the module has no place in the table of layers"
    if member(importer, VIEWS) and member(imported, WRITERS):
        return f"a view never writes: it calls missions, not {imported}"
    here, there = LAYERS[source], LAYERS[target]
    if (family(importer), family(imported)) in OUT_OF_SIGHT:
        return f"{family(importer)} never sees {family(imported)}"
    if there < here:
        return None
    if there == here and (
        family(importer) == family(imported) or (family(importer), family(imported)) in WITHIN_A_LAYER
    ):
        return None
    direction = "up" if there > here else "sideways"
    return f"{direction}: layer {here} may not import layer {there}"


def writes_of(module: Module) -> list[str]:
    """Where a module that only reads opens a write transaction all the same."""
    if not member(module.name, NEVER_OPEN_A_WRITE):
        return []
    named = (
        (getattr(n, "id", getattr(n, "attr", getattr(n, "name", ""))), n) for n in ast.walk(ast.parse(module.source))
    )
    return [
        f"{module.name}:{getattr(n, 'lineno', 0)}: a view never writes"
        for name, n in named
        if name == "write_transaction"
    ]


def violations(modules: list[Module]) -> list[str]:
    """Every broken rule, as ``module:line imports name: why``."""
    known = {module.name for module in modules}
    found = []
    for module in modules:
        if module.name != PACKAGE and not member(module.name, LAYERS) and not member(module.name, LEAVES):
            found.append(f"{module.name}: the module has no place in the table of layers")
        found += writes_of(module)
        for each in imports_of(module, known):
            top = each.name.split(".")[0]
            if top in ("tasks", "cli"):
                why: str | None = f"there is one import path: vp_queue.{each.name}"
            elif module.name == PACKAGE:
                why = None if top == "__future__" else "the package's root imports nothing"
            elif top == PACKAGE:
                why = why_not_module(module.name, each.name)
            else:
                why = why_not_library(module.name, top)
            if why:
                found.append(f"{module.name}:{each.line} imports {each.name}: {why}")
    return list(dict.fromkeys(found))  # `from a import b, c` breaks a rule once


def test_imports_point_down_only() -> None:
    modules = modules_of(ROOT)
    assert {"vp_queue", "vp_queue.clock", "vp_queue.contracts.limits"} <= {module.name for module in modules}
    found = violations(modules)
    assert not found, "\n".join(["the import rule is broken:", *found])


def test_every_module_of_the_tree_is_seen_once() -> None:
    names = [module.name for module in modules_of(ROOT)]
    assert len(names) == len(set(names))


FORBIDDEN = [
    ("vp_queue.clock", "import vp_queue.errors", "sideways"),
    ("vp_queue.errors", "from vp_queue import contracts", "sideways"),
    ("vp_queue.contracts.requests", "from vp_queue.config import Settings", "up"),
    ("vp_queue.config", "from vp_queue.ledger import queries", "up"),
    ("vp_queue.ledger.queries", "from ..queue import huey", "up"),
    ("vp_queue.queue.huey", "from vp_queue.worker import runner", "up"),
    ("vp_queue.queue.huey", "from vp_queue.worker.process import spawn", "sideways"),
    ("vp_queue.queue.storage", "import vp_queue.executors.registry", "sideways"),
    ("vp_queue.worker.process", "from . import runner", "up"),
    ("vp_queue.worker.process", "from .runner import Runner", "up"),
    ("vp_queue.worker.runner", "from vp_queue.keeper import recovery", "sideways"),
    ("vp_queue.keeper.recovery", "import vp_queue.worker.lease as lease", "sideways"),
    ("vp_queue.keeper.recovery", "from vp_queue import missions", "up"),
    ("vp_queue.missions", "from vp_queue.tools import vp_get_mission", "up"),
    ("vp_queue.tools", "from vp_queue import tool_schemas", "sideways"),
    ("vp_queue.mcp.server", "from vp_queue.web import app", "up"),
    ("vp_queue.web.app", "from vp_queue.adapters import calling", "sideways"),
    ("vp_queue.mcp.server", "from vp_queue.ledger.transitions import accept", "view"),
    ("vp_queue.tools", "from vp_queue.ledger import transitions", "view"),
    ("vp_queue.tools", "import vp_queue.queue.huey", "view"),
    ("vp_queue.missions", "from vp_queue.tasks import app", "nothing imports vp_queue.tasks"),
    ("vp_queue.web.app", "import vp_queue.cli.main", "nothing imports vp_queue.cli"),
    ("vp_queue.cli.main", "from vp_queue.tasks.app import huey", "nothing imports vp_queue.tasks"),
    ("vp_queue.missions", "import vp_queue.testing", "nothing imports vp_queue.testing"),
    ("vp_queue.missions", "import tasks.app", "one import path"),
    ("vp_queue.executors.command", "from vp_queue.ledger.models import Mission", "never sees"),
    ("vp_queue.executors.command", "import peewee", "may import peewee"),
    ("vp_queue.executors.command", "from huey.api import Huey", "may import huey"),
    ("vp_queue.executors.command", "from vp_queue.worker.process import spawn", "sideways"),
    ("vp_queue.missions", "from playhouse.shortcuts import model_to_dict", "may import playhouse"),
    ("vp_queue.worker.runner", "import huey", "may import huey"),
    ("vp_queue.cli.main", "import huey", "may import huey"),
    ("vp_queue.cli.main", "import peewee", "may import peewee"),
    ("vp_queue.tasks.app", "import peewee", "may import peewee"),
    ("vp_queue.config", "if TYPE_CHECKING:\n    from vp_queue.missions import dispatch", "up"),
    ("vp_queue.config", "def late():\n    from vp_queue import web", "up"),
    ("vp_queue.config_profile", "from vp_queue.executors import registry", "up"),
    ("vp_queue.config", "import_module('vp_queue.tools')", "up"),
    ("vp_queue.stray", "import os", "no place"),
    ("vp_queue", "from vp_queue.tools import vp_list_vps", "root imports nothing"),
]

ALLOWED = [
    ("vp_queue.config", "from vp_queue import config_profile\nfrom vp_queue.errors import ConfigurationError"),
    ("vp_queue.config_profile", "from vp_queue.config import Settings"),
    ("vp_queue.contracts.requests", "from vp_queue import clock\nfrom vp_queue.contracts import limits"),
    ("vp_queue.ledger.models", "import peewee\nfrom playhouse.sqlite_ext import JSONField\nfrom . import queries"),
    ("vp_queue.queue.storage", "from huey.storage import CySqliteStorage\nfrom vp_queue.ledger import database"),
    ("vp_queue.executors.command", "from vp_queue import __version__\nfrom vp_queue.executors.base import Executor"),
    ("vp_queue.worker.runner", "from vp_queue.worker.process import spawn\nfrom vp_queue.executors import registry"),
    ("vp_queue.worker.runner", "from vp_queue.worker import lease"),
    ("vp_queue.keeper.recovery", "from vp_queue.worker import process\nfrom vp_queue.ledger import transitions"),
    (
        "vp_queue.missions.waiting",
        "from vp_queue.missions.dispatching import dispatch\nfrom vp_queue.queue import huey",
    ),
    ("vp_queue.tools", "from vp_queue import missions\nfrom vp_queue.ledger import queries"),
    ("vp_queue.tasks.app", "from vp_queue.queue.huey import huey_for\nfrom vp_queue.worker.runner import run"),
    ("vp_queue.cli.main", "from vp_queue.cli import tables\nfrom vp_queue import tools"),
]


def synthetic(name: str, source: str) -> list[Module]:
    """One module, beside all those that the cases name."""
    others = {n for n, *_ in [*FORBIDDEN, *ALLOWED]} - {name}
    return [
        Module(name, name == PACKAGE, source),
        *(Module(other, False, "") for other in others if other != "vp_queue.stray"),
    ]


@pytest.mark.parametrize(("name", "source", "why"), FORBIDDEN)
def test_a_forbidden_import_is_reported(name: str, source: str, why: str) -> None:
    found = violations(synthetic(name, source))
    assert len(found) == 1, found
    assert why in found[0]


def test_a_view_that_opens_a_write_transaction_is_reported() -> None:
    source = "from vp_queue.ledger import database\ndef page():\n    with database.write_transaction(): ..."
    assert "a view never writes" in violations([Module("vp_queue.ledger.queries", False, source)])[0]
    assert violations([Module("vp_queue.ledger.leases", False, source)]) == []


@pytest.mark.parametrize(("name", "source"), ALLOWED)
def test_an_allowed_import_is_not_reported(name: str, source: str) -> None:
    assert violations(synthetic(name, source)) == []
