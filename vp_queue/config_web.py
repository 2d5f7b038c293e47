"""``[web]``: where the web face is served: the HTTP API and the dashboard. Arguments of ``vp serve`` come first."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from vp_queue.config_blame import Blame, judged, shown
from vp_queue.config_lines import KeyPath
from vp_queue.config_options import as_tuple

WEB: Final = "web"
DEFAULT_PORT: Final = 8787
_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")


def _check_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"give a host name or address, without port, not {shown(value)}")
    return value


HostName = Annotated[str, AfterValidator(_check_name)]


class Web(BaseModel):
    """How the web face is served.

    Attributes:
        enabled: ``vp up`` serves it.
        host: the address it listens on.
        port: 0 for any that is free.
        read_only: it shows, and changes nothing.
        allow_remote: it may listen on an address that other machines reach.
        allowed_hosts: names besides its own by which it may be asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    enabled: bool = True
    host: HostName = "127.0.0.1"
    port: int = Field(default=DEFAULT_PORT, ge=0, le=65_535)
    read_only: bool = False
    allow_remote: bool = False
    allowed_hosts: Annotated[tuple[HostName, ...], BeforeValidator(as_tuple), Field(max_length=100)] = ()

    @property
    def is_remote(self) -> bool:
        """Whether other machines may reach the address."""
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() != "localhost"


SERVED: Final = Web()


def web_of(table: object, blame: Blame, at: KeyPath) -> Web:
    """What the table states.

    Args:
        table: what stands in the file.
        blame: makes the error for a key path.
        at: where the table stands.

    Raises:
        ConfigurationError: an unknown key, or a value that does not fit.
    """
    if not isinstance(table, Mapping):
        raise blame(at, f"give a table, not {shown(table)}")
    return judged(Web, dict(table), blame, at)
