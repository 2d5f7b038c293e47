"""Runs a program: the profile's argv, or the mission's own command where the profile allows it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from vp_queue.contracts import FailureCode
from vp_queue.executors.base import Availability, Brief, Control, ExecutorFailure


class CommandExecutor:
    """``executor = "command"`` with ``options.argv``; also every mission of type "command"."""

    def availability(self, options: Mapping[str, Any]) -> Availability:
        argv = options.get("argv")
        if argv is None:
            return Availability(
                False,
                'its profile has no options.argv, so it runs mission_type="command" only; set argv under '
                '[vp."<vp_id>".options] in vp_queue.toml to give it a program',
            )
        if not isinstance(argv, list) or not argv or not all(isinstance(part, str) for part in argv):
            return Availability(False, "options.argv must be a non-empty list of strings")
        if not argv[0].startswith("{") and shutil.which(argv[0]) is None:
            return Availability(False, f"its program {argv[0]!r} is not installed or not on PATH")
        return Availability(True)

    def run(self, brief: Brief, control: Control) -> str | None:
        if brief.mission_type == "command":
            argv = list(brief.constraints["command"])
        else:
            argv = fill_placeholders(brief.options.get("argv") or (), brief)
        if not argv:
            raise ExecutorFailure(FailureCode.EXECUTOR_UNAVAILABLE, "The profile has no options.argv.")
        control.run_program(argv).check(argv[0])
        return None


def fill_placeholders(argv: Sequence[str], brief: Brief) -> list[str]:
    """Replace elements that are a placeholder; only whole elements, so no path is ever split or quoted."""
    values = {
        "{workspace}": os.fspath(brief.workspace),
        "{work_products}": os.fspath(brief.work_products),
        "{mission_file}": os.fspath(brief.mission_file),
        "{target_path}": os.fspath(brief.target_path or brief.workspace),
    }
    return [values.get(part, part) for part in argv]
