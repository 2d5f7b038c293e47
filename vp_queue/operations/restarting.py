"""Starts a VP's consumer anew without breaking off what it runs: drain, wait, restart, resume.

Deploys used to TERM missions in mid-work, so nobody dared to restart, and workers ran stale code for days. A restart
that is broken off leaves the VP working as before; one that is killed leaves it draining, and ``vp vps`` says why.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from vp_queue import missions
from vp_queue.config import Settings
from vp_queue.contracts import views
from vp_queue.errors import ConfigurationError, InternalError, VpDisabled, VpError
from vp_queue.ledger.fleet import RESTARTING
from vp_queue.operations import supervision
from vp_queue.operations.supervision_locks import take

logger = logging.getLogger("vp_queue.operations")


def restart(
    settings: Settings,
    vp_id: str,
    timeout_seconds: float,
    on_wait: Callable[[views.VpView], None] = lambda vp: None,
) -> dict[str, Any]:
    """Drain a VP, start its consumer anew under supervisord, and let it take missions again.

    Args:
        timeout_seconds: how long to wait for what runs; 0 does not wait: it is released and runs again.
        on_wait: told how the VP is doing whenever the number of its running missions changes.

    Returns:
        ``restarted``, and the VP; False if missions still ran when the time was up: then it goes on as before.

    Raises:
        UnknownVp, VpDisabled: there is nothing to restart.
        ConfigurationError: no supervisord runs it.
        InternalError: the consumer does not come up again; the VP takes missions as soon as it does. Or another
            restart of it is at work.
    """
    if not settings.profile(vp_id).enabled:
        raise VpDisabled(f"{vp_id} is disabled; set enabled = true in {settings.config_path}.", field="vp_id")
    if vp_id not in {program["name"] for program in supervision.programs(settings)}:
        raise ConfigurationError(
            f"No supervisord of this VP_HOME runs {vp_id}. `vp up --detach` starts it; a `vp worker` that you run "
            f"yourself you restart yourself: vp drain {vp_id} --wait, then stop and start it.",
        )
    lock = settings.run_dir / f"restart.{vp_id}.lock"
    held = take(lock)
    if held is None:
        raise InternalError(f"Another `vp restart {vp_id}` is at work; it holds {lock}.")
    before = missions.vp(vp_id)
    try:
        # A drain of an operator's stays as it is; one that a killed restart left is ours to end.
        if not before.draining:
            missions.drain(vp_id, RESTARTING)
        idle = timeout_seconds == 0
        if not idle:
            for seen in missions.wait_until_idle(vp_id, timeout_seconds):
                on_wait(seen)
                idle = not (seen.running or seen.needs_input)
        if idle:
            supervision.start_anew(settings, vp_id)
    finally:
        _resume(vp_id)
        os.close(held)
    return {"ok": True, "restarted": idle, "vp": missions.vp(vp_id).dump()}


def _resume(vp_id: str) -> None:
    try:
        missions.resume(vp_id, only_drain_for=RESTARTING)
    except VpError as error:
        # In place of the error that may be on its way, which tells more.
        logger.error("%s still drains (%s); when the ledger answers again: vp resume %s", vp_id, error.message, vp_id)
