"""A program that runs as another user: what it may, what it may not, and that it is ended all the same.

The workspaces of these tests stand outside pytest's own folder, which nobody else may enter.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.harness import (
    CODER,
    GENERAL,
    Home,
    alive_with_environment,
    command,
    ended,
    ok,
    refused,
    shell,
    status,
    until,
)
from tests.model_server import KEY, model_server, says
from vp_queue import clock, config, missions, missions_admission, tools
from vp_queue.ledger.models import Attempt
from vp_queue.operations import doctor
from vp_queue.worker import account, process, procfs, standby
from vp_queue.worker.consumer import MissionWorker
from vp_queue.worker.process import LaunchedProgram, Program
from vp_queue.worker.tree import tree_is_dead

USER = "nobody"
MISSION_ID = clock.new_mission_id()
UID = pwd.getpwnam(USER).pw_uid
# That of this environment may stand in a private folder.
PYTHON = str(shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin"))
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can run programs as another user; run: sudo make test"
)

# Tries everything that facts.json names, and says what of it worked.
PROBE = """
import json, os, signal, sys
told = json.load(open("facts.json"))

def works(attempt):
    try:
        return attempt() is not False
    except OSError:
        return False

def append(path):
    with open(path, "a") as file:
        file.write("forged")

tried = {f"reads {name}": works(lambda: open(path, "rb").read(1)) for name, path in told["files"].items()}
tried |= {f"lists {name}": works(lambda: os.listdir(path)) for name, path in told["folders"].items()}
tried |= {f"signals {name}": works(lambda: os.kill(pid, 0)) for name, pid in told["processes"].items()}
tried |= {f"reads the environment of {name}": works(lambda: open(f"/proc/{pid}/environ").read())
          for name, pid in told["processes"].items()}
tried["signals the launcher"] = works(lambda: os.kill(os.getppid(), 0))
tried["becomes root"] = works(lambda: os.setresuid(0, 0, 0))
for name in ("MISSION.md", "mission.json", "run.log"):
    tried[f"changes {name}"] = works(lambda: append(name))
    tried[f"moves {name}"] = works(lambda: os.rename(name, f"{name}.old"))
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status"))
usual = {
    "reads its briefing": works(lambda: open(os.environ["VP_MISSION_FILE"]).read()),
    "reads its workspace by its path": works(lambda: os.listdir(os.environ["VP_WORKSPACE"])),
    "makes files": works(lambda: append("scratch")),
    "changes a file of the mission": works(lambda: append("facts.json")),
    "opens /dev/stderr": works(lambda: append("/dev/stderr")),
    "opens its report descriptor": works(lambda: append("/dev/fd/3")),
}
found = {"tried": tried, "usual": usual, "status": status, "environment": dict(os.environ),
         "groups": os.getgroups(), "umask": os.umask(0), "folder": os.getcwd()}
