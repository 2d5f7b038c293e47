"""docs/http.md: its session with curl is run, and its table names the API's addresses."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.harness import CODER, GENERAL, Home
from tests.web_server import serving
from vp_queue.web import openapi

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "http.md").read_text(encoding="utf-8")


def session() -> list[tuple[str, list[str]]]:
    """Each command, and what is shown as its answer."""
    found: list[tuple[str, list[str]]] = []
    for line in re.findall(r"^    (.*)$", TEXT.partition("<!-- Run by")[2].partition("\n## ")[0], re.MULTILINE):
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed: apt-get install curl")
def test_its_session(home: Home, tmp_path: Path) -> None:
    for vp_id in (GENERAL, CODER):
        home.consumer(vp_id)
    with serving(home) as server:
        script, wanted = [], []
        for command, shown in session():
            script += [command.replace("http://127.0.0.1:8787", server.url.rstrip("/")), "echo; echo ---"]
            wanted.append(shown)
        done = subprocess.run(
            ["bash", "-u", "-c", "\n".join(script)],
            env=home.environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
    told = [[line for line in part.splitlines() if line] for part in done.stdout.split("---\n")[:-1]]
    assert told == wanted, done.stderr


def test_its_table_names_every_address() -> None:
    rows = re.findall(r"^\| (GET|POST) \| (.*?) \|", TEXT, re.MULTILINE)
    named = set()
    for method, cell in rows:
        addresses = re.findall(r"`([^`]+)`", cell)
        base = addresses[0].rpartition("/")[0] if len(addresses) > 1 and method == "POST" else ""
        named |= {(method, each if each == addresses[0] else base + each) for each in addresses}
    described = {
        (method.upper(), path.removeprefix("/api/v1"))
        for path, each in openapi.document()["paths"].items()
        for method in each
        if path.startswith("/api/v1/") and not path.endswith("/openapi.json")
    }
    assert named == described
