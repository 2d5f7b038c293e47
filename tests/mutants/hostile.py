"""Mutants of what holds a hostile program."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tests.mutants import mutant


@mutant
def no_process_limit() -> None:
    """Programs may fork as often as they like."""
    from vp_queue.worker import process

    honest = process._specification

    def unlimited(program: process.Program) -> tuple[dict[str, Any], list[int]]:
        specification, fds = honest(program)
        return {**specification, "max_processes": 0}, fds

    process._specification = unlimited


@mutant
def environment_passed_through() -> None:
    """A program gets all of the worker's environment, as from any ordinary spawn."""
    from vp_queue.worker import control

    honest = control.program_environment

    def generous(worker_environment: Mapping[str, str], *args: Any, **named: Any) -> dict[str, str]:
        return {**os.environ, **honest(worker_environment, *args, **named)}

    control.program_environment = generous


@mutant
def nothing_redacted() -> None:
    """No value counts as a secret."""
    from vp_queue.worker import control

    control.secrets_of = lambda environment: ()


@mutant
def no_user_switch() -> None:
    """``run_as`` prepares everything, but the program keeps the worker's rights."""
    from vp_queue.worker import process

    honest = process._specification

    def unchanged(program: process.Program) -> tuple[dict[str, Any], list[int]]:
        specification, fds = honest(program)
        return {**specification, "account": None}, fds

    process._specification = unchanged


@mutant
def any_owner() -> None:
    """Whatever a program moved into ``work_products/`` is published, whoever owns it."""
    from vp_queue.worker import artifacts

    honest = artifacts.collect
    artifacts.collect = lambda folder, *, owner_uid: honest(folder)  # type: ignore[misc]


@mutant
def workspace_left_open() -> None:
    """An attempt's folder stays shared after its program has ended."""
    from vp_queue.worker import runner

    runner.take_back = lambda path: None
