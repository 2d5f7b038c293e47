"""Guards removed on purpose: the negative controls of the fault tests.

A test of a guard proves something only if it fails without the guard. A mutant is a function that removes one,
by replacing a function of ``vp_queue`` in the process it is called in. A test calls it under ``monkeypatch`` or,
for a real consumer, keeper or CLI, starts the program through ``python -m tests.mutants NAME[,NAME] PROGRAM …``
(``Home.start(…, mutants="NAME")``). Each file of this folder holds the mutants of one subject.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

Mutant = Callable[[], None]
MUTANTS: Final[dict[str, Mutant]] = {}


def mutant(function: Mutant) -> Mutant:
    """Register a mutant under its function's name, with hyphens."""
    name = function.__name__.replace("_", "-")
    assert name not in MUTANTS, name
    MUTANTS[name] = function
    return function


def apply(names: str) -> None:
    """Remove these guards in this process.

    Args:
        names: of mutants, separated by commas.
    """
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("__"):
            importlib.import_module(f"{__name__}.{module.name}")
    for name in names.split(","):
        MUTANTS[name]()


@contextlib.contextmanager
def removed(names: str) -> Iterator[None]:
    """Remove these guards within a ``with`` block: whatever mutants replace in a module of vp_queue is put back.

    Args:
        names: of mutants, separated by commas.
    """
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "vp_queue" and module]
    before: list[dict[str, Any]] = [dict(vars(module)) for module in modules]
    try:
        apply(names)
        yield
    finally:
        for module, held in zip(modules, before, strict=True):
            for name, value in held.items():
                if vars(module).get(name) is not value:
                    setattr(module, name, value)
