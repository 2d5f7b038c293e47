"""Settings: arguments > environment (``VP_*``) > ``vp_queue.toml`` > defaults; and the VP roster.

``load`` is cheap enough for every tool call: what it read stays valid until an argument, a variable
or the file changes. The file goes through ``config_lines`` (where does each key stand, is the text
within limits), ``tomllib``, one pydantic model for the top-level keys and one profile for each VP
(``config_profile``). The same model judges variables and arguments, so a value is right or wrong
wherever it comes from; only the blame differs: a line, a variable's name, an argument's name.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from vp_queue import clock
from vp_queue.config_blame import Blame, dotted, judged, shown, suggestion
from vp_queue.config_home import ensure_home, write_default_config
from vp_queue.config_lines import HostileToml, KeyLines, KeyPath
from vp_queue.config_notify import NOTIFY, SILENT, Notify, notify_of
from vp_queue.config_places import default_home, sqlite_path
from vp_queue.config_profile import BUILT_IN, VP_ID_FORM, Profile, expand_user, is_vp_id
from vp_queue.config_retention import DEFAULT, KEY, Retention, retention_of
from vp_queue.config_web import SERVED, WEB, Web, web_of
from vp_queue.errors import ConfigurationError, UnknownVp

__all__ = ["Profile", "Settings", "ensure_home", "load", "write_default_config"]

FILE_BYTES: Final = 1024 * 1024
CACHED: Final = 32
# A file changed twice within one tick of its time stamp looks unchanged: what is younger than this
# is read again each time (source of the idea: git's "racily clean" index entries).
RACY_MICROSECONDS: Final = 100_000
# Names that come with vp-queue, some in later versions; any other must be a plugin's entry point.
EXECUTORS: Final = ("command", "model", "python", "acp", "claude", "codex", "gemini", "opencode", "qwen")

_VARIABLES: Final = {
    "VP_DATABASE_URL": "database_url",
    "VP_WORKSPACES_ROOT": "workspaces_root",
    "VP_LEASE_SECONDS": "lease_seconds",
    "VP_ARTIFACTS_URL": "artifacts_url",
}


def _path_text(value: object) -> object:
    return os.fspath(value) if isinstance(value, Path) else value


def _check_path(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("give a path, without NUL")
    return value


def _check_database_url(value: str) -> str:
    sqlite_path(value, Path("/"))
    return value


def _check_artifacts_url(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://\S+", value):
        raise ValueError("give a URL such as file:///srv/artifacts")
    return value


def _check_module(value: str) -> str:
    if not all(part.isidentifier() for part in value.split(".")):
        raise ValueError("give a module's dotted name")
    return value


class _General(BaseModel):
    """The keys outside the VP tables, with their defaults and limits."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    database_url: Annotated[str, AfterValidator(_check_database_url)] = "sqlite:///vp_state.db"
    workspaces_root: Annotated[str, BeforeValidator(_path_text), AfterValidator(_check_path)] = "AGENT_RUN_WORKSPACES"
    lease_seconds: float = Field(default=30.0, ge=1, le=3_600)
    lost_host_grace_seconds: float = Field(default=300.0, ge=0, le=7 * 86_400)
    artifacts_url: Annotated[str, AfterValidator(_check_artifacts_url)] | None = None
    min_free_bytes: int | None = Field(default=None, ge=0, le=2**60)
    imports: list[Annotated[str, AfterValidator(_check_module)]] = Field(default_factory=list)


