"""What a hostile program leaves in ``work_products/``, collected by a real consumer, and read back by every face."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.harness import BIN, Home, command, ended, ok, refused, shell
from vp_queue import missions_artifacts, tools
from vp_queue.contracts import limits
from vp_queue.errors import ArtifactNotFound
from vp_queue.ledger.models import Artifact
from vp_queue.worker.artifacts import collect
from vp_queue.worker.workspace import prepare

SECRET = "the secret of another"
HIGH_WATER_BYTES = 150 * 1024 * 1024
# Generous: what is unbounded here never ends, or takes a terabyte's time.
SECONDS = 120.0

ZOO = r"""
import os, socket, sys
secret, outside = sys.argv[1:]
os.chdir(os.environ["VP_WORK_PRODUCTS"])
def put(name, text="x"):
    with open(name, "w") as file:
        file.write(text)
put("good")
put("Report.md", "1"); put("report.md", "2"); put("REPORT.MD", "3")
put("a" * 255); put("é" * 127)
os.symlink(secret, "link to a file"); os.symlink(outside, "link to a folder")
os.symlink("nowhere", "dangling"); os.symlink("loop", "loop"); os.symlink("../..", "up")
os.symlink("/proc/self/environ", "magic")
os.symlink("b-loop", "a-loop"); os.symlink("a-loop", "b-loop")
os.link(secret, "hard link outside"); put("hard one"); os.link("hard one", "hard two")
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
if os.geteuid() == 0:
    os.mknod("character device", 0o20666, os.makedev(1, 5)); os.mknod("block device", 0o60666, os.makedev(7, 0))
put(b"not \xff UTF-8"); put(b"\xff" * 255)
put("new\nline"); put("\x1b[2J\x1b]0;owned\x07"); put("txt.\u202eexe"); put("tab\tbed")
put("back\\slash"); put("-rf"); put("*"); put("$(reboot)"); put("<script>")
os.truncate(os.open("sparse", os.O_CREAT | os.O_WRONLY), 2**40)
os.mkdir("locked"); put("locked/inside"); os.chmod("locked", 0)
for _ in range(60):
    os.mkdir("deep" * 50); os.chdir("deep" * 50)
put("bottom")
"""
SKIPPED = {
    **dict.fromkeys(
        ["link to a file", "link to a folder", "dangling", "loop", "up", "magic", "a-loop", "b-loop"], "symlink"
    ),
    **dict.fromkeys(["hard link outside", "hard one", "hard two"], "hard link"),
    **dict.fromkeys(["fifo", "socket"], "special file"),
    **dict.fromkeys(["not \\xff UTF-8", ("\\xff" * 50)[:199] + "…"], "name not UTF-8"),
    **dict.fromkeys(
        ["new\\nline", "\\x1b[2J\\x1b]0;owned\\x07", "txt.\\u202eexe", "tab\\tbed"], "control characters in name"
    ),
    "sparse": "too large",
}
TAKEN = {"good", "Report.md", "report.md", "REPORT.MD", "a" * 255, "é" * 127, "back\\slash", "-rf", "*", "$(reboot)"}


def receipt(home: Home, mission_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home.workspace(mission_id) / "mission_receipt.json").read_text())
    return found


def terminal_event(mission_id: str) -> dict[str, Any]:
    data: dict[str, Any] = ok(tools.vp_get_mission(mission_id=mission_id))["events"][-1]["data"]
    return data


def high_water_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def check(home: Home, *mission_ids: str) -> None:
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", list(mission_ids))


def zoo(home: Home, tmp_path: Path, mutants: str = "") -> tuple[str, dict[str, str | None]]:
    """Run the zoo; the mission, and what of it is handed out."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text(SECRET)
    home.consumer(mutants=mutants)
    mission_id = command(sys.executable, "-c", ZOO, str(secret), str(tmp_path / "outside"))["mission_id"]
    done = ended(mission_id, SECONDS)
    assert done["status"] == "completed", done["failure"]
    answer = ok(tools.vp_read_result_artifacts(mission_id=mission_id, max_files=200))
    return mission_id, {artifact["path"]: artifact["content"] for artifact in answer["artifacts"]}


def test_each_animal_is_named_with_its_reason_and_none_is_read(home: Home, tmp_path: Path) -> None:
    mission_id, published = zoo(home, tmp_path)
    assert set(published) >= TAKEN
    assert not [path for path, content in published.items() if content and SECRET in content]
    told = receipt(home, mission_id)
    skipped = {entry["path"]: entry["reason"] for entry in told["skipped"]}
    assert skipped.items() >= SKIPPED.items()
    if os.geteuid() == 0:
        assert (skipped["character device"], skipped["block device"]) == ("special file", "special file")
    assert [reason for path, reason in skipped.items() if path.startswith("deepdeep")] == ["too deep"]
    assert told["skipped_total"] == len(skipped)
    event = terminal_event(mission_id)
    assert event["skipped_total"] == told["skipped_total"]
    assert set(map(str, event["skipped"])) <= set(map(str, told["skipped"]))
    # What is printed about it moves no cursor and forges no line.
    shown = subprocess.run([BIN / "vp", "get", mission_id], env=home.environment, capture_output=True, text=True)
    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout
    check(home, mission_id)


