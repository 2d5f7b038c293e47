"""Runs a Python callable, in a process of the launcher's: never in the consumer."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib.machinery import PathFinder
from importlib.metadata import distributions
from typing import Any

from vp_queue.config_options import PythonOptions
from vp_queue.executors import child
from vp_queue.executors.base import Availability, Brief, Control


class PythonExecutor:
    """``executor = "python"`` with ``options.callable``; see ``config_options.PythonOptions``."""

    def availability(self, options: Mapping[str, Any]) -> Availability:
        """Whether the callable's package is there; it is imported only in the mission's own process."""
        wanted = PythonOptions.model_validate(dict(options))
        name = wanted.callable
        if ":" not in name:
            return _entry_point_availability(name, wanted.path)
        top = name.partition(":")[0].partition(".")[0]
        if PathFinder.find_spec(top, wanted.path) is None and not _is_installed(top):
            return Availability(
                False,
                f"there is no module {top!r} for its callable {name!r}; install it beside vp-queue, "
                "or name its folder in options.path",
            )
        return Availability(True)

    def run(self, brief: Brief, control: Control) -> str | None:
        options = PythonOptions.model_validate(dict(brief.options))
        argv, stdin = child.command(options.callable, options.path, options.arguments)
        control.run_program(argv, stdin=stdin).check(options.callable)
        return None


def _is_installed(top: str) -> bool:
    """Whether a top-level module can be found, by any finder: editable installs bring their own. Imports nothing."""
    try:
        return importlib.util.find_spec(top) is not None
    except ValueError:  # it is imported here already, in a way that tells nothing of where from
        return True


def _entry_point_availability(name: str, path: list[str]) -> Availability:
    points = [point for d in (*distributions(), *distributions(path=path)) for point in d.entry_points]
    if any((point.group, point.name) == (child.GROUP, name) for point in points):
        return Availability(True)
    return Availability(
        False,
        f"no installed package offers the callable {name!r} (an entry point in the group {child.GROUP}); "
        "install it beside vp-queue, or give options.callable as module:function",
    )
