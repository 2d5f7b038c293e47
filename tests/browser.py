"""A real Chromium that looks at a real `vp serve`, driven by Playwright, and what it must never see there.

A page that is watched fails its test for every error on its console, every exception, everything that the page's
content security policy had to stop, every dialog that nobody expected, and every request to another server.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Request, sync_playwright

from tests.harness import GENERAL, Home
from tests.web_server import Server

PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome")
MISSING: Final = "no Chromium here: apt-get install chromium fonts-dejavu-core"
WITHIN_MS: Final = 30_000
DESKTOP: Final = {"width": 1280, "height": 900}
PHONE: Final = {"width": 390, "height": 844}
# What a violation is told by, whatever else the browser prints.
TELL_VIOLATIONS: Final = """
addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI, sourceFile, lineNumber }) =>
  console.error(`policy violated: ${violatedDirective} ${blockedURI} ${sourceFile}:${lineNumber}`));
"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium without a window; skips the test where there is none."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(MISSING)
    arguments = ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]  # whatever a page wants: nothing leaves
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@dataclass
class Dashboard:
    """An installation with its web face."""

    home: Home
    server: Server

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return self.server.url.rstrip("/")


@dataclass
class Watched:
    """A page, and what went wrong on it.

    Attributes:
        page: Playwright's.
        url: of the server, without a slash at its end.
        troubles: what fails the test.
        expected: patterns of troubles that this test causes itself.
        requests: each one it made, but for its stream.
        streams: those that are open.
        opened: how many were.
    """

    page: Page
    url: str
    troubles: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    streams: list[Request] = field(default_factory=list)
    opened: int = 0

    def __post_init__(self) -> None:
        self.page.set_default_timeout(WITHIN_MS)
        self.page.set_default_navigation_timeout(WITHIN_MS)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.troubles.append(f"exception: {error}"))
        self.page.on("dialog", self._asked)
        self.page.on("request", self._requested)
        for ended in ("requestfinished", "requestfailed"):
            self.page.on(ended, self._ended)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.troubles.append(f"{message.type}: {message.text} ({message.location.get('url')})")

    def _asked(self, dialog: Dialog) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.accept()

    def _requested(self, request: Request) -> None:
        if not request.url.startswith((self.url + "/", "data:", "blob:")):
            self.troubles.append(f"a request to elsewhere: {request.url}")
        if request.resource_type == "eventsource":
            self.streams.append(request)
            self.opened += 1
        else:
            self.requests.append(request)

    def _ended(self, request: Request) -> None:
        if request in self.streams:
            self.streams.remove(request)

    def open(self, path: str) -> Page:
        """Go to an address of the server."""
        self.page.goto(self.url + path)
        return self.page

    def live(self, path: str) -> Page:
        """Go there, and wait until it says that it is live."""
        self.open(path)
        self.page.locator('.live-state[data-state="live"]').wait_for(state="attached")
        return self.page

    def unexpected(self) -> list[str]:
        """The troubles that the test did not cause itself."""
        return [each for each in self.troubles if not any(re.search(pattern, each) for pattern in self.expected)]


def log_in(context: BrowserContext, server: Server) -> None:
    """Give a browser the cookie that logging in by the form gives it."""
    url = server.url.rstrip("/")
    entered = httpx.post(f"{url}/login", data={"token": server.token}, headers={"origin": url, "accept": "text/html"})
    assert entered.status_code == 303, entered.text
    context.add_cookies([{"name": name, "value": value, "url": url} for name, value in entered.cookies.items()])


@contextlib.contextmanager
def looking(browser: Browser, server: Server, *, logged_in: bool = True, **options: Any) -> Iterator[Watched]:
    """A page of its own, in a browser that knows nothing yet; at its end nothing may have gone wrong on it.

    Args:
        logged_in: already.
        options: of Playwright's context, such as ``java_script_enabled``.
    """
    context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
    try:
        if logged_in:
            log_in(context, server)
        context.add_init_script(TELL_VIOLATIONS)
        watched = Watched(context.new_page(), server.url.rstrip("/"))
        yield watched
        assert not watched.unexpected(), watched.unexpected()
    finally:
        context.close()


def faults_of_access(page: Page, rules: list[str] | None = None) -> list[str]:
    """What axe finds serious or critical on a page.

    Args:
        rules: only these; all by default.
    """
    if not page.evaluate("'axe' in globalThis"):
        page.evaluate(AXE_SCRIPT)
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = {"type": "rule", "values": rules}
    found = page.evaluate("(options) => axe.run(document, options)", options)["violations"]
    return [
        f"{each['id']} ({each['impact']}): {node['target']} {node['html'][:200]} {node.get('failureSummary', '')}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


class Weighed:
    """What a page's visit transfers, headers included, by address: from now on."""

    def __init__(self, page: Page) -> None:
        self.bytes: dict[str, int] = {}
        self._addresses: dict[str, str] = {}
        devtools = page.context.new_cdp_session(page)
        devtools.on("Network.requestWillBeSent", self._sent)
        devtools.on("Network.loadingFinished", self._finished)
        devtools.send("Network.enable")

    def _sent(self, told: dict[str, Any]) -> None:
        self._addresses[told["requestId"]] = told["request"]["url"]

    def _finished(self, told: dict[str, Any]) -> None:
        address = self._addresses[told["requestId"]]
        self.bytes[address] = self.bytes.get(address, 0) + int(told["encodedDataLength"])


def pictures() -> Path | None:
    """Where screenshots are kept; None: nowhere that lasts."""
    named = os.environ.get("VP_TEST_ARTIFACTS")
    return Path(named).absolute() if named else None


def fill_dispatch(page: Page, script: str, *, objective: str = "Say it.", vp_id: str = GENERAL) -> None:
    """Fill in the form for a shell script."""
    page.get_by_label("VP", exact=True).select_option(vp_id)
    page.get_by_label("Objective", exact=True).fill(objective)
    page.get_by_label("Type", exact=True).fill("command")
    page.get_by_label("Command", exact=True).fill(f"sh\n-c\n{script}")
