"""A supervisord that is shutting down answers every question with a refusal: that is no failure of `vp`'s own.

Found by the fault campaign: `vp restart` told of an internal error, with a traceback.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Any

from tests.harness import BIN, GENERAL, Home, until
from vp_queue.operations import supervisord
from vp_queue.operations.programs import place


def vp(home: Home, *args: str) -> dict[str, Any]:
    """The real console script's answer."""
    argv = [BIN / "vp", *args, "--json"]
    done = subprocess.run(argv, env=home.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    answer: dict[str, Any] = json.loads(done.stdout)
    return {**answer, "printed": done.stderr}


def test_a_supervisord_that_shuts_down_is_told_of_as_down(home: Home) -> None:
    up = vp(home, "up", "--detach")
    assert up["ok"], up
    pids = {program["name"]: program["pid"] for program in up["programs"]}
    try:
        os.kill(pids[GENERAL], signal.SIGSTOP)  # it keeps supervisord waiting for its end
        os.kill(up["supervisord"]["pid"], signal.SIGTERM)
        until(lambda: supervisord.connect(place(home.path).socket) is None, "it shuts down")
        status = vp(home, "status")
        assert (status["ok"], status["supervisord"]) == (True, None), status
        restart = vp(home, "restart", GENERAL)
        assert (restart["ok"], restart["error"]["code"]) == (False, "configuration_error"), restart
        assert "Traceback" not in status["printed"] + restart["printed"]
    finally:
        os.kill(pids[GENERAL], signal.SIGCONT)
        vp(home, "down")
