"""What to do next: errors in the words of the command line, and why a mission is not taken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import click

# Messages are written for all faces and speak of the tools; here they are commands.
COMMANDS_OF_TOOLS: Final = {
    "vp_dispatch_mission": "`vp dispatch`",
    "vp_get_mission": "`vp get`",
    "vp_list_missions": "`vp list`",
    "vp_wait_mission": "`vp wait`",
    "vp_cancel_mission": "`vp cancel`",
    "vp_read_result_artifacts": "`vp artifacts`",
    "vp_retry_mission": "`vp retry`",
    "vp_read_events": "`vp inbox`",
    "vp_list_vps": "`vp vps`",
}
# Where a tool's argument has another name here.
PARAMETERS_OF_FIELDS: Final = {
    "idempotency_key": "key",
    "source_session_id": "session",
    "acknowledge": "ack",
    "wait_seconds": "wait",
}
EXAMPLE_ID: Final = "m-0mdq3v8k2f-7x0k3w9c2h1"
_TOOL: Final = re.compile(r"\bvp_[a-z_]+\b")


def worded(error: Mapping[str, Any], command: click.Command | None) -> str:
    """An error's message, with tools and arguments named as the command line knows them."""
    message: str = error["message"]
    if command is None or command.name != "schema":  # which is about the tools
        message = _TOOL.sub(lambda found: COMMANDS_OF_TOOLS.get(found[0], found[0]), message)
    field = str(error["details"].get("field") or "")
    top, _, inner = field.partition(".")
    spelled = _spelled(top, command)
    if spelled is None:
        return message
    if message.startswith(f"{field}:"):
        return f"{spelled}{f' ({inner})' if inner else ''}{message.removeprefix(field)}"
    return message


def _spelled(field: str, command: click.Command | None) -> str | None:
    """How a person writes this argument: ``--key``, ``MISSION_ID``."""
    wanted = PARAMETERS_OF_FIELDS.get(field, field)
    for parameter in command.params if command is not None else ():
        if parameter.name == wanted:
            return parameter.opts[-1] if isinstance(parameter, click.Option) else wanted.upper()
    return None


def next_step(error: Mapping[str, Any], command: click.Command | None) -> str:
    """What to do about an error: a command wherever there is one."""
    details = error["details"]
    mission_id = details.get("mission_id") or "MISSION_ID"
    match error["code"]:
        case "unknown_vp":
            return "vp vps"
        case "mission_not_found":
            return _where_missions_are()
        case "artifact_not_found" if "path" not in details:  # a log
            return f"vp get {mission_id}"
        case "artifact_not_found" if details.get("status"):
            return f"vp wait {mission_id}"
        case "artifact_not_found":
            return f"vp artifacts {mission_id}"
        case "idempotency_conflict" if details.get("pruned"):
            return "the same again, with another key"
        case "idempotency_conflict":
            return f"vp get {mission_id}"
        case "not_retryable_state" if details.get("status") == "completed":
            return 'dispatch it as a new mission: vp dispatch VP_ID "…"'
        case "not_retryable_state":
            return f"vp wait {mission_id}, or vp cancel {mission_id}"
        case "vp_disabled":
            return "enable it, then: vp up --detach"
        case "target_path_denied":
            return "vp doctor   (vp_queue.toml: allowed_target_roots)"
        case "configuration_error":
            return "correct it, then: vp doctor"
        case "ledger_busy" if details.get("pids") or details.get("supervised"):
            return "vp down, and end what else uses it; then try again"
        case "ledger_busy":
            return f"try again in {error.get('retry_after_seconds') or 1:g} s; if it lasts: vp doctor"
        case "validation_error":
            return _about_argument(details, command)
        case "limit_exceeded" if "required_bytes" in details:
            return "vp usage, then vp prune --dry-run"
        case "limit_exceeded":
            return _help(command)
        case _:
            return "vp doctor"


def _where_missions_are() -> str:
    from vp_queue import config

    settings = config.load()
    if settings.config_exists:
        return f"vp list   (the missions of {settings.home})"
    return f"vp init, or set VP_HOME: {settings.home} is not set up"


def _about_argument(details: Mapping[str, Any], command: click.Command | None) -> str:
    field = str(details.get("field") or "")
    if field == "mission_id":
        return f"vp list   (a mission's id looks like {EXAMPLE_ID})"
    if field.startswith(("constraints.", "budget.")):
        return "vp schema vp_dispatch_mission   (which keys there are)"
    if field in ("not_before", "expires_at"):
        option = field.replace("_", "-")
        return f'--{option} "$(date -u -d "1 hour" +%FT%TZ)"   (an hour from now)'
    if field == "attempt":
        return f"vp get {details.get('mission_id') or 'MISSION_ID'}"
    if field == "tool":
        return "vp schema"
    if details.get("exists"):
        return "--force replaces it"
    return str(details.get("save") or _help(command))


def _help(command: click.Command | None) -> str:
    return f"vp {command.name} --help" if command is not None else "vp --help"


# --- missions that wait -------------------------------------------------------------------------


def why_it_waits(mission: Mapping[str, Any]) -> str | None:
    """What keeps a queued mission from being taken, and the command that changes it; None if nothing does."""
    from vp_queue import clock, config, missions
    from vp_queue.errors import VpError

    if mission["status"] != "queued":
        return None
    not_before = mission["not_before"] and datetime.fromisoformat(mission["not_before"])
    if not_before and not_before > clock.now():
        return None
    vp_id = mission["vp_id"]
    try:
        vp = missions.vp(vp_id)
    except VpError:
        return f"{vp_id} is not in vp_queue.toml any more; put it back, or: vp cancel {mission['mission_id']}"
    if vp.paused:
        return f"{vp_id} is paused; let it go on: vp resume {vp_id}"
    fresh = clock.now() - timedelta(seconds=config.load().lease_seconds)
    if not any(worker.heartbeat_at > fresh for worker in vp.workers):
        return f"no worker of {vp_id} is running; start it: vp up --detach"
    return None


def not_set_up() -> str | None:
    """A remark for somebody who has not run ``vp init``, or forgot to set VP_HOME."""
    from vp_queue import config

    settings = config.load()
    if settings.config_exists:
        return None
    return f"{settings.home} is not set up: vp init writes its vp_queue.toml. (Another installation? Set VP_HOME.)"
