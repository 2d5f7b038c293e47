"""Speaks to supervisord over its Unix socket, with a time limit on every answer.

supervisor's own SupervisorTransport waits for ever on a supervisord that was stopped (SIGSTOP); this
is the standard library's transport over the same socket.
"""

from __future__ import annotations

import http.client
import socket
import xmlrpc.client
from pathlib import Path
from typing import Any, Final

ANSWER_SECONDS: Final = 5.0
STOPPED_STATES: Final = ("STOPPED", "EXITED", "FATAL", "UNKNOWN")
_NOT_RUNNING: Final = 70
_ALREADY_STARTED: Final = 60


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(str(self._path))


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _Connection(self._path)


class Supervisord:
    """A supervisord that answers; make one with :func:`connect`. Its methods raise OSError if it stops doing so."""

    def __init__(self, path: Path) -> None:
        self._proxy = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_Transport(path))
        self.pid: int = self._call("getPID")

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._proxy.supervisor, method)(*arguments)
        except (http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise ConnectionError(f"supervisord gave no proper answer: {error}") from error

    def state(self) -> str:
        """RUNNING, RESTARTING, SHUTDOWN or FATAL."""
        return str(self._call("getState")["statename"])

    def programs(self) -> list[dict[str, Any]]:
        """supervisor's ``getAllProcessInfo``."""
        return list(self._call("getAllProcessInfo"))

    def reread(self) -> tuple[list[str], list[str], list[str]]:
        """Read the configuration again; the names of added, changed and removed programs."""
        added, changed, removed = self._call("reloadConfig")[0]
        return added, changed, removed

    def add(self, name: str) -> None:
        """Take a program up as now configured; it starts if it is meant to."""
        self._call("addProcessGroup", name)

    def remove(self, name: str) -> None:
        """Drop a stopped program."""
        self._call("removeProcessGroup", name)

    def start(self, name: str) -> None:
        """Ask a program to start; returns at once."""
        self._unless("startProcess", name, _ALREADY_STARTED)

    def stop(self, name: str) -> None:
        """Ask a program to stop; returns at once."""
        self._unless("stopProcess", name, _NOT_RUNNING)

    def shut_down(self) -> None:
        """Ask supervisord to stop what is left and exit."""
        self._call("shutdown")

    def _unless(self, method: str, name: str, harmless: int) -> None:
        try:
            self._call(method, name, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != harmless:
                raise


def connect(path: Path) -> Supervisord | None:
    """The supervisord that listens there, or None: there is none, or it is shutting down and refuses every question."""
    try:
        return Supervisord(path)
    except (OSError, xmlrpc.client.Fault):
        return None