@dataclass(frozen=True)
class Settings:
    """Everything that is configured, resolved: paths are absolute, every VP has a whole profile.

    Attributes:
        home: VP_HOME; holds the ledger, the configuration, the token, ``run/`` and ``logs/``.
        config_path: where the file is or would be.
        config_exists: whether it is there.
        database_url: the ledger; ``sqlite:///`` only, in this version.
        workspaces_root: where missions work.
        lease_seconds: how long a worker's claim lives without a heartbeat.
        lost_host_grace_seconds: how long a silent host is waited for before its missions are queued again.
        artifacts_url: where artifacts are kept if not beside the workspaces.
        vps: the roster by vp_id.
        imports: modules that a consumer imports, for their ``@huey.signal`` handlers.
        min_free_bytes: dispatches are refused below it; 0 = never, None = by the size of the disk.
        retention: what is kept of missions whose VP has no profile any more, and of what belongs to no VP.
        notify: who is told of what happens to VPs that have no profile any more.
        web: where the web face is served.
    """

    home: Path
    config_path: Path
    config_exists: bool
    database_url: str
    workspaces_root: Path
    lease_seconds: float
    lost_host_grace_seconds: float
    artifacts_url: str | None
    vps: Mapping[str, Profile]
    imports: tuple[str, ...] = ()
    min_free_bytes: int | None = None
    retention: Retention = DEFAULT
    notify: Notify = SILENT
    web: Web = SERVED

    @functools.cached_property
    def database_path(self) -> Path:
        """The ledger's file.

        Raises:
            ConfigurationError: ``database_url`` is not one of SQLite's.
        """
        try:
            return sqlite_path(self.database_url, self.home)
        except ValueError as error:
            raise ConfigurationError(f"database_url: {error}", key="database_url") from None

    @functools.cached_property
    def disk_folders(self) -> tuple[str, ...]:
        """Where things are written: VP_HOME, the ledger's folder, the workspaces root; each once."""
        folders = (self.home, self.database_path.parent, self.workspaces_root)
        return tuple(dict.fromkeys(map(os.fspath, folders)))

    @property
    def run_dir(self) -> Path:
        """Sockets, locks and pids of running processes."""
        return self.home / "run"

    @property
    def logs_dir(self) -> Path:
        """The processes' logs."""
        return self.home / "logs"

    @property
    def token_path(self) -> Path:
        """The web face's bearer token."""
        return self.home / "token"

    def profile(self, vp_id: str) -> Profile:
        """The profile of one VP.

        Raises:
            UnknownVp: there is none; the message names those there are.
        """
        if vp_id in self.vps:
            return self.vps[vp_id]
        known = ", ".join(self.vps)
        raise UnknownVp(
            f"no VP has the id {shown(vp_id)}{suggestion(vp_id, self.vps)}; known: {known}",
            field="vp_id",
            known=list(self.vps),
        )


