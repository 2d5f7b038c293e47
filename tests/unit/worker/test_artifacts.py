"""Collecting what a (possibly hostile) program left, and reading it later with suspicion."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.harness import open_descriptors
from vp_queue.contracts import limits as contract
from vp_queue.contracts.paths import printable
from vp_queue.errors import ArtifactNotFound
from vp_queue.worker import artifacts, confined
from vp_queue.worker import published as reading
from vp_queue.worker.artifacts import Artifact, ArtifactLimits, Collection, collect, missing_required
from vp_queue.worker.workspace import prepare

VP, MISSION = "vp.coder.primary", "m-0mdq3v8k2f-7x0k3w9c2h1p"
SECRET = "the secret of another"


@pytest.fixture(params=["openat2", "walk"], autouse=True)
def resolution(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here holds with and without openat2."""
    if request.param == "walk":
        monkeypatch.setattr(confined, "_openat2", lambda parent, path, flags: None)


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() <= before


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def products(root: Path) -> Path:
    return prepare(root, VP, MISSION, 1, briefing="", mission={}, files={}).work_products


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    return path


def put(folder: Path, path: str, content: str | bytes = "x") -> Path:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def paths(collection: Collection) -> list[str]:
    return [artifact.path for artifact in collection.artifacts]


def skipped(collection: Collection) -> dict[str, str]:
    return {skip.path: skip.reason for skip in collection.skipped}


def published(root: Path, products: Path, path: str, content: str | bytes) -> Artifact:
    put(products, path, content)
    return next(artifact for artifact in collect(products).artifacts if artifact.path == path)


def read(root: Path, artifact: Artifact, max_bytes: int = 200_000) -> reading.Content:
    return reading.read_content(root, VP, MISSION, artifact, 1, max_bytes)


# Collecting


