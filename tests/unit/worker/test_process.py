"""Launching programs: the gate, the exit, the end of everything a program leaves or refuses to end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from vp_queue import clock
from vp_queue.errors import InternalError
from vp_queue.worker import cgroups, gate, process, procfs, standby
from vp_queue.worker.log import read_log
from vp_queue.worker.process import Exit, LaunchedProgram, Program
from vp_queue.worker.tree import TreeIdentity, tree_is_dead

DEADLINE_SECONDS = 30.0
REPOSITORY = Path(__file__).resolve().parents[3]
# Of this test run alone: another run beside it must not count as our strays.
MISSION_ID = clock.new_mission_id()
ENV = {"PATH": os.environ["PATH"], "VP_MISSION_ID": MISSION_ID, "VP_ATTEMPT": "3"}
MARKER = f"{MISSION_ID}.3"

# A daemon: double fork, its own session, deaf to TERM. It says its pid once it is deaf.
DAEMON = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open("daemon.tmp", "w") as out: out.write(str(os.getpid()))
        os.rename("daemon.tmp", "daemon")
        time.sleep(1000)
    os._exit(0)
os.wait()
while not os.path.exists("daemon"): time.sleep(0.01)
"""
# Forks and exits for ever, deaf to TERM: no single look at /proc can be trusted to show it.
HOPPER = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    while True:
        if os.fork(): os._exit(0)
