"""Where things are unless somebody says otherwise, and the file that a database's URL names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vp_queue.config_blame import shown
from vp_queue.config_profile import expand_user
from vp_queue.errors import ConfigurationError

SQLITE_FORM: Final = "sqlite:////absolute/path.db, or sqlite:///path.db relative to VP_HOME"


def default_home(environ: Mapping[str, str], platform: str) -> str:
    """The platform's folder for a user's state (XDG base directories; Apple's file system guide).

    Args:
        platform: as ``sys.platform``.

    Raises:
        ConfigurationError: there is no home directory.
    """
    try:
        if platform == "darwin":
            return expand_user("~/Library/Application Support/vp-queue", environ)
        state = environ.get("XDG_STATE_HOME", "")
        # The XDG specification: a relative path is invalid and to be ignored.
        folder = state if state.startswith("/") else expand_user("~/.local/state", environ)
        return os.path.join(os.path.abspath(folder), "vp-queue")
    except ValueError:
        raise ConfigurationError("there is no home directory to put the state in: set VP_HOME") from None


def sqlite_path(url: str, home: Path) -> Path:
    """The file that a ``database_url`` names; a relative one counts from VP_HOME.

    Raises:
        ValueError: it is none of SQLite's, or names no file; says which form is wanted.
    """
    scheme, separator, _ = url.partition("://")
    name = url.removeprefix("sqlite:///")
    if name == url:
        # The URL itself stays out of the message: it may hold a password.
        later = "; PostgreSQL comes with the extra 'postgres' of a later version" if "postgres" in scheme else ""
        what = f"{shown(scheme)} is not supported here" if separator else "this is no URL"
        raise ValueError(f"{what}{later}. Give {SQLITE_FORM}")
    if not name or name.endswith("/") or name.startswith(":") or "?" in name or "\0" in name:
        raise ValueError(f"this names no file (no :memory:, no parameters: processes share it). Give {SQLITE_FORM}")
    return Path(os.path.normpath(home / name))
