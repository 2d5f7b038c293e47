"""artifacts: exact bytes to a pipe and a folder, text only to a terminal."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.harness import BIN, Home, ended, shell
from tests.unit.cli.driver import Cli, on_terminal
from vp_queue import missions_artifacts
from vp_queue.errors import ArtifactNotFound, MissionNotFound

SCRIPT = """
cd work_products
printf '\\211PNG\\000\\377\\033[2J' > chart.png
printf 'a\\033[31mred\\r\\n\\303\\274' > note.txt
mkdir -p sub; printf 'deep' > sub/deep.txt
"""
CHART, NOTE = b"\x89PNG\x00\xff\x1b[2J", b"a\x1b[31mred\r\n\xc3\xbc"


@pytest.fixture
def made(home: Home) -> str:
    """A completed mission with text, bytes and a folder."""
    home.consumer()
    mission_id: str = shell(SCRIPT)["mission_id"]
    assert ended(mission_id)["status"] == "completed"
    return mission_id


def piped(home: Home, *args: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``vp artifacts`` into a pipe."""
    return subprocess.run([BIN / "vp", "artifacts", *args], env=home.environment, capture_output=True)


def test_a_pipe_gets_the_exact_bytes(home: Home, made: str) -> None:
    assert piped(home, made, "chart.png").stdout == CHART
    assert piped(home, made, "note.txt").stdout == NOTE
    assert piped(home, made, "note.txt", "sub/deep.txt", "note.txt").stdout == NOTE + b"deep"
    large = shell("head -c 5000000 /dev/zero > work_products/zeros")["mission_id"]
    ended(large)
    assert piped(home, large, "zeros").stdout == bytes(5_000_000)


def test_a_terminal_gets_text_and_is_spared_bytes(made: str) -> None:
    code, printed = on_terminal("artifacts", made, "chart.png")
    assert code == 2
    assert f"vp artifacts {made} chart.png > FILE" in printed
    assert "\x1b" not in printed
    code, printed = on_terminal("artifacts", made, "note.txt")
    assert (code, printed) == (0, "ared\nü\n")
    code, printed = on_terminal("artifacts", made, "note.txt", "sub/deep.txt")
    assert (code, printed) == (0, "==> note.txt <==\nared\nü\n==> sub/deep.txt <==\ndeep\n")


def test_changed_bytes_are_withheld(home: Home, made: str, cli: Cli, tmp_path: Path) -> None:
    products = home.workspace(made) / "work_products"
    (products / "chart.png").write_bytes(CHART.swapcase())
    (products / "note.txt").unlink()
    os.symlink("/etc/passwd", products / "note.txt")
    for name in ("chart.png", "note.txt"):
        done = piped(home, made, name)
        assert (done.returncode, done.stdout) == (3, b"")
        assert on_terminal("artifacts", made, name)[0] == 3
        code, _, printed = cli("artifacts", made, name, "--save", str(tmp_path / "out"))
        assert code == 3
        assert name in printed
    assert list((tmp_path / "out").glob("**/*")) == [] if (tmp_path / "out").exists() else True
    assert cli("artifacts", made, "sub/deep.txt", "--save", str(tmp_path / "out"))[0] == 0


def test_save_copies_all_or_some_and_follows_no_link(cli: Cli, made: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    code, answer = cli.json("artifacts", made, "--save", str(out))
    assert code == 0
    assert [each["path"] for each in answer["saved"]] == ["chart.png", "note.txt", "sub/deep.txt"]
    assert (out / "chart.png").read_bytes() == CHART
    assert (out / "sub/deep.txt").read_bytes() == b"deep"
    code, answer = cli.json("artifacts", made, "sub/deep.txt", "--save", str(tmp_path / "one"))
    assert [each["file"] for each in answer["saved"]] == [str(tmp_path / "one/sub/deep.txt")]
    trap = tmp_path / "trap"
    trap.mkdir()
    os.symlink(tmp_path / "elsewhere", trap / "sub")
    (tmp_path / "elsewhere").mkdir()
    code, answer = cli.json("artifacts", made, "sub/deep.txt", "--save", str(trap), "--force")
    assert (code, answer["error"]["code"]) == (2, "validation_error")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    (out / "chart.png").write_bytes(b"older")
    assert cli("artifacts", made, "chart.png", "--save", str(out))[0] == 2
    assert (out / "chart.png").read_bytes() == b"older"
    assert cli("artifacts", made, "chart.png", "--save", str(out), "--force")[0] == 0
    assert (out / "chart.png").read_bytes() == CHART
    assert sorted(path.name for path in out.iterdir()) == ["chart.png", "note.txt", "sub"]


def test_the_stream_that_every_face_hands_out(home: Home, made: str) -> None:
    with missions_artifacts.open_artifact(made, "chart.png") as file:
        assert (file.path, file.size, file.media_type) == ("chart.png", len(CHART), "image/png")
        assert b"".join(file.pieces()) == CHART
    assert missions_artifacts.artifact_paths(made) == ["chart.png", "note.txt", "sub/deep.txt"]
    with pytest.raises(ArtifactNotFound), missions_artifacts.open_artifact(made, "../run.log"):
        pass
    with pytest.raises(MissionNotFound), missions_artifacts.open_artifact("m-0000000000-00000000000", "a"):
        pass
    with missions_artifacts.open_artifact(made, "chart.png") as file:
        path = home.workspace(made) / "work_products/chart.png"
        path.chmod(0o600)
        path.write_bytes(CHART.swapcase())  # after it was verified
        with pytest.raises(ArtifactNotFound, match="changed while it was read"):
            b"".join(file.pieces())


def test_before_the_end_there_are_none(home: Home) -> None:
    waiting = shell("true")["mission_id"]
    assert missions_artifacts.artifact_paths(waiting) == []
    with pytest.raises(ArtifactNotFound, match="it is queued still"), missions_artifacts.open_artifact(waiting, "a"):
        pass
    assert missions_artifacts.save(waiting, None, home.path / "out", replace=False) == []
