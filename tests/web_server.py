"""The web face for tests: `vp serve` as a real process, and what a client of it needs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.harness import BIN, Home

WITHIN_SECONDS = 30.0
API = "/api/v1"


@dataclass
class Server:
    """A running `vp serve`."""

    process: subprocess.Popen[str]
    url: str
    token: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    def client(self, **more: Any) -> httpx.Client:
        """One that carries the token."""
        headers = {"authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        return httpx.Client(base_url=self.url, headers=headers, timeout=WITHIN_SECONDS, **more)

    @contextlib.contextmanager
    def browser(self) -> Iterator[httpx.Client]:
        """One that has logged in, as a browser does."""
        with httpx.Client(base_url=self.url, headers={"accept": "text/html"}, timeout=WITHIN_SECONDS) as client:
            entered = client.post("/login", data={"token": self.token}, headers={"origin": self.url.rstrip("/")})
            assert entered.status_code == 303, entered.text
            yield client

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; the exit code."""
        self.process.send_signal(how)
        return self.process.wait(WITHIN_SECONDS)


@contextlib.contextmanager
def serving(home: Home, *options: str, port: int = 0, **extra: str) -> Iterator[Server]:
    """`vp serve`, listening."""
    log = home.path / "test-serve.log"
    with log.open("a") as errors:
        process = subprocess.Popen(
            [str(BIN / "vp"), "serve", "--port", str(port), "--json", *options],
            env={**home.environment, **extra},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    with process:
        try:
            told = _told(process)
            yield Server(process, told["url"], extra.get("VP_TOKEN") or Path(told["token"]).read_text().strip(), log)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(WITHIN_SECONDS)


def _told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The JSON it prints once it listens."""
    assert process.stdout is not None
    text = ""
    while True:
        line = process.stdout.readline()
        assert line, f"it ended with {process.wait()}: {text}"
        text += line
        with contextlib.suppress(json.JSONDecodeError):
            told: dict[str, Any] = json.loads(text)
            assert told["ok"], told
            return told


def rss_bytes(pid: int) -> int:
    """What a process holds in memory now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