"""
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(1000)"


def eventually(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.01)
    return answer


def alive(pid: int) -> bool:
    return procfs.start_ticks(pid) is not None


def daemon_of(folder: Path) -> int:
    return int(eventually(lambda: (folder / "daemon").exists() and (folder / "daemon").read_text(), "daemon"))


class Bench:
    """Launches programs in one folder and ends them all."""

    def __init__(self, folder: Path, use_cgroup: bool) -> None:
        self.folder, self.use_cgroup = folder, use_cgroup
        self.cwd_fd = os.open(folder, os.O_RDONLY)
        self.launched: list[LaunchedProgram] = []

    def launch(self, *argv: str, **more: Any) -> LaunchedProgram:
        options: dict[str, Any] = {"env": ENV, "use_cgroup": self.use_cgroup, **more}
        program = Program(argv, cwd_fd=self.cwd_fd, log_path=self.folder / "run.log", marker=MARKER, **options)
        self.launched.append(process.launch(program))
        return self.launched[-1]

    def python(self, code: str, **more: Any) -> LaunchedProgram:
        return self.launch(sys.executable, "-c", code, **more)

    def run(self, launched: LaunchedProgram) -> Exit:
        launched.release()
        return ended(launched)

    def log(self) -> bytes:
        return read_log(self.folder, 0, 10_000_000)[0]

    def close(self) -> None:
        for launched in self.launched:
            launched.close()
        os.close(self.cwd_fd)


def ended(launched: LaunchedProgram) -> Exit:
    result = launched.wait(DEADLINE_SECONDS)
    assert result is not None, "still running"
    return result


@pytest.fixture
def standing_by() -> Iterator[None]:
    """A launcher stands by in this process."""
    standby.keep()
    yield
    standby.close()


@pytest.fixture(params=["cgroup", "no-cgroup", "standby"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "standby":
        request.getfixturevalue("standing_by")
    if request.param == "cgroup":
        probe = cgroups.create(f"{MARKER}.probe", 0)
        if probe.tree is None:
            pytest.skip("no writable cgroup v2 here; run: systemd-run --user -p Delegate=yes --scope make test")
        probe.remove()
    made = Bench(tmp_path, request.param == "cgroup")
    yield made
    made.close()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Bench]:
    """Without a cgroup, and nothing stands by unless the test says so."""
    made = Bench(tmp_path, False)
    yield made
    made.close()


def test_nothing_runs_before_release(bench: Bench) -> None:
    launched = bench.launch("touch", "ran")
    assert (launched.identity.cgroup is not None) == bench.use_cgroup
    assert launched.identity.pgid == os.getpgid(launched.identity.pid) == os.getsid(launched.identity.pid)
    assert launched.wait(0.2) is None
    assert not (bench.folder / "ran").exists()
    assert bench.run(launched).code == 0
    assert (bench.folder / "ran").exists()
    assert tree_is_dead(launched.identity)


def test_stopped_at_the_gate_it_never_runs(bench: Bench) -> None:
    launched = bench.launch("touch", "ran")
    launched.stop(5.0)
    result = ended(launched)
    assert (result.code, result.signal, result.tree_dead) == (None, None, True)
    assert result.error is not None
    assert not (bench.folder / "ran").exists()


def test_exit_code_output_and_usage(bench: Bench) -> None:
    result = bench.run(bench.python("x = bytearray(60_000_000); print('hello', flush=True); raise SystemExit(7)"))
    assert (result.code, result.signal, result.error, result.tree_dead) == (7, None, None, True)
    assert 60_000_000 < (result.max_rss_bytes or 0) < 300_000_000
    assert 0 < (result.cpu_seconds or 0) < 10
    assert (bench.log(), result.log_bytes) == (b"hello\n", 6)


def test_exit_by_signal(bench: Bench) -> None:
    result = bench.run(bench.launch("sh", "-c", "kill -USR1 $$"))
    assert (result.code, result.signal) == (None, signal.SIGUSR1)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["no-such-program-x"], "FileNotFoundError: no such program 'no-such-program-x'"),
        (["./dir"], "PermissionError: Permission denied: './dir'"),
        (["a\0b"], "ValueError"),
        (["true", "x" * 3_000_000], "OSError: Argument list too long"),
    ],
)
def test_a_program_that_cannot_start_says_why(bench: Bench, argv: list[str], words: str) -> None:
    (bench.folder / "dir").mkdir()
    result = bench.run(bench.launch(*argv))
    assert (result.error or "").startswith(words)
    assert (result.code, result.signal, result.tree_dead) == (None, None, True)


def test_a_daemon_left_behind_is_dead_after_wait(bench: Bench) -> None:
    result = bench.run(bench.python(DAEMON))
    assert (result.code, result.tree_dead) == (0, True)
    assert not alive(daemon_of(bench.folder))


def test_a_pid_hopper_is_dead_after_wait(bench: Bench) -> None:
    launched = bench.python(HOPPER)
    result = bench.run(launched)
    assert result.tree_dead
    assert tree_is_dead(launched.identity)


def test_stop_kills_what_ignores_term(bench: Bench) -> None:
    launched = bench.python(DEAF)
    launched.release()
    eventually(bench.log, "deafness")
    launched.stop(60.0)
    assert launched.wait(0.3) is None
    launched.stop(0.2)  # a second call shortens the grace
    result = ended(launched)
    assert (result.code, result.signal, result.tree_dead) == (None, signal.SIGKILL, True)


def test_stop_lets_a_program_end_in_good_order(bench: Bench) -> None:
    launched = bench.launch("sh", "-c", "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done")
    launched.release()
    eventually(bench.log, "start")
    launched.stop(20.0)
    assert ended(launched).code == 5
    assert bench.log().endswith(b"bye\n")


def test_a_stopped_program_still_ends(bench: Bench) -> None:
    launched = bench.launch("sleep", "1000")
    launched.release()
    eventually(lambda: Path(f"/proc/{launched.identity.pid}/comm").read_text() == "sleep\n", "exec")
    os.kill(launched.identity.pid, signal.SIGSTOP)
    launched.stop(20.0)
    assert ended(launched).signal == signal.SIGTERM


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_deaf_launcher_does_not_save_the_tree(
    bench: Bench, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LAUNCHER_PATIENCE_SECONDS", 0.5)
    launched = bench.python(DAEMON + "time.sleep(1000)")
    launched.release()
    daemon = daemon_of(bench.folder)
    assert alive(daemon)
    os.kill(launched.identity.launcher_pid, how)
    if how == signal.SIGSTOP:
        launched.stop(0.0)
    result = ended(launched)
    assert result.tree_dead
    assert "launcher" in (result.error or "")
    assert not alive(daemon)
    assert not alive(launched.identity.pid)


def test_term_to_the_launcher_means_stop(bench: Bench) -> None:
    launched = bench.launch("sleep", "1000")
    launched.release()
    os.kill(launched.identity.launcher_pid, signal.SIGTERM)
    assert ended(launched).tree_dead


WORKER = """
import dataclasses, json, os, pathlib, sys, time
from vp_queue.worker import process
folder, env, code, release, use_cgroup = json.loads(sys.argv[1])
fd = os.open(folder, os.O_RDONLY)
launched = process.launch(process.Program((sys.executable, "-c", code), env, fd, pathlib.Path(folder, "run.log"),
    env["VP_MISSION_ID"] + ".3", use_cgroup=use_cgroup))