def load(environ: Mapping[str, str] = os.environ, **overrides: object) -> Settings:
    """The settings in force now.

    A relative VP_HOME or VP_CONFIG counts from the working directory; a relative workspaces root or
    database from VP_HOME, wherever it was written, so that processes started elsewhere agree. An
    empty variable counts as unset.

    Args:
        environ: the only environment that is looked at.
        overrides: ``home``, ``config_path``, ``database_url``, ``workspaces_root``, ``lease_seconds``,
            ``lost_host_grace_seconds``, ``artifacts_url``, ``imports``; None means not given.

    Raises:
        ConfigurationError: names the file, key and line, or the variable, or the argument at fault.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    # By repr: an argument may be a list, and 30 is not "30".
    arguments = repr(sorted(given.items())) if given else ""
    home, path = _places(given, environ)
    stamp = _stamp(path)
    variables = {name: value for name in _VARIABLES if (value := environ.get(name))}
    key = (home, path, stamp, environ.get("HOME"), *variables.items(), arguments)
    # No lock, because one held while another thread forks stays held in the child; single dict
    # operations are atomic, and two threads that both read the file get equal settings.
    settings = _cache.get(key)
    if settings is None:
        settings = _read(Path(home), Path(path), stamp is not None, environ, variables, given)
        if stamp is None or clock.to_micros(clock.now()) - stamp[0] // 1_000 > RACY_MICROSECONDS:
            if len(_cache) >= CACHED:
                _cache.clear()
            _cache[key] = settings
    return settings


_cache: dict[tuple[object, ...], Settings] = {}


def _read(
    home: Path,
    path: Path,
    exists: bool,
    environ: Mapping[str, str],
    variables: Mapping[str, str],
    given: Mapping[str, object],
) -> Settings:
    values, tables, blame = _parse(path) if exists else ({}, {}, _blame_argument)
    sources = (
        judged(_General, values, blame),
        judged(_General, _from_variables(variables), _blame_variable),
        judged(_General, _listed(given), _blame_argument),
    )
    retention = retention_of(tables.get(KEY, {}), DEFAULT, blame, (KEY,))
    notify = notify_of(tables.get(NOTIFY, {}), SILENT, blame, (NOTIFY,))
    web = web_of(tables.get(WEB, {}), blame, (WEB,))
    vps = _roster(tables.get("vp", {}), retention, notify, blame, environ)
    merged: dict[str, object] = {}
    for source in sources:
        merged |= source.model_dump(exclude_unset=True)
    general = _General.model_validate(merged)
    try:
        root = home / expand_user(general.workspaces_root, environ)
    except ValueError as error:
        raise ConfigurationError(f"workspaces_root: {error}", key="workspaces_root") from None
    return Settings(
        home=home,
        config_path=path,
        config_exists=exists,
        database_url=f"sqlite:///{sqlite_path(general.database_url, home)}",
        workspaces_root=Path(os.path.normpath(root)),
        lease_seconds=general.lease_seconds,
        lost_host_grace_seconds=general.lost_host_grace_seconds,
        artifacts_url=general.artifacts_url,
        vps=MappingProxyType(vps),
        imports=tuple(general.imports),
        min_free_bytes=general.min_free_bytes,
        retention=retention,
        notify=notify,
        web=web,
    )


def _listed(given: Mapping[str, object]) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def _from_variables(variables: Mapping[str, str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, text in variables.items():
        values[_VARIABLES[name]] = text
        if name == "VP_LEASE_SECONDS":
            try:
                values["lease_seconds"] = float(text)
            except ValueError:
                raise _blame_variable(("lease_seconds",), f"give a number of seconds, not {shown(text)}") from None
    return values


# --- where things are ---------------------------------------------------------------------------


def _places(given: dict[str, object], environ: Mapping[str, str]) -> tuple[str, str]:
    """VP_HOME and the file, absolute; takes them out of the arguments given.

    As texts: to make and compare two paths is half of what a call of :func:`load` costs.
    """
    home = given.pop("home", None)
    home = _location(home, "home", environ, "VP_HOME") or default_home(environ, sys.platform)
    path = _location(given.pop("config_path", None), "config_path", environ, "VP_CONFIG")
    return home, path or os.path.join(home, "vp_queue.toml")


def _location(argument: object, name: str, environ: Mapping[str, str], variable: str) -> str | None:
    value = argument if argument is not None else environ.get(variable)
    if argument is None and not value:
        return None
    try:
        if not isinstance(value, str | Path):
            raise ValueError(f"give a path, not {shown(value)}")
        return os.path.abspath(expand_user(_check_path(os.fspath(value)), environ))
    except ValueError as error:
        if argument is not None:
            raise _blame_argument((name,), str(error)) from None
        raise ConfigurationError(f"environment variable {variable}: {error}", variable=variable) from None


# --- the file -----------------------------------------------------------------------------------


def _stamp(path: str) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(found.st_mode):
        raise ConfigurationError(f"{path} is not a regular file", file=path)
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns


def _unreadable(path: Path | str, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"cannot read {path}: {error.strerror}; correct its path or its mode", file=str(path))


def _parse(path: Path) -> tuple[dict[str, object], dict[str, object], Blame]:
    """The top-level values, the other tables by name, and who is to blame for a key path."""
    text = _text_of(path)
    try:
        lines = KeyLines(text)
        data: dict[str, object] = tomllib.loads(text)
    except HostileToml as error:
        raise _at_line(path, error.line, str(error)) from None
    except ValueError as error:
        found = re.search(r"at line (\d+)", str(error))
        raise _at_line(path, int(found[1]) if found else text.count("\n") + 1, str(error)) from None

    def blame(key_path: KeyPath, problem: str) -> ConfigurationError:
        line, key = lines.line_of(key_path), dotted(key_path)
        return ConfigurationError(f"{path}:{line}: {key}: {problem}", file=str(path), key=key, line=line)

    return data, {name: data.pop(name) for name in ("vp", KEY, NOTIFY, WEB) if name in data}, blame


def _at_line(path: Path, line: int, problem: str) -> ConfigurationError:
    return ConfigurationError(f"{path}:{line}: {problem}", file=str(path), key=None, line=line)


def _text_of(path: Path) -> str:
    try:
        # Without O_NONBLOCK a pipe put in the file's place after the stat would block for ever.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            raw = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(raw) > FILE_BYTES:
        raise ConfigurationError(f"{path} is larger than {FILE_BYTES} bytes; is it the right file?", file=str(path))
    try:
        return raw.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise _at_line(path, raw.count(b"\n", 0, error.start) + 1, "the text is not UTF-8") from None


def _roster(
    tables: object, retention: Retention, notify: Notify, blame: Blame, environ: Mapping[str, str]
) -> dict[str, Profile]:
    if not isinstance(tables, dict):
        raise blame(("vp",), 'give one table for each VP: [vp."vp.name"]')
    vps: dict[str, Profile] = {}
    folders: dict[str, str] = {}
    for vp_id, table in {**{built_in: {} for built_in in BUILT_IN}, **tables}.items():
        profile = _profile(vp_id, table, retention, notify, blame, environ)
        other = folders.setdefault(profile.folder, vp_id)
        if other != vp_id:
            raise blame(("vp", vp_id), f"{other} has the same folder, {profile.folder}; rename one of the two")
        vps[vp_id] = profile
    return vps


def _profile(
    vp_id: str, table: object, retention: Retention, notify: Notify, blame: Blame, environ: Mapping[str, str]
) -> Profile:
    at: KeyPath = ("vp", vp_id)
    if not is_vp_id(vp_id):
        close = suggestion(vp_id, BUILT_IN)
        raise blame(at, f'{VP_ID_FORM}; it stands in quotes: [vp."vp.name"]{close}')
    if not isinstance(table, dict):
        raise blame(at, f"give a table, not {shown(table)}")
    if vp_id not in BUILT_IN and "executor" not in table:
        raise blame((*at, "executor"), f"a VP of your own needs an executor{suggestion(vp_id, BUILT_IN)}")
    if "vp_id" in table:
        raise blame((*at, "vp_id"), "unknown key; the id stands in the table's name")
    own = {
        KEY: retention_of(table.get(KEY, {}), retention, blame, (*at, KEY)),
        NOTIFY: notify_of(table.get(NOTIFY, {}), notify, blame, (*at, NOTIFY)),
    }
    values = {"title": vp_id, "description": "", **BUILT_IN.get(vp_id, {}), **table, **own, "vp_id": vp_id}
    profile = judged(Profile, values, blame, at, environ)
    if profile.executor not in EXECUTORS:
        plugins = _plugins()
        if profile.executor not in plugins:
            known = (*EXECUTORS, *plugins)
            close = suggestion(profile.executor, known)
            problem = f"no executor is called {shown(profile.executor)}{close}; known: {', '.join(known)}"
            raise blame((*at, "executor"), problem)
    return profile


def _plugins() -> list[str]:
    from importlib.metadata import entry_points

    return sorted({point.name for point in entry_points(group="vp_queue.executors")} - set(EXECUTORS))


def _blame_variable(path: KeyPath, problem: str) -> ConfigurationError:
    name = next(variable for variable, key in _VARIABLES.items() if key == path[0])
    return ConfigurationError(f"environment variable {name}: {problem}", variable=name)


def _blame_argument(path: KeyPath, problem: str) -> ConfigurationError:
    return ConfigurationError(f"argument {dotted(path)}: {problem}", argument=dotted(path))
