"""Runs a poet, any program that prints a haiku, and judges what it printed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from vp_queue.contracts import FailureCode
from vp_queue.executors.base import Availability, Brief, Control, ExecutorFailure


class Haiku:
    """``executor = "haiku"`` with ``options.poet``: a program that gets the path of MISSION.md as its only argument."""

    def availability(self, options: Mapping[str, Any]) -> Availability:
        """Whether the poet is there."""
        poet = options.get("poet")
        if not isinstance(poet, str):
            return Availability(False, "options.poet must name a program")
        if shutil.which(poet) is None:
            return Availability(False, f"its poet {poet!r} is not installed or not on PATH")
        return Availability(True)

    def run(self, brief: Brief, control: Control) -> str | None:
        """Have the poet write, and count the lines."""
        control.report(fraction=0.1, message="waiting for the poet")
        target = brief.work_products / "haiku.txt"
        # Paths only, each an argument of its own: what is on a command line, every user of the machine can read.
        script = ["sh", "-c", '"$1" "$2" > "$3"', "sh", brief.options["poet"], str(brief.mission_file), str(target)]
        control.run_program(script).check("The poet")
        lines = target.read_text(encoding="utf-8").splitlines()
        if len(lines) != 3:
            raise ExecutorFailure(FailureCode.REFUSED, f"A haiku has three lines, not {len(lines)}.")
        return lines[0]
