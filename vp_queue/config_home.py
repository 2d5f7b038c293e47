"""The folders and the first configuration file of an installation: private, or refused with a reason."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from vp_queue.errors import ConfigurationError

if TYPE_CHECKING:
    from vp_queue.config import Settings

TEMPLATE = Path(__file__).with_name("config_template.toml")


def ensure_home(settings: Settings) -> None:
    """Make VP_HOME, its ``run/`` and ``logs/``, and the workspaces root, each for this user only (0700).

    A workspaces root of which programs of other users shall reach their own part (``run_as``) is made 0711.

    A folder that exists keeps its mode, but one that others could write to, or that belongs to
    someone else, is refused: its owner could swap the ledger or a profile's command. On a file system
    that is mounted read-only they are left as they are.

    Raises:
        ConfigurationError: a folder cannot be made or used; the message says what to do.
    """
    for folder in (settings.home, settings.run_dir, settings.logs_dir, settings.workspaces_root):
        passable = folder == settings.workspaces_root and any(vp.run_as for vp in settings.vps.values())
        try:
            # mkdir's own parents=True would make the folders between with the umask's mode only.
            for missing in (*reversed(folder.parents), folder):
                if not missing.exists():
                    missing.mkdir(mode=0o711 if passable else 0o700, exist_ok=True)
            found = folder.stat()
        except OSError as error:
            raise _refused(folder, f"it cannot be made or entered ({error.strerror})") from None
        _check_private(folder, found)


def _check_private(folder: Path, found: os.stat_result) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise _refused(folder, "it is not a folder")
    if found.st_uid != os.geteuid():
        raise _refused(folder, f"it belongs to user {found.st_uid}, and this process runs as user {os.geteuid()}")
    if found.st_mode & stat.S_IWOTH:
        raise _refused(folder, f'anyone may write to it; run: chmod 700 "{folder}"')
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return  # reading may go on; whoever wants to write hears of it from the ledger
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _refused(folder, f'this user may not write to it; run: chmod 700 "{folder}"')


def _refused(folder: Path, reason: str) -> ConfigurationError:
    advice = "Correct that, or choose other folders with VP_HOME and VP_WORKSPACES_ROOT"
    return ConfigurationError(f"cannot use the folder {folder}: {reason}. {advice}", path=str(folder))


def write_default_config(settings: Settings) -> bool:
    """Write the commented ``vp_queue.toml`` (0600) where there is none; ``ensure_home`` comes first.

    Returns:
        Whether it was written; an existing file (or link) is never touched.

    Raises:
        ConfigurationError: it cannot be written.
    """
    path = settings.config_path
    text = TEMPLATE.read_bytes()
    try:
        # O_EXCL, not a look beforehand: of two `vp init` at once only one may write.
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(text)
    except FileExistsError:
        return False
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}", file=str(path)) from None
    return True
