"""A socket to listen on, had before what takes long to import: where it cannot be had, that is told at once."""

from __future__ import annotations

import os
import socket

from vp_queue.errors import ConfigurationError


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Args:
        port: 0 for any that is free.

    Raises:
        ConfigurationError: it cannot be had; the message says why.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)
            opened.listen(128)
        except BaseException:
            opened.close()
            raise
    except UnicodeError:  # what getaddrinfo says of a name with a part of more than 63 characters
        raise ConfigurationError(f"{host[:200]!r} is no host name; choose another with --host") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        raise ConfigurationError(
            f"cannot listen on {host} port {port}: {reason}; choose others with --host and --port"
        ) from None
    return opened
