"""Starts, changes, watches and ends this installation's supervisord: ``vp up``, ``vp down``, ``vp status``.

Two locks in VP_HOME/run keep them apart. ``up.lock`` is held while an ``up`` or ``down`` is at work.
``supervisord.lock`` is inherited by supervisord and so held until it is dead, however it died: whoever
cannot take it starts no second one. Its descriptor does not reach the programs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import xmlrpc.client
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from vp_queue import clock, missions
from vp_queue.config import Settings
from vp_queue.errors import ConfigurationError, InternalError, LedgerBusy, VpDisabled
from vp_queue.ledger import database
from vp_queue.operations.programs import KEEPER, WEB, Place, place, wanted_programs, watched_programs, write
from vp_queue.operations.supervision_locks import POLL_SECONDS, at_work, polled, take
from vp_queue.operations.supervisord import STOPPED_STATES, Supervisord, connect

Found = TypeVar("Found")

ANSWER_WAIT_SECONDS: Final = 10.0  # from its start until supervisord listens
RUNNING_WAIT_SECONDS: Final = 30.0
# A program that has not come up this long after its first failure is reported, though retries go on.
BACKOFF_PATIENCE_SECONDS: Final = 4.0
STOP_WAIT_SECONDS: Final = 32.0  # supervisord's stopwaitsecs=30, and its own tick
EXIT_WAIT_SECONDS: Final = 8.0
LOG_TAIL_BYTES: Final = 2_000
ERROR: Final = "Error: "  # how a command's complaint begins
FAILING_STATES: Final = ("BACKOFF", "FATAL", "EXITED")


@dataclass
class Changes:
    """What an ``up`` did to a supervisord that was running already."""

    added: list[str] = field(default_factory=list)
    restarted: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, list[str]]:
        """JSON-able."""
        return {name: sorted(names) for name, names in vars(self).items()}


def up(settings: Settings, detach: bool) -> dict[str, Any]:
    """Start supervisord with the keeper and a consumer for each enabled VP, or bring a running one up to date.

    Args:
        settings: validated; the ledger is migrated before anything starts.
        detach: return when every program is RUNNING. Otherwise, if none was running, this process
            *becomes* supervisord and Ctrl-C stops everything in order.

    Raises:
        ConfigurationError, LedgerBusy, LedgerUnavailable: nothing was started.
        InternalError: a program did not come up; the message ends with its log.
    """
    missions.ready(settings)
    database.check_intact()
    where = place(settings.home)
    with at_work(settings):
        write(where, settings)
        running, started = _found_or_started(where, settings, detach)
        changes = Changes() if started else _update(running, settings)
        _await_running(where, running, wanted_programs(settings))
    return {"started": started, "changes": changes.as_dict(), **report(settings)}


def down(settings: Settings) -> dict[str, Any]:
    """Stop every program, then supervisord; returns when all of them are gone.

    Returns:
        ``was_running`` and, if so, the names of what was stopped.

    Raises:
        InternalError: something outlived the time limit of about 40 s, or supervisord does not answer.
    """
    where = place(settings.home)
    if not where.lock.exists() and connect(where.socket) is None:
        return {"was_running": False, "stopped": []}
    with at_work(settings):
        running = connect(where.socket)
        if running is None:
            held = take(where.lock)
            if held is not None:
                os.close(held)
                return {"was_running": False, "stopped": []}
            running = _await_answer(where)
        with _explained(where):
            programs = {p["name"]: p["pid"] for p in running.programs() if p["pid"]}
            watched = {pid: clock.process_start_ticks(pid) for pid in (running.pid, *programs.values())}
            # The VPs side by side: supervisord itself stops one after the other, each taking up to 30 s.
            # The keeper goes last, with supervisord.
            _stop(running, [name for name in programs if name != KEEPER])
            running.shut_down()
        left = _await_exit(watched)
    if left:
        raise InternalError(
            f"These processes have not ended yet: {', '.join(map(str, left))}. See {where.log('supervisord')}.",
            pids=left,
        )
    return {"was_running": True, "stopped": sorted(programs)}


def start_anew(settings: Settings, program: str) -> None:
    """Stop one program and start it again; returns when it has registered as a worker.

    Raises:
        ConfigurationError: no supervisord runs.
        InternalError: it did not come up; the message ends with its log.
    """
    where = place(settings.home)
    with at_work(settings):
        running = connect(where.socket)
        if running is None:
            raise ConfigurationError("No supervisord of this VP_HOME runs. Start it: vp up --detach")
        with _explained(where):
            _stop(running, [program])
            running.start(program)
        _await_running(where, running, [program])


@contextlib.contextmanager
def held_down(settings: Settings) -> Iterator[None]:
    """Within the block no supervisord of this VP_HOME runs, or can be started; LedgerBusy if one does."""
    where = place(settings.home)
    with at_work(settings), contextlib.ExitStack() as held:
        lock = take(where.lock)
        if lock is not None:
            held.callback(os.close, lock)
        if lock is None or connect(where.socket) is not None:
            text = f"supervisord of {settings.home} runs, and its programs use the ledger. Stop it first: vp down"
            raise LedgerBusy(text, retry_after_seconds=STOP_WAIT_SECONDS, supervised=True)
        yield


def report(settings: Settings) -> dict[str, Any]:
    """supervisord and its programs as they are now; looks only.

    Returns:
        ``supervisord``: pid, state, socket and configuration file, or None if it is down;
        ``programs``: name, state, pid, uptime_seconds, detail and log of each.
    """
    where = place(settings.home)
    running = connect(where.socket)
    if running is None:
        return {"supervisord": None, "programs": []}
    with _explained(where):
        about = {
            "pid": running.pid,
            "state": running.state(),
            "socket": str(where.socket),
            "configuration": str(where.conf),
        }
        shown = [info for info in running.programs() if info["name"] != WEB or settings.web.enabled or info["pid"]]
        return {"supervisord": about, "programs": [_program(where, info) for info in shown]}


def programs(settings: Settings) -> list[dict[str, Any]]:
    """The programs of :func:`report`."""
    return list(report(settings)["programs"])


def environment(settings: Settings, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The user's environment for a consumer, a keeper or supervisord, whatever folder they run in.

    This Python's own scripts come first on PATH, so that `vp` and `huey_consumer` are the ones that
    belong to it. The programs of missions see of all this only what a profile's ``env_allow`` names.
    """
    scripts = dict.fromkeys((os.path.dirname(sys.executable), sysconfig.get_path("scripts")))
    path = [*scripts, *([environ["PATH"]] if environ.get("PATH") else [os.defpath])]
    made = {**environ, "PATH": os.pathsep.join(path), "VP_HOME": str(settings.home)}
    if environ.get("VP_CONFIG"):
        made["VP_CONFIG"] = str(settings.config_path)
    return made


