"""``vp doctor``: looks at everything an installation needs, and says what to do about what is wrong.

A check is data: ``{name, ok, detail, fix}``; ``ok`` is true, false (something will not work) or null
(a warning, or not known). Nothing is made or changed: on a machine without a VP_HOME it says so.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from vp_queue import __version__, clock, missions, missions_admission, missions_space
from vp_queue.config import Profile, Settings
from vp_queue.config_notify import Notify
from vp_queue.contracts import limits
from vp_queue.errors import VpError
from vp_queue.executors import model_local
from vp_queue.ledger import backup, database, locks, schema, trouble
from vp_queue.operations import notifications, skill
from vp_queue.worker import cgroups

Check = dict[str, Any]

WAL_RESET_FIXED: Final = (3, 51, 3)
LOW_SPACE_TIMES: Final = 2  # of the watermark
HONEST_WRITE_SECONDS: Final = 0.3
KEEPER_SILENT_SECONDS: Final = 30.0
# SQLite's WAL needs shared memory and honest POSIX locks; over a network it corrupts.
NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "sshfs", "fuse.sshfs", "davfs"}
)
MEMORY_FILE_SYSTEMS: Final = frozenset({"tmpfs", "ramfs"})


def check(name: str, ok: bool | None, detail: str, fix: str | None = None) -> Check:
    """One finding; ``fix`` says what to do unless ``ok`` is true."""
    return {"name": name, "ok": ok, "detail": detail, "fix": None if ok else fix}


def examine(settings: Settings, supervised: Mapping[str, Any]) -> list[Check]:
    """All checks.

    Args:
        supervised: ``supervision.report``.
    """
    checks = [
        *_versions(),
        *_home(settings),
        *_ledger(settings),
        _cgroup(),
        _process_limit(),
        *_processes(settings, supervised),
    ]
    checks.append(_local_model())
    checks += _skill()
    for profile in settings.vps.values():
        checks += _vp(settings, profile)
    checks += _notified(settings)
    return checks


def _versions() -> Iterator[Check]:
    yield check("Python", True, f"{platform.python_version()} ({platform.system()} {platform.machine()})")
    yield check("vp-queue", True, __version__)
    version = database.versions()["cysqlite"]
    fixed = tuple(int(part) for part in version.split(".")[:3]) >= WAL_RESET_FIXED
    yield check(
        "SQLite",
        True if fixed else None,
        f"{version} (cysqlite)" + ("" if fixed else ": has the WAL-reset bug, a rare corruption"),
        "Upgrade cysqlite, whose wheels carry SQLite 3.51.3 or newer: pip install --upgrade cysqlite",
    )


# --- VP_HOME ------------------------------------------------------------------------------------


def _home(settings: Settings) -> Iterator[Check]:
    home = settings.home
    source = (
        str(settings.config_path) if settings.config_exists else "no vp_queue.toml: the built-in profiles are in force"
    )
    yield check("configuration", True, source)
    if not home.is_dir():
        yield check("VP_HOME", False, f"{home} does not exist yet", "Run: vp init")
        return
    yield _private("VP_HOME", home, 0o077, f'chmod 700 "{home}"')
    yield _file_system(home)
    for space in missions_space.measure(settings):
        yield _disk_space(space)
    if settings.token_path.exists():
        yield _private("token", settings.token_path, 0o077, f'chmod 600 "{settings.token_path}"')
    else:
        yield check("token", None, "there is none yet; the web face needs it", "Run: vp init")


def _disk_space(space: missions_space.Space) -> Check:
    """As a dispatch judges it; a warning while little more than the watermark is left."""
    free, required = (f"{count / 1024**3:.1f} GiB" for count in (space.free_bytes, space.required_bytes))
    detail = f"{free} free at {space.path}; dispatches are refused below {required}"
    if not space.required_bytes:
        fix = "min_free_bytes = 0: nothing is refused before the disk is full, which stops every mission."
        return check("disk space", None, f"{free} free at {space.path}", fix)
    nearly = space.free_bytes < LOW_SPACE_TIMES * space.required_bytes
    fix = "Make room: vp usage shows what takes it, vp prune removes old missions."
    return check("disk space", False if space.low else None if nearly else True, detail, fix)


def _private(name: str, path: Path, forbidden_bits: int, command: str) -> Check:
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.geteuid():
        detail = f"{path} belongs to user {found.st_uid}; this is user {os.geteuid()}"
        return check(name, False, detail, "Run vp as the user who owns it, or choose another VP_HOME.")
    open_to_others = bool(mode & forbidden_bits)
    return check(name, not open_to_others, f"{path} ({mode:04o})", f"Others may read or write it. Run: {command}")


def _file_system(path: Path) -> Check:
    kind = file_system(path)
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        fix = "Nothing can be written; find out why (dmesg), then: mount -o remount,rw"
        return check("file system", False, f"{kind}, mounted read-only, at {path}", fix)
    if kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse."):
        fix = "SQLite loses data on network file systems: put VP_HOME on a local disk."
        return check("file system", False if kind in NETWORK_FILE_SYSTEMS else None, f"{kind}, at {path}", fix)
    if kind in MEMORY_FILE_SYSTEMS:
        return check("file system", None, f"{kind}: gone after a restart", "Put VP_HOME on a disk.")
    if kind == "overlay":
        fix = "In a container this layer goes when the container goes: put VP_HOME on a volume."
        return check("file system", None, kind, fix)
    return check("file system", True if kind else None, kind or "unknown", "Make sure that VP_HOME is on a local disk.")


def file_system(path: Path) -> str:
    """The type of file system that holds a path; empty if the kernel does not say."""
    real = os.path.realpath(path)
    best, kind = "", ""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = before.split(" ")[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        # The last of equals: a later mount covers an earlier one.
        if (real == mount or real.startswith(mount.rstrip("/") + "/")) and len(mount) >= len(best):
            best, kind = mount, after.split(" ")[0]
    return kind


# --- the ledger ---------------------------------------------------------------------------------


def _ledger(settings: Settings) -> Iterator[Check]:
    path = settings.database_path
    try:
        found = path.stat()
    except OSError as error:
        if schema.stood_before(path):
            yield check("ledger", False, f"{path} was here and is gone", f"{schema.HOW_TO_RESTORE}.")
            return
        missing = isinstance(error, FileNotFoundError)
        detail = f"{path} does not exist yet" if missing else f"{path}: {error.strerror}"
        yield check(
            "ledger", None if missing else False, detail, "Run: vp init" if missing else "Check its permissions."
        )
        return
    yield check("ledger", True, f"{path} (inode {found.st_ino}, {found.st_size / 1024:.0f} KiB)")
    if not found.st_size:
        yield check("schema", None, "empty: nothing applied yet", "Run: vp migrate")
        return
    ledger = database.Ledger(path)
    try:
        with trouble.translated_errors(path):
            mode = ledger.db.execute_sql("PRAGMA journal_mode").fetchone()[0]
            pending = schema.pending(ledger.db, path)
    except VpError as error:
        yield check("schema", False, error.message, "Nothing is written to it until that is put right.")
        return
    finally:
        ledger.db.close()
    yield check("journal mode", mode == "wal", mode, "Stop everything (vp down), then run: vp migrate")
    known = schema.known()
    detail = f"pending: {', '.join(pending)}" if pending else f"{len(known)} applied, newest {known[-1]}"
    yield check("schema", None if pending else True, detail, "Run: vp migrate")
    yield _write_lock(path)
    yield _integrity(path, found.st_size)


def _integrity(path: Path, size_bytes: int) -> Check:
    """SQLite's own check of the whole file, where that takes a moment only."""
    if size_bytes > limits.CHECKED_BYTES:
        fix = "To have it checked as a whole, make a copy: vp backup FILE"
        return check("integrity", None, f"not looked at: over {limits.CHECKED_BYTES >> 20} MiB", fix)
    try:
        with backup.opened(path) as db:
            damage = backup.damage(db)
    except VpError as error:
        damage = error.message
    return check("integrity", damage is None, damage or "ok", f"{schema.HOW_TO_RESTORE}.")


