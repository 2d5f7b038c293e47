"""Finds executors by name: built in, or any package's entry point in ``vp_queue.executors``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Final

from vp_queue import clock
from vp_queue.contracts import FailureCode
from vp_queue.executors.base import Availability, Executor, ExecutorFailure
from vp_queue.executors.command import CommandExecutor
from vp_queue.executors.model import ModelExecutor
from vp_queue.executors.python import PythonExecutor

GROUP: Final = "vp_queue.executors"
YES_SECONDS: Final = 1.0
YES_KEPT: Final = 64
_BUILT_IN: Final[Mapping[str, type[Executor]]] = {
    "command": CommandExecutor,
    "model": ModelExecutor,
    "python": PythonExecutor,
}


@functools.cache
def executor(name: str) -> Executor:
    """The executor of this name, one instance per process.

    Raises:
        ExecutorFailure: there is none, or its package cannot be imported.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]()
    found = entry_points(group=GROUP, name=name)
    if not found:
        raise ExecutorFailure(
            FailureCode.EXECUTOR_UNAVAILABLE,
            f'no executor {name!r} is installed; set executor = "command" with options.argv in vp_queue.toml, '
            f"or install the package that provides it",
        )
    try:
        made: Executor = next(iter(found)).load()()
    except Exception as error:  # whatever a plugin's import or constructor raises
        raise ExecutorFailure(
            FailureCode.EXECUTOR_UNAVAILABLE, f"executor {name!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return made


def check_mission(name: str, metadata: Mapping[str, str], constraints: Mapping[str, Any]) -> None:
    """Let the executor look at what a mission asks for, if it has a word to say about it.

    Raises:
        UnfitMission: it could never carry it out.
    """
    check = getattr(executor(name), "check", None)
    if check is not None:
        check(metadata, constraints)


def lately_available(name: str, options: Mapping[str, Any]) -> Availability:
    """The same, but a yes may be ``YES_SECONDS`` old: to look for a program or package takes as long as a dispatch.

    A program that vanished meanwhile is missed at the attempt's start, as one that vanishes while queued.

    Args:
        options: those of a profile; the very same object is recognised, not an equal one.
    """
    key = name, id(options)
    known = _lately.get(key)
    if known is not None and known[0] is options and clock.monotonic() < known[1]:
        return known[2]
    found = availability(name, options)
    if found.ok:
        if len(_lately) >= YES_KEPT:
            _lately.clear()
        _lately[key] = options, clock.monotonic() + YES_SECONDS, found
    return found


_lately: dict[tuple[str, int], tuple[Mapping[str, Any], float, Availability]] = {}


def availability(name: str, options: Mapping[str, Any]) -> Availability:
    """Whether this executor can run here with a profile's options."""
    try:
        return executor(name).availability(options)
    except ExecutorFailure as failure:
        return Availability(False, failure.message)