def consumer(settings: Settings, vp_id: str) -> tuple[list[str], dict[str, str]]:
    """The command and environment that run a VP's consumer, as supervisord does.

    Raises:
        UnknownVp, VpDisabled: there is nothing to run.
        ConfigurationError: this Python has no huey_consumer.
    """
    if not settings.profile(vp_id).enabled:
        raise VpDisabled(f"{vp_id} is disabled; set enabled = true in {settings.config_path}.", field="vp_id")
    variables = environment(settings)
    program = shutil.which("huey_consumer", path=variables["PATH"])
    if program is None:
        raise ConfigurationError(f"huey_consumer is not installed beside {sys.executable}; reinstall vp-queue there.")
    return [program, "vp_queue.tasks.app.huey"], {**variables, "VP_ID": vp_id}


def _program(where: Place, info: Mapping[str, Any]) -> dict[str, Any]:
    why = info["spawnerr"] or info["description"]
    if info["name"] == WEB and info["statename"] in FAILING_STATES:
        # It says so itself, in its last words: that its port is taken, for one.
        errors = [line for line in _tail(where.log(WEB)).splitlines() if line.startswith(ERROR)]
        why = errors[-1].removeprefix(ERROR) if errors else why
    return {
        "name": info["name"],
        "state": info["statename"],
        "pid": info["pid"] or None,
        "uptime_seconds": max(0, info["now"] - info["start"]) if info["pid"] else None,
        "detail": why,
        "log": str(where.log(info["name"])),
    }


def is_down(where: Place) -> bool:
    """Whether no supervisord runs there, and none is being started or stopped."""
    for lock in (where.home / "run" / "up.lock", where.lock):
        if not lock.exists():
            continue
        held = take(lock)
        if held is None:
            return False
        os.close(held)
    return connect(where.socket) is None


# --- starting -----------------------------------------------------------------------------------


def _found_or_started(where: Place, settings: Settings, detach: bool) -> tuple[Supervisord, bool]:
    """The supervisord that runs, or one started now; the second value says which."""
    held = take(where.lock)
    if held is None:
        return _await_answer(where), False
    try:
        # Without our lock one may run all the same: started by hand, or restarted by SIGHUP.
        running = connect(where.socket)
        if running is not None:
            return running, False
        if not detach:
            _become_supervisord(where, settings, held)
        return _spawn(where, settings, held), True
    finally:
        os.close(held)


def _command(where: Place) -> list[str]:
    # -P: a folder "supervisor" in the working directory is not to be imported.
    return [sys.executable, "-P", "-m", "supervisor.supervisord", "--nodaemon", "--configuration", str(where.conf)]


def _become_supervisord(where: Place, settings: Settings, held: int) -> NoReturn:
    os.set_inheritable(held, True)
    os.umask(0o077)
    os.chdir(settings.home)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, _command(where), environment(settings))


