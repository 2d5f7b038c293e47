"""What an operator does to an installation as a whole: set it up, migrate it, look at all of it.

Like the tools, these answer with JSON-able dicts; unlike them they raise :class:`VpError`, for the CLI
and the web face to show.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vp_queue import config, missions, missions_space
from vp_queue.config import Settings
from vp_queue.errors import ConfigurationError, VpError
from vp_queue.ledger import database, schema, trouble
from vp_queue.operations import notifications

TOKEN_BYTES: Final = 32


def init(settings: Settings, *, new_ledger: bool = False) -> dict[str, Any]:
    """Make VP_HOME, its configuration and token, and the ledger; whatever exists already is left as it is.

    Args:
        new_ledger: also make an empty ledger where one was removed.

    Raises:
        ConfigurationError: a folder or file cannot be made.
        LedgerBusy, LedgerUnavailable: the ledger cannot be made or migrated.
    """
    config.ensure_home(settings)
    wrote_config = config.write_default_config(settings)
    wrote_token = ensure_token(settings)
    existed = settings.database_path.exists()
    if new_ledger:
        database.open_ledger(settings.database_path, anew=True)
    missions.ready(settings)
    return {
        "ok": True,
        "home": str(settings.home),
        "configuration": str(settings.config_path),
        "token": str(settings.token_path),
        "ledger": str(settings.database_path),
        "created": [
            name
            for name, made in (("configuration", wrote_config), ("token", wrote_token), ("ledger", not existed))
            if made
        ],
    }


def ensure_token(settings: Settings) -> bool:
    """Write the web face's bearer token (0600) where there is none; returns whether it was written.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        # O_EXCL: of two at once one writes, and a link somebody put there is not followed.
        opened = os.open(settings.token_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    except OSError as error:
        raise ConfigurationError(f"cannot write {settings.token_path}: {error.strerror}") from None
    with open(opened, "w") as file:
        file.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
    return True


def migrate(settings: Settings) -> dict[str, Any]:
    """Apply the migrations the ledger lacks, making it if need be.

    Raises:
        ConfigurationError, LedgerBusy, LedgerUnavailable: nothing was changed.
    """
    before = _applied(settings.database_path)
    missions.ready(settings)
    applied = [name for name in schema.known() if name not in before]
    return {"ok": True, "ledger": str(settings.database_path), "applied": applied}


def _applied(path: Path) -> list[str]:
    if not path.exists():
        return []
    ledger = database.Ledger(path)
    with trouble.translated_errors(path):
        try:
            return schema.applied(ledger.db)
        finally:
            ledger.db.close()


def pause(vp_id: str, reason: str | None) -> dict[str, Any]:
    """Take nothing more from a VP's queue; what runs goes on."""
    return {"ok": True, "vp": missions.pause(vp_id, reason).dump()}


def drain(vp_id: str, reason: str | None) -> dict[str, Any]:
    """Let a VP finish what runs and start nothing more."""
    return {"ok": True, "vp": missions.drain(vp_id, reason).dump()}


def resume(vp_id: str) -> dict[str, Any]:
    """Take from a VP's queue again."""
    return {"ok": True, "vp": missions.resume(vp_id).dump()}


def status(settings: Settings, supervised: Mapping[str, Any]) -> dict[str, Any]:
    """Supervisor, VPs, keepers, ledger and disk in one; works with any of them missing, and makes nothing.

    Args:
        supervised: ``supervision.report``.
    """
    exists = settings.database_path.exists()
    ledger: dict[str, Any] = {"path": str(settings.database_path), "exists": exists, "error": None}
    vps: list[dict[str, Any]] = []
    keepers: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    if exists:
        try:
            vps = [vp.dump() for vp in missions.vps().vps]
            keepers = [keeper.dump() for keeper in missions.keepers()]
            told = notifications.summary()
        except VpError as error:
            ledger["error"] = error.as_dict()
    disks = [space.as_dict() for space in missions_space.measure(settings)]
    return {
        "ok": True,
        **supervised,
        "vps": vps,
        "keepers": keepers,
        "ledger": ledger,
        "disks": disks,
        "notifications": told,
    }