@pytest.mark.parametrize("mutants", ["", "trusting-walk"])
def test_a_link_to_a_secret_is_not_the_secret(home: Home, tmp_path: Path, mutants: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    home.consumer(mutants=mutants)
    mission_id = shell(f"ln -s {secret} work_products/link; ln {secret} work_products/hard")["mission_id"]
    ended(mission_id)
    taken = {artifact["path"]: artifact["size"] for artifact in receipt(home, mission_id)["artifacts"]}
    assert taken == ({"hard": len(SECRET), "link": len(SECRET)} if mutants else {})
    if not mutants:
        check(home, mission_id)


MANY = """
import os, sys
os.chdir(os.environ["VP_WORK_PRODUCTS"])
for folder in range(10):
    os.mkdir(str(folder))
    for name in range(int(sys.argv[1]) // 10):
        os.close(os.open(f"{folder}/{name}", os.O_CREAT | os.O_WRONLY))
"""


@pytest.mark.parametrize(
    ("files", "mutants"),
    [(22_000, ""), (22_000, "unbounded-walk"), pytest.param(100_000, "", marks=pytest.mark.slow)],
)
def test_a_crowd_of_files_costs_bounded_work_memory_and_rows(home: Home, files: int, mutants: str) -> None:
    """What is beyond the limits is not even looked at, so a hundred thousand cost what twenty-two thousand do."""
    consumer = home.consumer(mutants=mutants)
    mission_id = command(sys.executable, "-c", MANY, str(files))["mission_id"]
    assert ended(mission_id, SECONDS)["status"] == "completed"
    told = receipt(home, mission_id)
    rows = Artifact.select().where(Artifact.mission == mission_id).count()
    assert rows == limits.ARTIFACT_COUNT
    bounded = told["skipped_total"] <= limits.ARTIFACT_WALK_ENTRIES
    assert bounded == (not mutants)
    assert len(told["skipped"]) == limits.SKIPPED_LISTED
    assert {entry["reason"] for entry in told["skipped"]} == {"too many files"}
    event = terminal_event(mission_id)
    assert event["skipped_total"] == told["skipped_total"]
    assert len(json.dumps(event)) <= limits.EVENT_DATA_BYTES
    assert high_water_bytes(consumer.pid) < HIGH_WATER_BYTES
    check(home, mission_id)


def test_where_the_count_is_not_limited_each_file_is_a_row(home: Home) -> None:
    """The other half of the control."""
    files = limits.ARTIFACT_COUNT + 100
    home.consumer(mutants="unbounded-count")
    mission_id = command(sys.executable, "-c", MANY, str(files))["mission_id"]
    ended(mission_id, SECONDS)
    assert Artifact.select().where(Artifact.mission == mission_id).count() == files


@pytest.mark.parametrize("mutants", ["", "unbounded-size"])
def test_a_sparse_file_is_not_read(home: Home, mutants: str) -> None:
    size = "1T" if not mutants else "257M"
    home.consumer(mutants=mutants)
    mission_id = shell(f"truncate -s {size} work_products/sparse")["mission_id"]
    assert ended(mission_id, SECONDS)["status"] == "completed"
    published = [row.path for row in Artifact.select().where(Artifact.mission == mission_id)]
    assert published == (["sparse"] if mutants else [])
    if not mutants:
        assert receipt(home, mission_id)["skipped"] == [{"path": "sparse", "reason": "too large"}]
        check(home, mission_id)


@pytest.mark.parametrize("mutants", ["exchanged-before-open", "exchanged-before-open,opened-by-name"])
def test_a_file_exchanged_for_a_link_between_look_and_open(home: Home, tmp_path: Path, mutants: str) -> None:
    """No program of the mission lives by then; a hand from outside plays one that does."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    home.consumer(mutants=mutants)
    mission_id = shell(f"echo harmless > work_products/bait; ln -s {secret} catch")["mission_id"]
    ended(mission_id)
    told = receipt(home, mission_id)
    if "opened-by-name" in mutants:
        assert [artifact["size"] for artifact in told["artifacts"]] == [len(SECRET)]
    else:
        assert told["skipped"] == [{"path": "bait", "reason": "changed while reading"}]
        check(home, mission_id)


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives the folder away; run: sudo make test")
def test_a_folder_that_may_not_be_read_is_skipped(tmp_path: Path) -> None:
    """Seen by a worker that is not root, to whom nothing is closed."""
    os.chmod(tmp_path, 0o711)
    products = prepare(tmp_path / "root", "vp.coder.primary", "m-0mdq3v8k2f-7x0k3w9c2h1p", 1,
                       briefing="", mission={}, files={}).work_products  # fmt: skip
    (products / "locked").mkdir()
    (products / "locked/inside").write_text("x")
    for path in (tmp_path / "root").rglob("*"):
        os.chown(path, 65534, 65534)
    (products / "locked").chmod(0)
    folder = os.open(tmp_path / "root", os.O_RDONLY)
    os.fchown(folder, 65534, 65534)
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            os.fchdir(folder)
            os.setresuid(65534, 65534, 65534)
            found = collect(Path("/proc/self/cwd") / products.relative_to(tmp_path / "root"))
            os.write(write, json.dumps([(entry.path, entry.reason) for entry in found.skipped]).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    assert json.loads(os.read(read, 4096)) == [["locked", "unreadable"]]
    os.close(read)
    os.close(folder)


# -- read back ------------------------------------------------------------------------------------------------------


def a_link(file: Path, elsewhere: Path) -> None:
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


def a_fifo(file: Path, elsewhere: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def a_huge_file(file: Path, elsewhere: Path) -> None:
    os.truncate(file, 2**40)


def a_socket(file: Path, elsewhere: Path) -> None:
    file.unlink()
    before = os.getcwd()
    os.chdir(file.parent)  # a socket's address is short, tmp_path may not be
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(file.name)
    os.chdir(before)


def a_folder(file: Path, elsewhere: Path) -> None:
    file.unlink()
    file.mkdir()


def a_device(file: Path, elsewhere: Path) -> None:
    file.unlink()
    os.mknod(file, 0o20666, os.makedev(1, 5))  # /dev/zero: it never ends


EXCHANGES = [a_link, a_fifo, a_huge_file, a_socket, a_folder, *([a_device] if os.geteuid() == 0 else [])]


@pytest.fixture
def made(home: Home) -> str:
    """A mission with an artifact, ended."""
    home.consumer()
    mission_id: str = shell("echo fine > work_products/a.txt")["mission_id"]
    assert ended(mission_id)["status"] == "completed"
    return mission_id


def test_a_published_file_that_was_replaced_is_withheld_by_every_reader(home: Home, made: str, tmp_path: Path) -> None:
    file = home.workspace(made) / "work_products/a.txt"
    for number, exchange in enumerate(EXCHANGES):
        exchange(file, tmp_path / f"moved-{number}")
        (artifact,) = ok(tools.vp_read_result_artifacts(mission_id=made))["artifacts"]
        assert artifact["content"] is None, exchange
        assert artifact["problem"] == ("changed" if exchange is a_huge_file else "missing"), exchange
        with pytest.raises(ArtifactNotFound):
            missions_artifacts.save(made, None, tmp_path / f"copy-{number}", replace=True)
        with pytest.raises(ArtifactNotFound), missions_artifacts.open_artifact(made, "a.txt"):
            pass
        assert not list((tmp_path / f"copy-{number}").rglob("a.txt"))
        if exchange is a_fifo:  # it answers by itself, or the time-out fails the test: no reader waits for a writer
            for arguments in (["--save", str(tmp_path / "copy")], ["a.txt"]):
                read = subprocess.run(
                    [BIN / "vp", "artifacts", made, *arguments], env=home.environment, capture_output=True, timeout=60
                )
                assert read.returncode == 3, read
        _put_back(file)
    (artifact,) = ok(tools.vp_read_result_artifacts(mission_id=made))["artifacts"]
    assert (artifact["content"], artifact["problem"]) == ("fine\n", None)
    check(home, made)


def _put_back(file: Path) -> None:
    file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
    file.write_text("fine\n")


# -- what is asked for ----------------------------------------------------------------------------------------------


def dispatched(**constraints: Any) -> dict[str, Any]:
    return tools.vp_dispatch_mission(
        vp_id="vp.general.primary", objective="x", mission_type="command",
        constraints={"command": ["true"], **constraints},
    )  # fmt: skip


@pytest.mark.parametrize(
    "path",
    ["../up", "/etc/passwd", "a/../../b", "a//b", "./a", "", "mission.MD", "run.log", "work_products", "new\nline",
     "\x1b[2J", "a\0b", "\ud800", "txt.\u202eexe", "x" * 256, "/".join("a" * 40), "run.log/x"],
)  # fmt: skip
def test_a_hostile_path_of_files_is_refused_at_dispatch(home: Home, path: str) -> None:
    error = refused(dispatched(files={path: "x"}), "validation_error")
    assert error["details"]["field"].startswith("constraints.files")
    assert ok(tools.vp_list_missions())["missions"] == []


def test_hostile_globs_are_answered_and_cost_nobody_else(home: Home) -> None:
    home.consumer()
    globs = ["*a" * 1_000 + "b", "/".join(["**", "a"] * 500) + "/z", "[z-a]", "[", "[!]", "]**[", "?" * 4_000,
             "**/" * 1_000 + "*a*a*a*a*b", "{a,b}", "$(reboot)", "-rf"]  # fmt: skip
    code = "for n in range(50): open('work_products/' + 200 * 'a' + str(n), 'w').close()"
    mission_id = command(sys.executable, "-c", code, constraints={"require_artifacts": globs})["mission_id"]
    failure = ended(mission_id, SECONDS)["failure"]
    assert failure["code"] == "evidence_missing"
    assert len(failure["message"]) <= limits.FAILURE_MESSAGE_CHARS
    check(home, mission_id)
