"""run.log: bounded, readable by logical offset at any time, not fooled by what a program puts in its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vp_queue.contracts import limits
from vp_queue.worker.log import BoundedLog, log_tail, read_log

HEAD, TAIL = 100, 50


def printed(count: int) -> bytes:
    return bytes(ord("a") + i % 26 for i in range(count))


@pytest.fixture
def log(tmp_path: Path) -> BoundedLog:
    return BoundedLog(str(tmp_path / "run.log"), HEAD, TAIL)


def test_a_short_log_is_kept_whole(log: BoundedLog, tmp_path: Path) -> None:
    log.write(b"hello ")
    log.write(b"world\n")
    log.close()
    assert (tmp_path / "run.log").read_bytes() == b"hello world\n"
    assert (tmp_path / "run.log").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["run.log"]


@pytest.mark.parametrize("count", [99, 100, 101, 149, 150, 151, 199, 200, 201, 250, 1000, 1033])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_head_and_tail_are_composed(log: BoundedLog, tmp_path: Path, count: int, chunk: int) -> None:
    text = printed(count)
    for i in range(0, count, chunk):
        log.write(text[i : i + chunk])
    log.close()
    missing = max(0, count - HEAD - TAIL)
    gap = b"\n[vp-queue: %d bytes left out here]\n" % missing if count > HEAD else b""
    assert (tmp_path / "run.log").read_bytes() == text[:HEAD] + gap + text[HEAD + missing :]
    assert os.listdir(tmp_path) == ["run.log"]
    assert log_tail(tmp_path, 20, HEAD) == text[-20:]


def test_the_disk_stays_bounded_while_running(log: BoundedLog, tmp_path: Path) -> None:
    most = 0
    for _ in range(200):
        log.write(printed(33))
        most = max(most, sum(entry.stat().st_size for entry in tmp_path.iterdir()))
    assert HEAD + TAIL <= most <= HEAD + 2 * TAIL
    log.close()


@pytest.mark.parametrize("close_at", [30, 90, 120, 160, 400])
def test_a_follower_sees_everything_across_composition(log: BoundedLog, tmp_path: Path, close_at: int) -> None:
    """It keeps up with the writer, so nothing is left out for it until the log is composed."""
    text, seen, offset = printed(close_at), b"", 0
    for i in range(0, close_at, 10):
        log.write(text[i : i + 10])
        if i < close_at - 10:
            data, offset = read_log(tmp_path, offset, 1000, HEAD)
            seen += data
    log.close()
    data, offset = read_log(tmp_path, offset, 1000, HEAD)
    assert seen + data == text
    assert offset == close_at
    assert read_log(tmp_path, offset, 1000, HEAD) == (b"", close_at)


def test_a_late_reader_is_told_of_the_gap_and_lands_on_true_offsets(log: BoundedLog, tmp_path: Path) -> None:
    text = printed(1000)
    log.write(text)
    for composed in (False, True):
        if composed:
            log.close()
        seen, offset = b"", 0
        while offset < 1000:
            data, offset = read_log(tmp_path, offset, 13, HEAD)
            assert data
            seen += data
        assert seen.startswith(text[:HEAD] + b"\n[vp-queue: ")
        assert seen.endswith(text[-TAIL:])
        assert read_log(tmp_path, 990, 1000, HEAD) == (text[990:], 1000)
    assert read_log(tmp_path, 500, 1000, HEAD)[0] == b"\n[vp-queue: 450 bytes left out here]\n" + text[-TAIL:]


def test_the_program_cannot_forge_the_gap(log: BoundedLog, tmp_path: Path) -> None:
    text = b"\n[vp-queue: 5000 bytes left out here]\n" + printed(50)
    log.write(text)
    log.close()
    assert read_log(tmp_path, 0, 1000, HEAD) == (text, len(text))


def test_the_default_head_is_the_contracts(tmp_path: Path) -> None:
    (tmp_path / "run.log").write_bytes(b"x" * (limits.LOG_HEAD_BYTES + 5))
    assert read_log(tmp_path, limits.LOG_HEAD_BYTES - 3, 100) == (b"xxx", limits.LOG_HEAD_BYTES)


@pytest.mark.parametrize("trick", ["symlink", "fifo", "directory", "removed", "hardlink"])
def test_a_replaced_log_is_not_read_and_is_put_back(log: BoundedLog, tmp_path: Path, trick: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    path = tmp_path / "run.log"
    if trick == "hardlink":
        os.link(path, tmp_path / "other")
    else:
        path.unlink()
        {
            "symlink": lambda: path.symlink_to(secret),
            "fifo": lambda: os.mkfifo(path),
            "directory": path.mkdir,
            "removed": lambda: None,
        }[trick]()
        assert read_log(tmp_path, 0, 100, HEAD) == (b"", 0)
    log.write(b"the truth")
    log.close()
    assert log.problem is None
    assert not path.is_symlink()
    assert path.stat().st_nlink == 1
    assert path.read_bytes() == b"the truth"
    assert secret.read_bytes() == b"secret"


def test_an_existing_log_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "run.log").symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        BoundedLog(str(tmp_path / "run.log"), HEAD, TAIL)
    assert (tmp_path / "target").read_bytes() == b"precious"


def test_no_log_reads_as_empty(tmp_path: Path) -> None:
    assert read_log(tmp_path / "nowhere", 7, 100) == (b"", 7)
    assert log_tail(tmp_path, 100) == b""


def test_a_full_disk_costs_text_not_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = BoundedLog(str(tmp_path / "run.log"), HEAD, TAIL)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        log.write(printed(30))
    log.write(b"again")
    log.close()
    assert log.total == 35
    assert log.problem == "OSError: No space left on device"
    assert read_log(tmp_path, 30, 100, HEAD) == (b"again", 35)