def _write_lock(path: Path) -> Check:
    """Whether one process keeps all others from writing: seen twice, since an honest write takes milliseconds."""
    holder = locks.write_lock_holder(path)
    if holder is not None:
        time.sleep(HONEST_WRITE_SECONDS)
    if holder is None or locks.write_lock_holder(path) != holder:
        return check("write lock", True, "free")
    fix = f"Nobody else can write. If it is stopped: kill -CONT {holder}; if it hangs: kill {holder}"
    return check("write lock", False, f"held by process {holder} ({locks.command(holder)})", fix)


# --- processes ----------------------------------------------------------------------------------


def _process_limit() -> Check:
    place = cgroups.limit_in_force()
    return check(
        "process limit",
        None if place is None else True,
        "max_processes binds nobody: no pids controller to write to" if place is None else f"max_processes, by {place}",
        "A fork bomb is ended at cancel or time-out only. To have it held: run under systemd with Delegate=yes and "
        "DelegateSubgroup=vp-queue, limit the container (docker run --pids-limit), or run as root.",
    )


def _cgroup() -> Check:
    parent = cgroups.own_cgroup()
    if parent is not None and os.access(parent, os.W_OK):
        return check("cgroup v2", True, parent)
    return check(
        "cgroup v2",
        None,
        "none to write to" if parent is None else f"{parent} is not writable",
        "Not needed: process trees are then found by descent, session and environment. To have the complete way, "
        "run under systemd with Delegate=yes.",
    )