def test_files_are_listed_by_path_with_size_and_hash(products: Path) -> None:
    for path in ("b.txt", "a/z.bin", "a.txt", "a/deep/er/x", "日本.md", "back\\slash"):
        put(products, path, path)
    found = collect(products)
    assert paths(found) == ["a.txt", "a/deep/er/x", "a/z.bin", "b.txt", "back\\slash", "日本.md"]
    assert found.skipped == ()
    for artifact in found.artifacts:
        content = artifact.path.encode()
        assert (artifact.size, artifact.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert artifact.role == "work_product"
    assert collect(products) == found


def test_an_empty_folder_is_an_empty_collection(products: Path) -> None:
    assert collect(products) == Collection((), (), 0)


def test_links_special_files_and_hard_links_are_named_not_read(products: Path, secret: Path) -> None:
    put(products, "good", "g")
    (products / "link").symlink_to(secret)
    (products / "dangling").symlink_to("nowhere")
    (products / "folder-link").symlink_to("/etc")
    os.link(secret, products / "hard")
    os.mkfifo(products / "fifo")
    with socket.socket(socket.AF_UNIX) as unix:
        folder = os.getcwd()
        os.chdir(products)  # a socket's address is short, tmp_path may not be
        try:
            unix.bind("socket")
        finally:
            os.chdir(folder)
    found = collect(products)
    assert paths(found) == ["good"]
    assert skipped(found) == {
        "dangling": "symlink",
        "fifo": "special file",
        "folder-link": "symlink",
        "hard": "hard link",
        "link": "symlink",
        "socket": "special file",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="making devices needs root; run: sudo make test")
def test_devices_are_not_opened(products: Path) -> None:
    os.mknod(products / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    assert skipped(collect(products)) == {"zero": "special file"}


def test_version_control_and_caches_are_left_out(products: Path) -> None:
    for name in artifacts.EXCLUDED_NAMES:
        put(products, f"src/{name.decode()}/config")
    put(products, "src/a.pyc")
    put(products, "src/.gitignore")
    put(products, "worktree/.git", "gitdir: /elsewhere")
    found = collect(products)
    assert paths(found) == ["src/.gitignore"]
    assert set(skipped(found).values()) == {"cache or .git"}
    assert found.skipped_total == len(artifacts.EXCLUDED_NAMES) + 2


def test_names_that_cannot_be_shown_are_skipped_and_escaped(products: Path) -> None:
    top = os.fsencode(products)
    for name in (b"\xff\xfe", b"a\nb", b"\x1b[2J", "x\u202ey".encode(), b"bad\xffdir"):
        if name == b"bad\xffdir":
            os.mkdir(top + b"/" + name)
        else:
            Path(os.fsdecode(top + b"/" + name)).write_text("x")
    found = collect(products)
    assert found.artifacts == ()
    assert skipped(found) == {
        "\\xff\\xfe": "name not UTF-8",
        "bad\\xffdir": "name not UTF-8",
        "a\\nb": "control characters in name",
        "\\x1b[2J": "control characters in name",
        "x\\u202ey": "control characters in name",
    }


def test_printable_is_unambiguous_and_bounded() -> None:
    assert printable(b"a\\xff") == "a\\\\xff"
    assert printable("日本".encode()) == "日本"
    for long in (b"a" * 10_000, "😀".encode() * 300, b"\xff" * 10_000):
        assert len(printable(long)) == 200
        assert printable(long).endswith("…")


def test_a_sparse_terabyte_is_skipped_unread(products: Path) -> None:
    with put(products, "huge").open("r+b") as file:
        file.truncate(1 << 40)
    began = time.monotonic()
    assert skipped(collect(products)) == {"huge": "too large"}
    assert time.monotonic() - began < 5


def test_a_crowded_folder_costs_bounded_work(products: Path) -> None:
    for number in range(500):
        put(products, f"d/{number:03}")
    put(products, "e/after")
    found = collect(products, limits=ArtifactLimits(entries=100))
    assert len(found.artifacts) == 98  # d and e count as well
    assert skipped(found) == {"d": "too many files", "e": "too many files"}


def test_the_walk_reads_no_more_names_than_it_may(products: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        put(products, str(number))
    seen = itertools.count()
    fsencode = os.fsencode
    monkeypatch.setattr(artifacts.os, "fsencode", lambda name: (next(seen), fsencode(name))[1])
    collect(products, limits=ArtifactLimits(entries=10))
    assert next(seen) == 11


def test_count_size_total_and_depth_are_limits(products: Path) -> None:
    for path, size in {"a": 4, "b": 11, "c": 5, "d": 5, "e": 1, "f": 0, "g/h/i": 0}.items():
        put(products, path, "x" * size)
    found = collect(products, limits=ArtifactLimits(count=4, file_bytes=10, total_bytes=10, depth=2))
    assert paths(found) == ["a", "c", "e", "f"]
    assert skipped(found) == {"b": "too large", "d": "total size", "g/h/i": "too deep"}
    found = collect(products, limits=ArtifactLimits(count=1))
    assert paths(found) == ["a"]
    assert set(skipped(found).values()) == {"too many files"}


def test_a_very_deep_tree_ends(products: Path) -> None:
    deep = products
    for _ in range(contract.ARTIFACT_DEPTH + 5):
        deep /= "d"
    put(deep, "file")
    put(products, "/".join(["d"] * (contract.ARTIFACT_DEPTH - 1) + ["last"]))
    found = collect(products)
    assert len(found.artifacts) == 1
    assert [skip.reason for skip in found.skipped] == ["too deep"]


def test_only_the_first_skipped_are_listed_and_all_are_counted(products: Path) -> None:
    for number in range(contract.SKIPPED_LISTED + 10):
        (products / f"{number:03}").symlink_to("x")
    found = collect(products)
    assert len(found.skipped) == contract.SKIPPED_LISTED
    assert found.skipped_total == contract.SKIPPED_LISTED + 10


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_work_products_exchanged_for_a_link_yields_nothing(tmp_path: Path, products: Path, level: int) -> None:
    put(products, "good")
    folder = [products, *products.parents][level]
    folder.rename(tmp_path / "moved")
    folder.symlink_to("/etc" if level == 0 else tmp_path / "moved")
    assert collect(products) == Collection((), (artifacts.Skipped("work_products", "symlink"),), 1)


def test_work_products_replaced_by_something_else_or_gone(products: Path) -> None:
    products.rmdir()
    assert skipped(collect(products)) == {"work_products": "missing"}
    products.write_text("file")
    assert skipped(collect(products)) == {"work_products": "not a folder"}
    products.unlink()
    os.mkfifo(products)
    assert skipped(collect(products)) == {"work_products": "not a folder"}


def test_a_file_that_changes_while_it_is_read_is_not_published(products: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = put(products, "growing", "x" * 100)
    chunks = confined.chunks

    def growing(descriptor: int, size: int) -> Iterator[bytes]:
        yield from chunks(descriptor, size)
        with victim.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(confined, "chunks", growing)
    assert skipped(collect(products)) == {"growing": "changed while reading"}


@pytest.mark.parametrize("exchange", ["link", "link to itself", "fifo", "hard", "other"])
def test_a_file_exchanged_between_look_and_open_is_not_published(
    products: Path, secret: Path, monkeypatch: pytest.MonkeyPatch, exchange: str
) -> None:
    victim = put(products, "victim")
    other, moved = put(products.parent, "other", "o"), products.parent / "moved"
    real_open = os.open
    swaps: dict[str, Callable[[], object]] = {
        "link": lambda: victim.symlink_to(secret),
        "link to itself": lambda: victim.symlink_to(moved),
        "fifo": lambda: os.mkfifo(victim),
        "hard": lambda: os.link(secret, victim),
        "other": lambda: other.rename(victim),
    }

    def swapping(path: object, *args: object, **kwargs: object) -> int:
        if path == b"victim":
            victim.rename(moved)
            swaps[exchange]()
        return real_open(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", swapping)
    assert skipped(collect(products)) == {"victim": "changed while reading"}


def test_an_unreadable_file_is_skipped_but_a_failing_disk_is_an_error(
    products: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(products, "a")

    def failing(code: int) -> Callable[[int, bytes], tuple[int, os.stat_result]]:
        def fail(folder: int, name: bytes) -> tuple[int, os.stat_result]:
            raise OSError(code, os.strerror(code))

        return fail

    monkeypatch.setattr(confined, "open_regular", failing(13))
    assert skipped(collect(products)) == {"a": "unreadable"}
    monkeypatch.setattr(confined, "open_regular", failing(5))
    with pytest.raises(OSError, match="Input/output"):
        collect(products)


def test_files_and_folders_are_on_disk_before_they_count(products: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(products, "sub/file")
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    collect(products)
    assert synced == [str((products / path).resolve()) for path in ("sub/file", "sub", ".")]


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("a.md", b"", "text/markdown"),
        ("a.PATCH", b"", "text/x-diff"),
        ("a.diff", b"", "text/x-diff"),
        ("a.json", b"", "application/json"),
        ("a.jsonl", b"", "application/jsonl"),
        ("a.toml", b"", "application/toml"),
        ("a.yml", b"", "application/yaml"),
        ("a.html", b"", "text/html"),
        ("a.png", b"", "image/png"),
        ("a.tar.gz", b"", "application/gzip"),
        ("Makefile", b"all:\n", "text/plain"),
        ("umlaut", "ü".encode() * 5_000, "text/plain"),
        ("odd", b"a" + "ü".encode() * 5_000, "text/plain"),
        ("binary", b"a\0b", "application/octet-stream"),
        ("latin1", b"\xfc", "application/octet-stream"),
        ("data:text/html,x", b"x", "text/plain"),
    ],
)
def test_media_types(products: Path, path: str, content: bytes, expected: str) -> None:
    (products / path.replace("/", "_")).write_bytes(content)
    assert collect(products).artifacts[0].media_type == expected


# Required artifacts


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("report.md", True),
        ("*.md", True),
        ("r?port.md", True),
        ("[q-s]eport.md", True),
        ("[!a]eport.md", True),
        ("*", True),
        ("**", True),
        ("**/report.md", True),
        ("src/*.py", False),
        ("src/**/*.py", True),
        ("src/**", True),
        ("**/b/**/*.py", True),
        ("src/a/b/**/c.py", True),
        ("*.py", False),
        ("REPORT.md", False),
        ("src", False),
        ("src/**/**/**/d.py", False),
        ("work_products/report.md", False),
        ("./report.md", False),
        ("", False),
    ],
)
def test_globs(products: Path, pattern: str, matches: bool) -> None:
    put(products, "report.md")
    put(products, "src/a/b/c.py")
    assert missing_required(collect(products), [pattern]) == ([] if matches else [pattern])


def test_a_skipped_file_is_no_evidence(products: Path, secret: Path) -> None:
    (products / "report.md").symlink_to(secret)
    put(products, "x.txt")
    assert missing_required(collect(products), ["x.txt", "report.md", "*.md"]) == ["report.md", "*.md"]


def test_a_hostile_glob_is_answered_quickly(products: Path) -> None:
    put(products, "/".join(["a" * 100] * 30))
    began = time.monotonic()
    patterns = ["/".join(["**", "*a*a*a*a*a*a*a*a*b"] * 100), "*a" * 1_000 + "b", "**/" * 1_000 + "z"]
    assert missing_required(collect(products), patterns) == patterns
    assert time.monotonic() - began < 5


# Reading


def test_text_comes_back_as_text(root: Path, products: Path) -> None:
    content = read(root, published(root, products, "docs/a.md", "# Grüße"))
    assert content == reading.Content("# Grüße", "utf-8", False, None, 9)


@pytest.mark.parametrize(
    ("max_bytes", "expected"), [(10, "é€😀a"), (9, "é€😀"), (8, "é€"), (5, "é€"), (4, "é"), (1, ""), (0, "")]
)
def test_text_is_cut_at_a_characters_boundary(root: Path, products: Path, max_bytes: int, expected: str) -> None:
    content = read(root, published(root, products, "a", "é€😀a"), max_bytes)
    assert (content.content, content.encoding, content.problem) == (expected, "utf-8", None)
    assert content.truncated == (max_bytes < 10)
    assert content.bytes_used == len(expected.encode()) <= max_bytes


@pytest.mark.parametrize("data", [b"\xff\x00\x01" * 100, b"text\0text", b"whole but for its end \xc3"])
def test_other_bytes_come_back_as_base64(root: Path, products: Path, data: bytes) -> None:
    content = read(root, published(root, products, "a.bin", data))
    assert content.content is not None
    assert base64.b64decode(content.content) == data
    assert (content.encoding, content.truncated, content.bytes_used) == ("base64", False, len(content.content))


@pytest.mark.parametrize("max_bytes", [256, 257, 299, 300, 399])
def test_base64_counts_as_the_text_it_is(root: Path, products: Path, max_bytes: int) -> None:
    data = bytes(range(256)) + b"\xff" * 44
    content = read(root, published(root, products, "a.bin", data), max_bytes)
    assert content.content is not None
    assert content.truncated
    assert content.bytes_used == len(content.content) <= max_bytes
    assert data.startswith(base64.b64decode(content.content))


def test_base64_that_just_fits_is_whole(root: Path, products: Path) -> None:
    content = read(root, published(root, products, "a.bin", b"\xff" * 300), 400)
    assert (content.truncated, content.bytes_used) == (False, 400)


@pytest.mark.parametrize("change", ["same size", "longer", "shorter", "past the cut"])
def test_changed_bytes_are_withheld(root: Path, products: Path, change: str) -> None:
    artifact = published(root, products, "a", "x" * 1_000)
    after = {"same size": "y" * 1_000, "longer": "x" * 1_001, "shorter": "x" * 999, "past the cut": "x" * 999 + "y"}
    put(products, "a", after[change])
    assert read(root, artifact, 256) == reading.Content(None, None, False, "changed", 0)
    with pytest.raises(ArtifactNotFound):
        reading.open_artifact(root, VP, MISSION, 1, "a", expected=artifact)


@pytest.mark.parametrize("exchange", ["gone", "link", "folder", "fifo", "middle link", "top link", "mission link"])
def test_what_is_no_longer_a_plain_file_is_missing(root: Path, tmp_path: Path, products: Path, exchange: str) -> None:
    artifact = published(root, products, "sub/a", SECRET)
    file, moved = products / "sub/a", tmp_path / "moved"
    folder = {"middle link": file.parent, "top link": products, "mission link": products.parents[1]}.get(exchange)
    if folder:
        # The very same bytes behind a link: only the link is at fault.
        folder.rename(moved)
        folder.symlink_to(moved)
    else:
        file.rename(moved)
    if exchange == "link":
        file.symlink_to(moved)
    elif exchange == "folder":
        file.mkdir()
    elif exchange == "fifo":
        os.mkfifo(file)
    assert read(root, artifact) == reading.Content(None, None, False, "missing", 0)
    with pytest.raises(ArtifactNotFound):
        reading.open_artifact(root, VP, MISSION, 1, "sub/a")


@pytest.mark.parametrize(
    "path", ["../mission.json", "../../../../../secret", "/etc/passwd", "sub/../../MISSION.md", "", "a\0"]
)
def test_no_path_reads_outside_work_products(root: Path, products: Path, secret: Path, path: str) -> None:
    sample = published(root, products, "sub/a", "x")
    assert read(root, replace(sample, path=path)).problem == "missing"
    with pytest.raises(ArtifactNotFound):
        reading.open_artifact(root, VP, MISSION, 1, path)


def test_ids_cannot_lead_outside(root: Path, products: Path) -> None:
    artifact = published(root, products, "a", "x")
    for vp_id, mission_id, attempt in (("../x", MISSION, 1), (VP, "../../x", 1), (VP, MISSION, -1), (VP, MISSION, 2)):
        assert reading.read_content(root, vp_id, mission_id, artifact, attempt, 256).problem == "missing"
        with pytest.raises(ArtifactNotFound):
            reading.open_artifact(root, vp_id, mission_id, attempt, "a")


def test_an_opened_artifact_starts_at_its_beginning_and_blocks(root: Path, products: Path) -> None:
    artifact = published(root, products, "sub/a", "content")
    for expected in (None, artifact):
        opened = reading.open_artifact(root, VP, MISSION, 1, "sub/a", expected=expected)
        with confined.closing(opened):
            assert os.read(opened, 100) == b"content"
            assert os.get_blocking(opened)
            assert not os.get_inheritable(opened)


def test_without_a_hash_to_prove_it_a_hard_link_is_not_opened(root: Path, products: Path, secret: Path) -> None:
    artifact = published(root, products, "a", SECRET)
    (products / "a").unlink()
    os.link(secret, products / "a")
    with pytest.raises(ArtifactNotFound, match="hard"):
        reading.open_artifact(root, VP, MISSION, 1, "a")
    assert read(root, artifact).content == SECRET  # the published bytes, whatever the inode


def test_only_the_beginning_of_a_large_file_is_kept(root: Path, products: Path) -> None:
    artifact = published(root, products, "large.txt", b"x" * (3 * confined.CHUNK_BYTES + 7))
    content = read(root, artifact, 1_000)
    assert (content.content, content.truncated) == ("x" * 1_000, True)
    content = read(root, artifact, 2_000_000)
    assert (content.bytes_used, content.truncated) == (2_000_000, True)


# Races


@pytest.mark.parametrize("level", ["file", "folder"])
def test_a_renaming_program_never_gets_a_secret_read(root: Path, tmp_path: Path, products: Path, level: str) -> None:
    """A thread keeps exchanging the artifact (or its folder) for a link to a secret of the same size."""
    honest = "h" * len(SECRET)
    artifact = published(root, products, "sub/a", honest)
    put(tmp_path, "secrets/a", SECRET)
    place = products / "sub/a" if level == "file" else products / "sub"
    parked, link = products / "parked", products / "link"
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            link.symlink_to(tmp_path / ("secrets/a" if level == "file" else "secrets"))
            place.rename(parked)
            link.rename(place)
            place.unlink()
            parked.rename(place)

    thread = threading.Thread(target=flip)
    thread.start()
    naive, seen, raw = set(), set(), set()
    try:
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                naive.add((products / "sub/a").read_text())
            seen.add(read(root, artifact))
            try:
                with confined.closing(reading.open_artifact(root, VP, MISSION, 1, "sub/a")) as opened:
                    raw.add(os.read(opened, 100).decode())
            except ArtifactNotFound:
                pass
            for found in collect(products).artifacts:
                assert found.sha256 == artifact.sha256
    finally:
        stop.set()
        thread.join()
    assert SECRET in naive, "the control: a reader that follows links does get the secret here"
    assert {content.content for content in seen} <= {honest, None}
    assert {content.problem for content in seen} == {None, "missing"}
    assert raw == {honest}
