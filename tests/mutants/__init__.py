"""Guards removed on purpose: the negative controls of the fault tests.

A test of a guard proves something only if it fails without the guard. A mutant is a function that removes one,
by replacing a function of ``vp_queue`` in the process it is called in. A test calls it under ``monkeypatch`` or,
for a real consumer, keeper or CLI, starts the program through ``python -m tests.mutants NAME[,NAME] PROGRAM …``
(``Home.start(…, mutants="NAME")``). Each file of this folder holds the mutants of one subject.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Final

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
