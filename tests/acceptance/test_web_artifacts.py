"""Artifacts over HTTP: whole or in part, under any name, and nothing but what was published."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from urllib.parse import quote, unquote

import httpx
import pytest

from tests import mutants
from tests.harness import Home, ended, shell
from tests.web_server import API, serving
from vp_queue import missions_artifacts
from vp_queue.errors import ArtifactNotFound
from vp_queue.web import files

SCRIPT = """
cd "$VP_WORK_PRODUCTS"
printf '0123456789' > ten.bin
: > empty.txt
printf '<script>alert(1)</script>' > page.html
printf '<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>' > picture.svg
printf '{"a": 1}' > data.json
mkdir -p 'a b/ü'
printf 'x' > 'a b/ü/Bericht "ü" €;.md'
printf 'x' > "$(printf 'gpj.\\342\\200\\256exe')"
head -c 3000000 /dev/zero | tr '\\0' x > large.txt
"""


@pytest.fixture
def api(home: Home) -> Iterator[httpx.Client]:
    home.consumer()
    with serving(home) as server, server.client() as client:
        mission_id = shell(SCRIPT)["mission_id"]
        assert ended(mission_id)["status"] == "completed"
        client.headers["x-mission"] = mission_id
        yield client


def address(api: httpx.Client, path: str) -> str:
    return f"{API}/missions/{api.headers['x-mission']}/artifacts/{quote(path)}"


def product(home: Home, api: httpx.Client, path: str) -> Path:
    return home.workspace(api.headers["x-mission"]) / "work_products" / path


def saved_as(answer: httpx.Response) -> str:
    """Under which name a browser saves it."""
    message = Message()
    message["content-disposition"] = answer.headers["content-disposition"]
    assert message.get_content_disposition() == "attachment"
    return unquote(answer.headers["content-disposition"].rpartition("filename*=UTF-8''")[2])


def test_each_is_handed_out_whole_and_as_nothing_that_runs(api: httpx.Client) -> None:
    listed = api.get(f"{API}/missions/{api.headers['x-mission']}/artifacts", params={"max_bytes": 256}).json()
    assert {each["path"] for each in listed["artifacts"]} >= {"ten.bin", "page.html", 'a b/ü/Bericht "ü" €;.md'}
    for each in listed["artifacts"]:
        answer = api.get(address(api, each["path"]))
        assert answer.status_code == 200, each
        assert hashlib.sha256(answer.content).hexdigest() == each["sha256"]
        assert answer.headers["etag"] == f'"{each["sha256"]}"'
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in files.SHOWABLE or kind == "application/octet-stream"
        assert answer.headers["content-disposition"].isascii()
        head = api.head(address(api, each["path"]))
        assert (head.content, head.headers["content-length"]) == (b"", str(each["size"]))
    for dangerous in ("page.html", "picture.svg"):
        assert api.get(address(api, dangerous)).headers["content-type"] == "application/octet-stream"
    assert api.get(address(api, "data.json")).headers["content-type"] == "application/json"
    assert saved_as(api.get(address(api, 'a b/ü/Bericht "ü" €;.md'))) == 'Bericht "ü" €;.md'


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=4-", 206, b"456789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=-99", 200, b"0123456789"),
        ("bytes=8-99", 206, b"89"),
        ("bytes=9-9", 206, b"9"),
        ("bytes=10-", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=5-4", 200, b"0123456789"),
        ("bytes=0-1,3-4", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
        ("bytes=" + "9" * 30 + "-", 200, b"0123456789"),
    ],
)
def test_a_range(ranged: httpx.Client, asked: str, status: int, content: bytes | None) -> None:
    answer = ranged.get(address(ranged, "ten.bin"), headers={"range": asked})
    assert answer.status_code == status
    if status == 416:
        assert answer.headers["content-range"] == "bytes */10"
        assert answer.json()["error"]["code"] == "validation_error"
    else:
        assert answer.content == content
        assert answer.headers["content-length"] == str(len(answer.content))
        if answer.content != b"0123456789":
            assert answer.headers["content-range"].endswith("/10")


@pytest.fixture(scope="module")
def ranged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One server for all ranges."""
    from tests.harness import home_at

    with pytest.MonkeyPatch.context() as patch, home_at(tmp_path_factory.mktemp("ranges")) as made:
        patch.setenv("VP_HOME", str(made.path))
        made.consumer()
        with serving(made) as server, server.client() as client:
            mission_id = shell("printf 0123456789 > $VP_WORK_PRODUCTS/ten.bin")["mission_id"]
            ended(mission_id)
            client.headers["x-mission"] = mission_id
            yield client


