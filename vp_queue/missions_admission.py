"""Whether a mission could run here: asked before it is accepted, and shown of every VP.

What could only fail later is refused at dispatch, in the words in which `vp vps` and the doctor tell it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from vp_queue import clock, missions_space
from vp_queue.config import Profile, Settings
from vp_queue.contracts import requests as asked
from vp_queue.errors import ExecutorUnavailable, ValidationError, VpDisabled

if TYPE_CHECKING:
    from vp_queue.executors.base import Availability

COMMANDS_ONLY: Final = 'only mission_type="command"'


def check_can_run(settings: Settings, profile: Profile, request: asked.DispatchMission) -> str | None:
    """Refuse what could only fail later; returns the resolved target path, if one is asked for."""
    if not profile.enabled:
        raise VpDisabled(f"{profile.vp_id} is disabled; set enabled = true in {settings.config_path}.", field="vp_id")
    if request.expires_at is not None and request.expires_at <= clock.now():
        raise ValidationError("expires_at lies in the past; the mission could never start.", field="expires_at")
    obstacle = _run_as_obstacle(settings, profile)
    if obstacle is not None:
        raise ExecutorUnavailable(
            f"{profile.vp_id} cannot run: {obstacle}. `vp doctor` shows what each VP needs.",
            field="vp_id",
            executor=profile.executor,
        )
    if request.mission_type == "command":
        if not profile.allow_commands:
            raise ValidationError(
                f'{profile.vp_id} runs no commands of missions; use mission_type="task", or set '
                f"allow_commands = true for it in {settings.config_path}.",
                field="constraints.command",
            )
    else:
        from vp_queue.executors import registry
        from vp_queue.executors.base import UnfitMission

        available = registry.lately_available(profile.executor, profile.options)
        if not available.ok:
            raise ExecutorUnavailable(
                f"{profile.vp_id} cannot run: {available.reason}. `vp doctor` shows what each VP needs.",
                field="vp_id",
                executor=profile.executor,
            )
        try:
            registry.check_mission(profile.executor, request.metadata, vars(request.constraints))
        except UnfitMission as unfit:
            raise ValidationError(f"{unfit.field}: {unfit.message}", field=unfit.field) from None
    missions_space.check(settings)
    if request.constraints.target_path is None:
        return None
    from vp_queue.worker.target import resolve_target

    target = resolve_target(request.constraints.target_path, profile.allowed_target_roots, _forbidden(settings))
    if profile.run_as is not None:
        from vp_queue.worker.account import Account

        Account.named(profile.run_as).check_target(target)
    return str(target)


def _run_as_obstacle(settings: Settings, profile: Profile) -> str | None:
    if profile.run_as is None:
        return None
    from vp_queue.worker.account import obstacle

    return obstacle(profile, settings)


def _forbidden(settings: Settings) -> tuple[Path, ...]:
    """Where no mission may work: vp-queue's own state and the workspaces of other missions."""
    return settings.home, settings.workspaces_root


def availability(settings: Settings, profile: Profile) -> Availability:
    """Whether a VP can run here; one that lacks its own program may still run missions' commands."""
    from vp_queue.executors import registry
    from vp_queue.executors.base import Availability

    obstacle = _run_as_obstacle(settings, profile)
    if obstacle is not None:
        return Availability(False, obstacle)
    found = registry.availability(profile.executor, profile.options)
    if found.ok or not profile.allow_commands:
        return found
    return Availability(True, f"{COMMANDS_ONLY}; for other missions: {found.reason}")
