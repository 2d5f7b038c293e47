"""The settings as the file says now, for what the keeper does by settings that may change while it runs."""

from __future__ import annotations

import logging
import os
from typing import Final

from vp_queue import config
from vp_queue.config import Settings
from vp_queue.errors import ConfigurationError

logger: Final = logging.getLogger("vp_queue.keeper")


class FollowedSettings:
    """Read anew each time, so that a change needs no restart; not where the file leads elsewhere."""

    def __init__(self, settings: Settings, what: str) -> None:
        """
        Args:
            settings: those the keeper was started with.
            what: goes by them; for the log.
        """
        self._settings, self._what = settings, what
        self._complaint: str | None = None

    def current(self) -> Settings:
        """The settings in force; while the file cannot be read, or is gone, or empty, those that were."""
        try:
            now = self._read()
        except ConfigurationError as error:
            if error.message != self._complaint:
                logger.warning("%s goes on with the settings that were: %s", self._what, error.message)
            self._complaint = error.message
            return self._settings
        self._complaint = None
        places = (now.database_path, now.workspaces_root)
        if places == (self._settings.database_path, self._settings.workspaces_root):
            self._settings = now
        return self._settings

    def _read(self) -> Settings:
        """The file, unless it is as it is for a moment while somebody writes it: all would count as default then.

        Raises:
            ConfigurationError: it cannot be read, or holds nothing where it held something.
        """
        if self._settings.config_exists:
            path = self._settings.config_path
            try:
                is_empty = os.stat(path).st_size == 0
            except FileNotFoundError:
                is_empty = True
            except OSError as error:
                raise ConfigurationError(f"cannot read {path}: {error.strerror}", file=str(path)) from None
            if is_empty:
                raise ConfigurationError(f"{path} is gone or empty; for the defaults, restart the keeper")
        return config.load()