if release: launched.release()
print(json.dumps(dataclasses.asdict(launched.identity)), flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("release", [True, False], ids=["running", "gated"])
def test_the_worker_is_killed(bench: Bench, release: bool) -> None:
    code = DAEMON + "time.sleep(1000)"
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, json.dumps([str(bench.folder), ENV, code, release, bench.use_cgroup])],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert worker.stdout is not None
    identity = TreeIdentity(**json.loads(worker.stdout.readline()))
    if release:
        daemon_of(bench.folder)
    assert not tree_is_dead(identity)
    worker.kill()
    worker.wait()
    worker.stdout.close()
    eventually(lambda: tree_is_dead(identity), "the launcher ends the tree by itself")
    assert (bench.folder / "daemon").exists() == release
    assert identity.cgroup is None or not Path(identity.cgroup).exists()


def test_the_program_inherits_only_what_it_is_given(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VP_CANARY", "secret")
    reader, writer = os.pipe()
    leak = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leak, True)
    code = """
import json, os, signal
def is_open(fd):
    try: os.fstat(fd)
    except OSError: return False
    return True
fds = [fd for fd in map(int, os.listdir("/proc/self/fd")) if is_open(fd)]
blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
print(json.dumps([fds, dict(os.environ), os.getcwd(), len(blocked)]))
os.write(int(os.environ["VP_REPORT_FD"]), b"report")
"""
    env = {**ENV, "VP_REPORT_FD": "3", "LC_ALL": "C.UTF-8", "RAW": "\udcff"}
    launched = bench.python(code, env=env, pass_fds=(writer,))
    os.close(writer)
    result = bench.run(launched)
    assert result.code == 0, bench.log()
    # End-of-file although the launcher may still live: it keeps no copy.
    assert os.read(reader, 100) + os.read(reader, 100) == b"report"
    fds, environ, cwd, blocked = json.loads(bench.log())
    assert sorted(fds) == [0, 1, 2, 3]
    assert environ == env
    assert cwd == str(bench.folder)
    assert blocked == 0
    os.close(reader)
    os.close(leak)


def test_stdin_and_stdout_can_be_pipes(bench: Bench) -> None:
    in_reader, in_writer = os.pipe()
    out_reader, out_writer = os.pipe()
    launched = bench.launch("sh", "-c", "echo log >&2; cat", stdin_fd=in_reader, stdout_fd=out_writer)
    os.close(in_reader)
    os.close(out_writer)
    launched.release()
    os.write(in_writer, b"question")
    os.close(in_writer)
    assert os.read(out_reader, 100) == b"question"
    assert os.read(out_reader, 100) == b""
    os.close(out_reader)
    assert ended(launched).code == 0
    assert bench.log() == b"log\n"


