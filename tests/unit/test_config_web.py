"""The table [web]: where the web face is served."""

from __future__ import annotations

import pytest

from tests.harness import Home
from vp_queue import config
from vp_queue.config_web import DEFAULT_PORT, Web
from vp_queue.errors import ConfigurationError


def web(home: Home, text: str) -> Web:
    home.configure(web=text)
    return config.load().web


def test_what_the_file_says_and_what_it_leaves_out(home: Home) -> None:
    assert web(home, "") == Web() == Web(enabled=True, host="127.0.0.1", port=DEFAULT_PORT)
    given = web(home, 'host = "::1"\nport = 0\nread_only = true\nallowed_hosts = ["a.example", "b.example"]')
    assert (given.host, given.port, given.read_only) == ("::1", 0, True)
    assert given.allowed_hosts == ("a.example", "b.example")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("prot = 1", "web.prot"),
        ("port = 70000", "web.port"),
        ('port = "8787"', "web.port"),
        ("port = true", "web.port"),
        ('host = ""', "web.host"),
        ('host = "http://x"', "web.host"),
        ("enabled = 1", "web.enabled"),
        ('allowed_hosts = ["a b"]', "web.allowed_hosts"),
    ],
)
def test_a_mistake_is_named_with_its_line(home: Home, text: str, key: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        web(home, text)
    assert raised.value.details["key"].startswith(key)
    assert raised.value.details["line"] == 4


@pytest.mark.parametrize(
    ("host", "remote"),
    [
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("::1", False),
        ("LocalHost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.0.2.1", True),
        ("agents.example", True),
    ],
)
def test_which_addresses_other_machines_reach(host: str, remote: bool) -> None:
    assert Web(host=host).is_remote is remote
