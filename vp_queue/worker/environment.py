"""The environment a program gets, and which of its values must never be shown.

Nothing of the worker's environment passes but what the profile's ``env_allow`` names: an API key of the
operator's shell is not the VP's to print.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from vp_queue.worker.account import Account
from vp_queue.worker.workspace import Workspace

_SECRET_NAME: Final = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)
# A shorter value would blot out ordinary text wherever it occurs.
SHORTEST_SECRET: Final = 6


def program_environment(
    worker_environment: Mapping[str, str],
    allowed: tuple[str, ...],
    *,
    mission_id: str,
    vp_id: str,
    attempt: int,
    workspace: Workspace,
    report_fd: int,
    extra: Mapping[str, str],
    account: Account | None = None,
) -> dict[str, str]:
    """The complete environment of a mission's program.

    Args:
        account: as whom it runs, if not as the worker; its home is not the worker's.
    """
    environment = {name: worker_environment[name] for name in allowed if name in worker_environment}
    if account is not None:
        environment |= account.environment
    environment |= extra
    return environment | {
        "VP_MISSION_ID": mission_id,
        "VP_ATTEMPT": str(attempt),
        "VP_ID": vp_id,
        "VP_WORKSPACE": str(workspace.path),
        "VP_WORK_PRODUCTS": str(workspace.work_products),
        "VP_MISSION_FILE": str(workspace.mission_file),
        "VP_REPORT_FD": str(report_fd),
    }


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The values of variables whose names look secret, longest first, to be redacted from log text."""
    values = {
        value for name, value in environment.items() if _SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET
    }
    return tuple(sorted(values, key=len, reverse=True))