def test_a_flood_is_bounded_on_disk_and_noticed(bench: Bench) -> None:
    launched = bench.launch(
        "sh", "-c", "head -c 200000000 /dev/zero; printf END", log_head_bytes=5000, log_tail_bytes=70_000
    )
    launched.release()
    most = 0
    while (result := launched.wait(0.02)) is None:
        with contextlib.suppress(FileNotFoundError):
            most = max(most, sum(entry.stat().st_size for entry in bench.folder.iterdir()))
    assert (result.code, result.output_limit, result.log_bytes) == (0, False, 200_000_003)
    assert 0 < most <= 5000 + 3 * 70_000 + 5000 + 70_100  # parts, and the composed file beside them for a moment
    text = (bench.folder / "run.log").read_bytes()
    gap = b"\n[vp-queue: %d bytes left out here]\n" % (200_000_003 - 75_000)
    assert text == b"\0" * 5000 + gap + b"\0" * 69_997 + b"END"
    assert launched.last_output_monotonic is not None
    assert os.listdir(bench.folder) == ["run.log"]


def test_past_the_output_limit_it_is_ended(bench: Bench) -> None:
    result = bench.run(bench.launch("yes", output_limit_bytes=1_000_000, log_head_bytes=1000, log_tail_bytes=1000))
    assert (result.output_limit, result.tree_dead) == (True, True)
    assert result.log_bytes > 1_000_000
    assert (bench.folder / "run.log").stat().st_size < 2100


def test_a_log_replaced_by_a_link_is_put_back(bench: Bench) -> None:
    (bench.folder / "victim").write_text("untouched")
    result = bench.run(bench.launch("sh", "-c", "echo one; rm run.log; ln -s victim run.log; echo two"))
    assert result.code == 0
    assert not (bench.folder / "run.log").is_symlink()
    assert bench.log() == b"one\ntwo\n"
    assert (bench.folder / "victim").read_text() == "untouched"


def test_a_log_that_exists_is_refused(bench: Bench) -> None:
    (bench.folder / "run.log").write_text("older")
    with pytest.raises(FileExistsError):
        bench.launch("true")


def test_a_marker_cannot_name_another_directory(bench: Bench) -> None:
    with pytest.raises(ValueError, match="marker"):
        process.launch(Program(("true",), ENV, bench.cwd_fd, bench.folder / "run.log", "../x.1"))


def test_close_ends_everything_and_leaves_no_descriptor_or_zombie(bench: Bench) -> None:
    before = len(os.listdir("/proc/self/fd"))
    launched = bench.python(DEAF)
    launched.release()
    eventually(bench.log, "deafness")
    launched.close()
    launched.close()
    assert tree_is_dead(launched.identity)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(launched.identity.launcher_pid, os.WNOHANG)
    assert TreeIdentity(**json.loads(json.dumps(asdict(launched.identity)))) == launched.identity


def ready() -> int:
    """The pid of the launcher that stands by."""
    launcher = standby._standby.ready
    assert launcher is not None
    return launcher.process.pid


@pytest.mark.usefixtures("standing_by")
def test_a_launcher_that_stands_by_is_used_once(plain: Bench) -> None:
    first = ready()
    launched = plain.launch("true")
    assert launched.identity.launcher_pid == first
    assert standby._standby.ready is None  # the next comes when the program is under way
    assert plain.run(launched).code == 0
    assert alive(ready())
    assert ready() != first
    assert not alive(first)


@pytest.mark.usefixtures("standing_by")
def test_what_stands_by_holds_nothing_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VP_CANARY", "secret")
    leak = os.open("/dev/null", os.O_WRONLY)
    os.set_inheritable(leak, True)
    standby.take().end()  # type: ignore[union-attr]
    standby.replenish()
    pid = ready()
    eventually(lambda: b"-c" in Path(f"/proc/{pid}/cmdline").read_bytes(), "exec")
    folder = Path(f"/proc/{pid}")

    def held() -> list[str]:
        return sorted(os.readlink(entry).partition(":")[0] for entry in (folder / "fd").iterdir() if entry.name != "2")

    eventually(lambda: len(held()) == 3, "it has read its modules")
    assert held() == ["/dev/null", "/dev/null", "socket"]
    assert b"VP_CANARY" not in (folder / "environ").read_bytes()
    assert os.getsid(pid) == pid
    os.close(leak)