def _processes(settings: Settings, supervised: Mapping[str, Any]) -> Iterator[Check]:
    daemon = supervised["supervisord"]
    if daemon is None:
        yield check("supervisord", None, "not running", "Run: vp up --detach (or vp worker and vp keeper yourself)")
    else:
        idle = [
            f"{p['name']} ({p['detail']})"
            for p in supervised["programs"]
            if p["state"] in ("BACKOFF", "FATAL", "EXITED")
        ]
        detail = f"pid {daemon['pid']}, {daemon['state']}" + (f"; failing: {', '.join(idle)}" if idle else "")
        yield check("supervisord", not idle, detail, f"See {settings.logs_dir}")
    if not _readable(settings):
        return
    try:
        heartbeats = [keeper.heartbeat_at for keeper in missions.keepers()]
    except VpError as error:
        yield check("keeper", None, error.message, "Put the ledger right first.")
        return
    if not heartbeats:
        fix = "Without one, crashed missions stay as they are and later ones never become due. Run: vp up --detach"
        yield check("keeper", None, "none running", fix)
        return
    silent = (clock.now() - max(heartbeats)).total_seconds()
    fix = "It hangs or was killed: see logs/keeper.log under VP_HOME; `vp up` starts another."
    yield check("keeper", silent < KEEPER_SILENT_SECONDS, f"last heartbeat {max(0, silent):.0f} s ago", fix)


def _readable(settings: Settings) -> bool:
    """Whether the ledger can be asked without making or migrating it."""
    path = settings.database_path
    if not path.exists() or not path.stat().st_size:
        return False
    ledger = database.Ledger(path)
    try:
        with trouble.translated_errors(path):
            return not schema.pending(ledger.db, path)
    except VpError:
        return False
    finally:
        ledger.db.close()


def _local_model() -> Check:
    missing = model_local.problem() or model_local.engine_trouble()
    if missing is None:
        return check("local model", True, f"{model_local.weights()} (for demonstration)")
    fix = "Not needed where every model VP has a base_url. For a try without keys, run: vp model fetch"
    return check("local model", None, missing, fix)


def _skill() -> Iterator[Check]:
    """Nothing is said where it was never installed, or where somebody made it their own."""
    with contextlib.suppress(VpError):
        for copy in skill.copies(skill.home()):
            if copy.state in (skill.State.CURRENT, skill.State.OUTDATED):
                detail = str(copy.path) + ("" if copy.state == skill.State.CURRENT else ": of another version")
                yield check(
                    "skill", True if copy.state == skill.State.CURRENT else None, detail, "Run: vp skill install"
                )


# --- VPs ----------------------------------------------------------------------------------------