def _spawn(where: Place, settings: Settings, held: int) -> Supervisord:
    """Start supervisord in a session of its own, so that no terminal or parent can end it."""
    output = settings.logs_dir / "supervisord.start.log"
    with open(os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "rb") as file:
        process = subprocess.Popen(
            [*_command(where), "--silent"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=settings.home,
            env=environment(settings),
            start_new_session=True,
            pass_fds=(held,),
            umask=0o077,
        )
    running = polled(lambda: connect(where.socket) or (process.poll() is not None or None), ANSWER_WAIT_SECONDS)
    if isinstance(running, Supervisord):
        return running
    ended = f"ended with status {process.returncode}" if process.returncode is not None else "does not answer"
    raise InternalError(f"supervisord {ended}.\n{_tail(output) or _tail(where.log('supervisord'))}", log=str(output))


def _await_answer(where: Place) -> Supervisord:
    """The supervisord that holds the lock, once it listens."""
    running = polled(lambda: connect(where.socket), ANSWER_WAIT_SECONDS)
    if running is None:
        raise InternalError(
            f"A supervisord holds {where.lock} but does not answer on {where.socket}. "
            f"See {where.log('supervisord')}; its pid stands in {where.run / 'supervisord.pid'}.",
        )
    return running


def _update(running: Supervisord, settings: Settings) -> Changes:
    """What ``supervisorctl reread`` and ``update`` do, and a start of what should run but does not."""
    with _explained(place(settings.home)):
        added, changed, removed = running.reread()
        _stop(running, [*changed, *removed])
        for name in (*changed, *removed):
            running.remove(name)
        for name in (*changed, *added):
            running.add(name)
        idle = {p["name"] for p in running.programs() if p["statename"] in STOPPED_STATES}
        started = [name for name in watched_programs(settings) if name in idle and name not in (*added, *changed)]
        for name in started:
            running.start(name)
    return Changes(added=added, restarted=changed, removed=removed, started=started)


def _await_running(where: Place, running: Supervisord, wanted: Sequence[str]) -> None:
    """Return when all are RUNNING and have registered as workers: up and at work, not only started.

    Raises:
        InternalError: one is not, by the deadline or after repeated failures.
    """
    deadline = clock.monotonic() + RUNNING_WAIT_SECONDS
    failing_since: dict[str, float] = {}
    while True:
        with _explained(where):
            programs = {p["name"]: p for p in running.programs()}
        states = {name: program["statename"] for name, program in programs.items()}
        at_work = missions.worker_pids()
        late = [name for name in wanted if states.get(name) != "RUNNING" or programs[name]["pid"] not in at_work]
        now = clock.monotonic()
        if not late and (states.get(WEB) != "STARTING" or now > deadline):  # whether that comes up is another matter
            return
        for name in late:
            if states.get(name) in FAILING_STATES:
                since = failing_since.setdefault(name, now)
                if states[name] == "FATAL" or now - since > BACKOFF_PATIENCE_SECONDS:
                    raise _not_running(where, name, states[name])
        if now > deadline:
            raise _not_running(where, late[0], states.get(late[0], "not configured"))
        time.sleep(POLL_SECONDS)


def _not_running(where: Place, name: str, state: str) -> InternalError:
    return InternalError(
        f"{name} does not come up (supervisord says {state}). supervisord runs and keeps trying; `vp status` shows "
        f"it, `vp down` ends it. The end of {where.log(name)}:\n{_tail(where.log(name))}",
        program=name,
        state=state,
        log=str(where.log(name)),
    )


# --- stopping -----------------------------------------------------------------------------------


def _stop(running: Supervisord, names: Sequence[str]) -> None:
    """Stop programs side by side; returns when they have stopped or their time is up."""
    for name in names:
        running.stop(name)

    def stopped() -> bool | None:
        states = {p["name"]: p["statename"] for p in running.programs()}
        return True if all(states.get(name, "STOPPED") in STOPPED_STATES for name in names) else None

    polled(stopped, STOP_WAIT_SECONDS)


def _await_exit(watched: Mapping[int, int | None]) -> list[int]:
    """The pids that are still the same live processes when the time is up."""

    def left() -> list[int]:
        return [pid for pid, start in watched.items() if start and clock.process_start_ticks(pid) == start]

    polled(lambda: None if left() else True, EXIT_WAIT_SECONDS)
    return left()


@contextlib.contextmanager
def _explained(where: Place) -> Iterator[None]:
    """supervisord's refusals and silences as our error."""
    try:
        yield
    except xmlrpc.client.Fault as fault:
        raise InternalError(f"supervisord refused: {fault.faultString}. See {where.log('supervisord')}.") from fault
    except OSError as error:
        raise InternalError(
            f"supervisord stopped answering on {where.socket} ({error}). See {where.log('supervisord')}."
        ) from error


def _tail(log: Path) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""