def test_two_at_once_get_one_each(plain: Bench, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other", False)
    standby.keep()
    one, two = plain.launch("true"), other.launch("true")
    assert one.identity.launcher_pid != two.identity.launcher_pid
    assert (plain.run(one).code, other.run(two).code) == (0, 0)
    other.close()
    standby.close()


@pytest.mark.usefixtures("standing_by")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_one_that_was_killed_or_stopped_meanwhile_is_replaced(
    plain: Bench, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STANDBY_SECONDS", 0.2)
    pid = ready()
    os.kill(pid, how)
    if how == signal.SIGSTOP:
        eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "it stops")
    else:
        eventually(lambda: not alive(pid), "it ends")
    launched = plain.launch("true")
    assert launched.identity.launcher_pid != pid
    assert not alive(pid)
    assert plain.run(launched).code == 0


@pytest.mark.usefixtures("standing_by")
def test_one_that_dies_as_it_is_taken_is_replaced(plain: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = ready()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not alive(pid), "it ends")
    monkeypatch.setattr(standby.Launcher, "is_alive", lambda _: True)
    launched = plain.launch("true")
    assert launched.identity.launcher_pid != pid
    assert plain.run(launched).code == 0


@pytest.mark.usefixtures("standing_by")
def test_one_that_had_begun_is_not_replaced(plain: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STANDBY_SECONDS", 0.0)  # it answers too late, and then is found to have begun
    monkeypatch.setattr(process, "START_SECONDS", 0.0)
    monkeypatch.setattr(standby.Launcher, "has_spoken", lambda _: True)
    pid = ready()
    with pytest.raises(InternalError):
        plain.launch("touch", "ran")
    assert not alive(pid)
    assert not (plain.folder / "ran").exists()


def test_closing_leaves_no_process_and_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    standby.keep()
    pid = ready()
    standby.close()
    assert not alive(pid)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    assert len(os.listdir("/proc/self/fd")) == before
    standby.replenish()
    assert standby.take() is None


KEEPER = """
import os, sys, time
from vp_queue.worker import standby
standby.keep()
pid = standby._standby.ready.process.pid
child = os.fork()
if child == 0:
    print(pid, os.getpid(), flush=True)
    time.sleep(1000)
time.sleep(1000)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_stands_by_dies_with_its_worker_even_if_that_was_forked(how: signal.Signals) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", KEEPER], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    assert worker.stdout is not None
    pid, child = worker.stdout.readline().split()
    try:
        assert alive(int(pid))
        worker.send_signal(how)
        worker.wait()
        eventually(lambda: not alive(int(pid)), "end-of-file ends it")
        assert alive(int(child))
    finally:
        os.kill(int(child), signal.SIGKILL)
        worker.stdout.close()


def test_what_is_no_cgroup_gives_no_child(tmp_path: Path) -> None:
    assert gate.fork_into(str(tmp_path / "none")) is None
    assert gate.fork_into(str(tmp_path)) is None  # no cgroup: the kernel refuses


def test_where_no_child_can_be_born_in_the_cgroup_it_is_moved_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = cgroups.create(f"{MARKER}.probe", 0)
    if probe.tree is None:
        pytest.skip("no writable cgroup v2 here; run: systemd-run --user -p Delegate=yes --scope make test")
    probe.remove()
    refused = "from vp_queue.worker import gate; gate.fork_into = lambda _: None; main(int"
    monkeypatch.setattr(standby, "_BOOT", standby._BOOT.replace("main(int", refused))
    bench = Bench(tmp_path, True)
    launched = bench.launch("true")
    assert launched.identity.cgroup is not None
    assert launched.identity.cgroups.members() == [launched.identity.pid]
    assert bench.run(launched).code == 0
    bench.close()