json.dump(found, open(os.environ["VP_WORK_PRODUCTS"] + "/found.json", "w"))
"""


@pytest.fixture
def passable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every user can pass through, with the workspaces root in it."""
    path = Path(tempfile.mkdtemp(prefix="vp-run-as-"))
    path.chmod(0o711)
    monkeypatch.setenv("VP_WORKSPACES_ROOT", str(path / "workspaces"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def lowered(home: Home, passable: Path) -> Home:
    """CODIE's programs run as another user, the Generalist's as the worker."""
    home.configure(more=f'run_as = "{USER}"\n')
    return home


def workspace(passable: Path, mission_id: str, vp_id: str = CODER) -> Path:
    return passable / "workspaces" / f"{vp_id.replace('.', '_')}_external" / mission_id / "attempt-1"


def check(home: Home, passable: Path, *mission_ids: str) -> None:
    home.close()
    oracle.check(home.database, passable / "workspaces", list(mission_ids))


def found_by_probe(home: Home, passable: Path, *, mutants: str = "") -> dict[str, Any]:
    """What a program of CODIE finds it can do, with another mission's leavings and a neighbour's beside it."""
    worker = home.consumer(CODER, mutants=mutants)
    earlier = shell("echo mine > work_products/secret; chmod 644 work_products/secret", vp_id=CODER)["mission_id"]
    ended(earlier)
    home.consumer(GENERAL)
    other = shell("echo mine > secret; sleep 600")["mission_id"]
    until(lambda: (workspace(passable, other, GENERAL) / "secret").exists(), "the other program runs")
    facts = {
        "files": {
            "the ledger": str(home.database),
            "the configuration": str(home.path / "vp_queue.toml"),
            "another VP's file": str(workspace(passable, other, GENERAL) / "secret"),
            "another mission's file": str(workspace(passable, earlier) / "work_products/secret"),
            "another mission's receipt": str(workspace(passable, earlier) / "mission_receipt.json"),
        },
        "folders": {"VP_HOME": str(home.path), "the VP's folder": str(workspace(passable, earlier).parents[1])},
        "processes": {
            "the worker": worker.pid,
            "another VP's program": alive_with_environment("VP_MISSION_ID", other)[0],
        },
    }
    files = {"probe.py": PROBE, "facts.json": json.dumps(facts)}
    mission_id = command(PYTHON, "probe.py", vp_id=CODER, constraints={"files": files})["mission_id"]
    done = ended(mission_id)
    assert done["status"] == "completed", done["failure"]["log_tail"]
    tools.vp_cancel_mission(mission_id=other)
    ended(other)
    check(home, passable, earlier, other, mission_id)
    found: dict[str, Any] = json.loads((workspace(passable, mission_id) / "work_products/found.json").read_text())
    return found


def test_it_has_that_users_rights_and_no_more(lowered: Home, passable: Path) -> None:
    found = found_by_probe(lowered, passable)
    assert [what for what, worked in found["tried"].items() if worked] == []
    assert [what for what, worked in found["usual"].items() if not worked] == []
    entry, told = pwd.getpwnam(USER), found["status"]
    assert told["Uid"].split() == [str(entry.pw_uid)] * 4
    assert told["Gid"].split() == [str(entry.pw_gid)] * 4
    assert set(found["groups"]) == set(os.getgrouplist(USER, entry.pw_gid))
    assert {told[name].strip().strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}
    assert (told["NoNewPrivs"].strip(), found["umask"]) == ("1", 0o022)
    environment = found["environment"]
    assert [environment[name] for name in ("HOME", "USER", "LOGNAME", "SHELL")] == [
        entry.pw_dir, USER, USER, entry.pw_shell
    ]  # fmt: skip
    assert environment["VP_WORKSPACE"] == found["folder"]


def test_without_the_switch_the_same_program_may_do_all_of_it(lowered: Home, passable: Path) -> None:
    found = found_by_probe(lowered, passable, mutants="no-user-switch,workspace-left-open")
    assert [what for what, worked in found["tried"].items() if not worked] == []


def test_its_ended_missions_are_closed_to_it(lowered: Home, passable: Path) -> None:
    """The negative control of one line above: left open, an earlier mission's files can be read."""
    found = found_by_probe(lowered, passable, mutants="workspace-left-open")
    assert [what for what, worked in found["tried"].items() if worked] == ["reads another mission's file"]


def test_what_is_the_workers_stays_the_workers(lowered: Home, passable: Path) -> None:
    lowered.consumer(CODER)
    script = 'echo \'{"outcome": "forged"}\' > mission_receipt.json; mkdir -p run.log.8388608; echo said; exit 3'
    mission_id = shell(script, vp_id=CODER)["mission_id"]
    assert ended(mission_id)["failure"]["log_tail"] == "said\n"
    place = workspace(passable, mission_id)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert "system.posix_acl_access" not in os.listxattr(place)
    for name, uid, mode in (
        ("mission_receipt.json", 0, 0o600),
        ("run.log", 0, 0o600),
        ("mission.json", 0, 0o644),
        ("work_products", UID, 0o700),
    ):
        about = (place / name).stat()
        assert (about.st_uid, stat.S_IMODE(about.st_mode)) == (uid, mode), name
    assert json.loads((place / "mission_receipt.json").read_text())["outcome"] == "failed"
    check(lowered, passable, mission_id)


@pytest.mark.parametrize("mutants", ["", "any-owner"])
def test_a_file_it_could_move_but_not_read_is_not_published(lowered: Home, passable: Path, mutants: str) -> None:
    """The worker can read everything; it must not be the one who hands it out."""
    drop = passable / "drop"
    drop.mkdir()
    drop.chmod(0o777)
    (drop / "secret").write_text("of root")
    (drop / "secret").chmod(0o600)
    lowered.consumer(CODER, mutants=mutants)
    script = f"cat {drop}/secret || mv {drop}/secret work_products/taken; echo own > work_products/own"
    mission_id = shell(script, vp_id=CODER)["mission_id"]
    ended(mission_id)
    answer = ok(tools.vp_read_result_artifacts(mission_id=mission_id))
    published = {artifact["path"]: artifact["content"] for artifact in answer["artifacts"]}
    if mutants:
        assert published == {"own": "own\n", "taken": "of root"}
    else:
        assert published == {"own": "own\n"}
        receipt = json.loads((workspace(passable, mission_id) / "mission_receipt.json").read_text())
        assert receipt["skipped"] == [{"path": "taken", "reason": "another owner"}]
    check(lowered, passable, mission_id)


DAEMON = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open("up", "w").close()
        time.sleep(600)
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""


@pytest.mark.parametrize("end", ["cancel", "release", "killed"])
def test_its_tree_is_ended_by_worker_and_keeper_alike(lowered: Home, passable: Path, end: str) -> None:
    consumer = lowered.consumer(CODER)
    mission_id = command(PYTHON, "-c", DAEMON, vp_id=CODER)["mission_id"]
    until(lambda: (workspace(passable, mission_id) / "up").exists(), "the daemon runs")
    assert len(alive_with_environment("VP_MISSION_ID", mission_id)) == 2
    if end == "cancel":
        ok(tools.vp_cancel_mission(mission_id=mission_id))
        assert ended(mission_id)["status"] == "cancelled"
    elif end == "release":
        consumer.terminate()
        consumer.wait(40)
        assert status(mission_id) == "queued"
    else:
        launcher = Attempt.get(Attempt.mission == mission_id).executor["launcher_pid"]
        os.kill(consumer.pid, signal.SIGSTOP)
        os.kill(launcher, signal.SIGKILL)
        os.kill(consumer.pid, signal.SIGKILL)
        consumer.wait()
        lowered.keeper()
        assert ended(mission_id)["failure"]["code"] == "worker_lost"
    assert alive_with_environment("VP_MISSION_ID", mission_id) == []
    assert stat.S_IMODE(workspace(passable, mission_id).stat().st_mode) == 0o700
    check(lowered, passable, mission_id)


WATCHFUL = "trap 'touch alive' USR1; echo up; while :; do sleep 0.05; done"


@pytest.mark.parametrize("told_again", [True, False])
def test_it_dies_with_its_launcher_though_the_kernel_forgets_that_at_a_change_of_user(
    passable: Path, monkeypatch: pytest.MonkeyPatch, told_again: bool
) -> None:
    standby.close()  # one that an earlier test left standing by knows nothing of what follows
    if not told_again:
        forgetful = (
            "from vp_queue.worker import gate; real = gate.prctl\n"
            "gate.prctl = lambda *a: None if a[0] == 1 and __import__('os').getuid() else real(*a)\n"
        )
        monkeypatch.setattr(standby, "_BOOT", standby._BOOT.replace("main(int", f"{forgetful}main(int"))
    place = passable / "place"
    place.mkdir()
    os.chown(place, UID, -1)
    with contextlib.closing(_launched(place)) as launched:
        program = launched.identity
        until(lambda: b"up" in (place / "run.log").read_bytes(), "the program runs")
        os.kill(program.launcher_pid, signal.SIGKILL)
        launched._launcher.wait()
        if told_again:
            until(lambda: procfs.start_ticks(program.pid) is None, "it died with its launcher")
        else:
            os.kill(program.pid, signal.SIGUSR1)
            until(lambda: (place / "alive").exists(), "it lives on")
    assert tree_is_dead(program)


def _launched(place: Path) -> LaunchedProgram:
    """The watchful program, released, in a folder of the user's; in no cgroup."""
    folder = os.open(place, os.O_RDONLY)
    try:
        program = Program(
            ("sh", "-c", WATCHFUL),
            {"PATH": os.environ["PATH"], "VP_MISSION_ID": MISSION_ID, "VP_ATTEMPT": "1"},
            folder,
            place / "run.log",
            f"{MISSION_ID}.1",
            use_cgroup=False,
            account=account.Account.named(USER),
        )
        launched = process.launch(program)
    finally:
        os.close(folder)
    launched.release()
    return launched


# -- where it cannot be ---------------------------------------------------------------------------------------------


def dispatch(**arguments: Any) -> dict[str, Any]:
    constraints = {"command": ["true"], **arguments.pop("constraints", {})}
    return tools.vp_dispatch_mission(
        vp_id=CODER, objective="x", mission_type="command", constraints=constraints, **arguments
    )


def obstacle(home: Home) -> str:
    """Why CODIE cannot run, in the words that dispatch, `vp vps` and the doctor have in common."""
    error = refused(dispatch(), "executor_unavailable")
    settings = config.load()
    told = missions_admission.availability(settings, settings.profile(CODER))
    assert not told.ok
    (line,) = [check for check in doctor._vp(settings, settings.profile(CODER)) if check["name"] == CODER]
    assert (line["ok"], line["fix"]) == (False, told.reason)
    assert str(told.reason) in error["message"]
    return str(told.reason)


def test_an_unknown_user_is_told_at_dispatch(home: Home, passable: Path) -> None:
    home.configure(more='run_as = "vp-nobody-of-this-name"\n')
    assert "there is no user 'vp-nobody-of-this-name' on this host; make one" in obstacle(home)


@pytest.mark.parametrize("name", ["root", "a b", "x/y", "", "-x"])
def test_what_names_no_other_user_is_a_mistake_in_the_file(home: Home, name: str) -> None:
    home.configure(more=f'run_as = "{name}"\n')
    assert "run_as" in refused(dispatch(), "configuration_error")["message"]


def test_a_worker_that_may_not_switch_says_what_it_lacks(lowered: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "_missing_capabilities", lambda: ["CAP_SETUID"])
    assert "it lacks CAP_SETUID); run vp up, or vp worker, as root" in obstacle(lowered)


def test_capabilities_are_the_kernels_word() -> None:
    assert account._missing_capabilities() == []
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            os.setresuid(UID, UID, UID)
            os.write(write, " ".join(account._missing_capabilities()).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 1000).decode().split() == list(account.CAPABILITIES)
    os.close(read)
    os.close(write)


def test_a_home_that_others_can_reach_still_keeps_its_inside_closed(
    passable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (passable / "targets").mkdir(mode=0o700)
    (passable / "home").mkdir(mode=0o700)
    home = Home(passable / "home", passable / "targets")
    home.configure(more=f'run_as = "{USER}"\n')
    monkeypatch.setenv("VP_HOME", str(home.path))
    monkeypatch.delenv("VP_WORKSPACES_ROOT")
    assert "VP_HOME stays private; set workspaces_root in vp_queue.toml" in obstacle(home)
    monkeypatch.setenv("VP_WORKSPACES_ROOT", str(passable / "workspaces"))
    (passable / "workspaces").mkdir(mode=0o700)
    assert f'let it pass: chmod o+x "{passable}/workspaces"' in obstacle(home)
    (passable / "workspaces").chmod(0o711)
    ok(dispatch())


def test_a_workspaces_root_that_is_made_lets_pass(lowered: Home, passable: Path) -> None:
    ok(dispatch())
    assert stat.S_IMODE((passable / "workspaces").stat().st_mode) == 0o711


def test_a_target_path_must_let_that_user_in(lowered: Home, passable: Path) -> None:
    target = passable / "target"
    target.mkdir(mode=0o755)
    lowered.configure(more=f'run_as = "{USER}"\n')
    text = (lowered.path / "vp_queue.toml").read_text().replace(str(lowered.targets), str(passable))
    (lowered.path / "vp_queue.toml").write_text(text)
    target.chmod(0o700)
    error = refused(dispatch(constraints={"target_path": str(target)}), "target_path_denied")
    assert error["details"]["rule"] == "run_as"
    target.chmod(0o755)
    fine = ok(dispatch(constraints={"target_path": str(target)}))["mission"]["mission_id"]
    lowered.consumer(CODER)
    assert ended(fine)["status"] == "completed"
    # Closed between dispatch and start: the program does not start, and says why.
    missions.pause(CODER)
    third = ok(dispatch(constraints={"target_path": str(target)}))["mission"]["mission_id"]
    target.chmod(0o700)
    missions.resume(CODER)
    failure = ended(third)["failure"]
    assert failure["code"] == "executor_error"
    assert f"user {USER} may not enter the folder it is to start in" in failure["message"]
    check(lowered, passable, fine, third)


# -- executors whose program is our own Python ----------------------------------------------------------------------


@pytest.fixture
def worker(passable: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Runs a mission's first attempt in this process, by a Python that every user can read."""
    if account.Account.named(USER).cannot_read([Path(sys.executable)]):
        subprocess.run([PYTHON, "-m", "venv", "--without-pip", passable / "venv"], check=True)
        (library,) = (passable / "venv/lib").glob("python*/site-packages")
        (library / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        monkeypatch.setattr(sys, "executable", str(passable / "venv/bin/python"))
    made: list[MissionWorker] = []

    def run(mission_id: str) -> dict[str, Any]:
        settings = config.load()
        made.append(MissionWorker(settings, settings.profile(CODER)))
        made[-1].run(mission_id, 1)
        return ended(mission_id)

    yield run
    for each in made:
        each.close()
        atexit.unregister(each.close)
    standby.close()


def put_coder(home: Home, text: str) -> None:
    path = home.path / "vp_queue.toml"
    before = path.read_text().split('[vp."vp.coder.primary"]')[0]
    path.write_text(f'{before}[vp."vp.coder.primary"]\nrun_as = "{USER}"\n{text}')


def test_a_callable_runs_as_that_user(home: Home, passable: Path, worker: Callable[[str], dict[str, Any]]) -> None:
    (passable / "code").mkdir(mode=0o755)
    (passable / "code/whose.py").write_text(
        "import os\ndef am_i(mission):\n"
        "    (mission.work_products / 'uid').write_text(str(os.getuid()))\n    return mission.objective\n"
    )
    put_coder(
        home, f'executor = "python"\n[vp."{CODER}".options]\ncallable = "whose:am_i"\npath = ["{passable}/code"]\n'
    )
    mission_id = ok(tools.vp_dispatch_mission(vp_id=CODER, objective="who?"))["mission"]["mission_id"]
    done = worker(mission_id)
    assert (done["status"], done["result"]) == ("completed", "who?")
    assert (workspace(passable, mission_id) / "work_products/uid").read_text() == str(UID)
    check(home, passable, mission_id)


def test_a_models_conversation_runs_as_that_user(
    home: Home, passable: Path, monkeypatch: pytest.MonkeyPatch, worker: Callable[[str], dict[str, Any]]
) -> None:
    monkeypatch.setenv("THE_KEY", KEY)
    with model_server(says("A short poem.")) as server:
        put_coder(
            home,
            f'executor = "model"\n[vp."{CODER}".options]\n{server.profile}api_key_env = "THE_KEY"\n',
        )
        mission_id = ok(tools.vp_dispatch_mission(vp_id=CODER, objective="a poem"))["mission"]["mission_id"]
        assert worker(mission_id)["status"] == "completed"
    file = workspace(passable, mission_id) / "work_products/response.md"
    assert (file.stat().st_uid, "A short poem." in file.read_text()) == (UID, True)
    check(home, passable, mission_id)


def test_an_unreadable_python_is_refused_with_the_remedy(
    home: Home, passable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_coder(home, f'executor = "python"\n[vp."{CODER}".options]\ncallable = "os:getuid"\n')
    private = passable / "private"
    private.mkdir(mode=0o700)
    (private / "python").write_text("")
    monkeypatch.setattr(sys, "executable", str(private / "python"))
    error = refused(tools.vp_dispatch_mission(vp_id=CODER, objective="x"), "executor_unavailable")
    assert "Install vp-queue where everybody may read" in error["message"]