def _vp(settings: Settings, profile: Profile) -> Iterator[Check]:
    name = profile.vp_id
    if not profile.enabled:
        yield check(name, None, "disabled", f"To use it, set enabled = true in {settings.config_path}")
        return
    available = missions_admission.availability(settings, profile)
    whom = f" as user {profile.run_as}" if profile.run_as else ""
    runs = f"executor {profile.executor}{whom}, {profile.concurrency} at once"
    if available.ok and (available.reason or "").startswith(missions_admission.COMMANDS_ONLY):
        yield check(name, None, f"{runs}: commands of missions only", available.reason)
    elif available.ok and available.reason:
        yield check(name, True, f"{runs}; {available.reason}")
    elif available.ok:
        yield check(name, True, runs + (", and commands of missions" if profile.allow_commands else ""))
    else:
        yield check(name, False, f"{runs}: cannot run", f"{available.reason}")
    key = profile.options.get("api_key_env") if profile.executor == "model" else None
    if key is not None and not os.environ.get(str(key)):
        yield check(
            f"{name} key",
            None,
            f"{key} is not set here",
            "Consumers take it from the environment `vp up` was run in: set it there, then vp down, vp up --detach",
        )
    if _readable(settings):
        yield from _workers(name)
    missing = [str(root) for root in profile.allowed_target_roots if not root.is_dir()]
    if missing:
        yield check(
            f"{name} target roots",
            False,
            f"no such folder: {', '.join(missing)}",
            "Make it, or correct allowed_target_roots.",
        )


def _workers(vp_id: str) -> Iterator[Check]:
    """What is wrong with a VP's workers, if anything."""
    for worker in missions.vp(vp_id).workers:
        if worker.stale:
            silent = (clock.now() - worker.heartbeat_at).total_seconds()
            detail = f"pid {worker.pid} on {worker.host} has been silent for {max(0, silent):.0f} s"
            fix = (
                f"Its missions are taken over. If it is stopped (T in ps): kill -CONT {worker.pid}; if it hangs: "
                f"kill {worker.pid}"
            )
            yield check(f"{vp_id} worker", False, detail, fix)
        if worker.outdated:
            detail = f"pid {worker.pid} runs an older {' and '.join(worker.outdated)} than is installed"
            yield check(f"{vp_id} worker", None, detail, f"Run: vp restart {vp_id}")


# --- who is told --------------------------------------------------------------------------------


def _notified(settings: Settings) -> Iterator[Check]:
    """Whether everybody who is told of something can be, and is."""
    for notify in dict.fromkeys((settings.notify, *(profile.notify for profile in settings.vps.values()))):
        for sink in notify.sinks:
            yield _command(notify) if sink.kind == "command" else _webhook(notify, sink.label)
    if _readable(settings):
        missions.ready(settings)
        yield from map(_untold, notifications.summary())


def _command(notify: Notify) -> Check:
    program = notify.command[0]
    found = shutil.which(program, path=os.environ.get("PATH", "") if "PATH" in notify.env_allow else os.defpath)
    fix = "Correct command in [notify]: an absolute path, or a program on the PATH; and env_allow holds PATH"
    return check("notify command", found is not None, found or f"{program} cannot be run", fix)


def _webhook(notify: Notify, label: str) -> Check:
    from vp_queue.keeper import notify_webhook

    try:
        notify_webhook.signing_key(notify.secret_env, os.environ)
    except notify_webhook.UnfitKey as error:
        fix = "The keeper takes it from the environment `vp up` was run in: set it there, then vp down, vp up --detach"
        return check("notify webhook", None, f"{label}: {error}", fix)
    return check("notify webhook", True, f"{label}, signed with {notify.secret_env}")


def _untold(sink: Mapping[str, Any]) -> Check:
    whom = sink["label"] or sink["sink"]
    waits = f"{whom}: {sink['pending']} of {limits.DELIVERIES_PENDING} places taken, {sink['dead']} given up"
    if sink["dead"]:
        fix = "See why: vp notify list --dead; when it is put right: vp notify retry --all"
        return check("notified", None, waits, fix)
    fix = "It does not answer, or not fast enough; when all places are taken the oldest are given up: vp notify list"
    return check("notified", None if sink["pending"] and sink["failures"] else True, waits, fix)