def test_conditions(ranged: httpx.Client) -> None:
    ten = address(ranged, "ten.bin")
    etag = ranged.get(ten).headers["etag"]
    assert ranged.get(ten, headers={"if-none-match": f'"x", {etag}'}).status_code == 304
    assert ranged.get(ten, headers={"if-none-match": '"x"'}).status_code == 200
    assert ranged.get(ten, headers={"range": "bytes=0-1", "if-range": etag}).content == b"01"
    assert ranged.get(ten, headers={"range": "bytes=0-1", "if-range": '"x"'}).content == b"0123456789"


def test_what_no_longer_is_what_was_published_is_not_handed_out(home: Home, api: httpx.Client) -> None:
    product(home, api, "ten.bin").write_bytes(b"9876543210")
    product(home, api, "data.json").unlink()
    secret = home.path / "token"
    product(home, api, "page.html").unlink()
    product(home, api, "page.html").symlink_to(secret)
    for path in ("ten.bin", "data.json", "page.html", "nothing", "../../token", "ten.bin/", "a%00b", "x" * 5_000):
        answer = api.get(address(api, path))
        assert answer.status_code in (404, 422), path
        assert answer.json()["error"]["code"] in ("artifact_not_found", "validation_error")
        assert secret.read_text().strip() not in answer.text
    assert api.get(f"{API}/missions/m-0mdq3v8k2f-7x0k3w9c2h1/artifacts/x").status_code == 404
    running = shell("true", not_before="2999-01-01T00:00:00Z")["mission_id"]
    assert api.get(f"{API}/missions/{running}/artifacts/x").status_code == 404


def sent_while_it_is_changed(home: Home, mission_id: str) -> tuple[bytes, int]:
    """What leaves of a file that somebody writes to after its first piece was read; and its length."""
    with missions_artifacts.open_artifact(mission_id, "large.txt") as file:
        pieces = files._verified(file, files.Span(0, file.size - 1))
        sent = next(pieces)
        path = home.workspace(mission_id) / "work_products" / "large.txt"
        descriptor = os.open(path, os.O_WRONLY)
        os.pwrite(descriptor, b"forged", file.size - 6)
        os.close(descriptor)
        try:
            for piece in pieces:
                sent += piece
        except ArtifactNotFound:
            pass
        return sent, file.size


def test_what_is_changed_while_it_is_read_never_arrives_whole(home: Home, api: httpx.Client) -> None:
    sent, size = sent_while_it_is_changed(home, api.headers["x-mission"])
    assert len(sent) < size
    assert b"forged" not in sent


def test_control_without_the_wait_it_would(home: Home, api: httpx.Client) -> None:
    with mutants.removed("sends-before-it-knows"):
        sent, size = sent_while_it_is_changed(home, api.headers["x-mission"])
    assert len(sent) == size
    assert b"forged" in sent


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("a/b.txt", "b.txt"),
        ('x"; filename=evil.exe', "x__ filename_evil.exe"),
        ("new\r\nline: x", "new line_ x"),
        ("exe.\u202egpj", "exe.gpj"),
        ("%41\\b", "_41_b"),
        ("日本.md", "__.md"),
    ],
)
def test_a_name_cannot_leave_its_header(path: str, plain: str) -> None:
    told = files.disposition(path)
    assert told.isascii()
    assert told.isprintable()
    assert told.startswith(f"attachment; filename=\"{plain}\"; filename*=UTF-8''")
