"""Settings: who wins, what is refused and where it says so, and what `vp init` writes."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
import stat
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vp_queue import config, config_places
from vp_queue.config_home import TEMPLATE
from vp_queue.config_lines import DEPTH_LIMIT, HostileToml, KeyLines
from vp_queue.config_notify import Notify
from vp_queue.config_retention import Retention
from vp_queue.config_web import Web
from vp_queue.errors import ConfigurationError, UnknownVp

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away; run: sudo make test")


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    config._cache.clear()
    yield
    config._cache.clear()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def write(home: Path) -> Callable[[str], Path]:
    def to_file(text: str) -> Path:
        path = home / "vp_queue.toml"
        path.write_text(text)
        return path

    return to_file


def load(home: Path, **overrides: object) -> config.Settings:
    return config.load({"VP_HOME": str(home), "HOME": "/home/someone"}, **overrides)


def refusal(home: Path, **overrides: object) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load(home, **overrides)
    return caught.value


def in_a_new_process(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    root = Path(__file__).parents[2]
    told = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=60)
    return told.stdout.strip()


# --- defaults, precedence, places -----------------------------------------------------------------


def test_without_a_file_both_built_in_vps_are_there(home: Path) -> None:
    settings = load(home)
    assert not settings.config_exists
    assert settings.config_path == home / "vp_queue.toml"
    assert settings.database_path == home / "vp_state.db"
    assert settings.database_url == f"sqlite:///{home}/vp_state.db"
    assert settings.workspaces_root == home / "AGENT_RUN_WORKSPACES"
    assert (settings.run_dir, settings.logs_dir) == (home / "run", home / "logs")
    assert settings.token_path == home / "token"
    assert (settings.lease_seconds, settings.lost_host_grace_seconds, settings.artifacts_url) == (30, 300, None)
    assert {vp_id: (vp.title, vp.executor) for vp_id, vp in settings.vps.items()} == {
        "vp.general.primary": ("Generalist", "model"),
        "vp.coder.primary": ("CODIE", "command"),
    }


def test_arguments_beat_the_environment_which_beats_the_file_which_beats_defaults(
    home: Path, write: Callable[[str], Path]
) -> None:
    environ = {"VP_HOME": str(home)}
    assert config.load(environ).lease_seconds == 30
    write("lease_seconds = 40")
    assert config.load(environ).lease_seconds == 40
    environ["VP_LEASE_SECONDS"] = "50"
    assert config.load(environ).lease_seconds == 50
    assert config.load(environ, lease_seconds=60).lease_seconds == 60
    assert config.load(environ, lease_seconds=None).lease_seconds == 50
    environ["VP_LEASE_SECONDS"] = ""
    assert config.load(environ).lease_seconds == 40


def test_every_variable_is_heard(home: Path, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("lost_host_grace_seconds = 7")
    settings = config.load(
        {
            "VP_HOME": str(home),
            "VP_CONFIG": str(tmp_path / "other.toml"),
            "VP_DATABASE_URL": "sqlite:////var/lib/x.db",
            "VP_WORKSPACES_ROOT": "~/w",
            "VP_LEASE_SECONDS": "12.5",
            "VP_ARTIFACTS_URL": "s3://bucket/prefix",
            "HOME": "/home/someone",
        }
    )
    assert settings.config_exists
    assert settings.lost_host_grace_seconds == 7
    assert settings.database_path == Path("/var/lib/x.db")
    assert settings.workspaces_root == Path("/home/someone/w")
    assert (settings.lease_seconds, settings.artifacts_url) == (12.5, "s3://bucket/prefix")


def test_every_argument_is_heard(home: Path, tmp_path: Path) -> None:
    settings = config.load(
        {},
        home=home,
        config_path=tmp_path / "none.toml",
        database_url="sqlite:///sub/x.db",
        workspaces_root=tmp_path / "w",
        lease_seconds=1,
        lost_host_grace_seconds=2,
        artifacts_url="file:///a",
        imports=("my.handlers",),
    )
    assert (settings.home, settings.config_path) == (home, tmp_path / "none.toml")
    assert settings.database_path == home / "sub/x.db"
    assert settings.workspaces_root == tmp_path / "w"
    assert (settings.lease_seconds, settings.lost_host_grace_seconds) == (1, 2)
    assert (settings.artifacts_url, settings.imports) == ("file:///a", ("my.handlers",))


def test_relative_places_count_from_home_wherever_they_are_written(
    home: Path, write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write('workspaces_root = "w"')
    assert load(home).workspaces_root == home / "w"
    assert load(home, workspaces_root="x").workspaces_root == home / "x"
    assert config.load({"VP_HOME": "home"}).home == home


@pytest.mark.parametrize(
    ("environ", "platform", "expected"),
    [
        ({"HOME": "/home/a"}, "linux", "/home/a/.local/state/vp-queue"),
        ({"HOME": "/home/a", "XDG_STATE_HOME": "/state"}, "linux", "/state/vp-queue"),
        ({"HOME": "/home/a", "XDG_STATE_HOME": "state"}, "linux", "/home/a/.local/state/vp-queue"),
        ({"HOME": "/Users/a"}, "darwin", "/Users/a/Library/Application Support/vp-queue"),
    ],
)
def test_the_default_home_is_the_platforms_state_directory(
    environ: dict[str, str], platform: str, expected: str
) -> None:
    assert config_places.default_home(environ, platform) == expected


def test_a_home_with_a_tilde_is_expanded() -> None:
    assert config.load({"VP_HOME": "~/q", "HOME": "/nonexistent/a"}).home == Path("/nonexistent/a/q")


def test_only_the_given_environment_is_looked_at(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "VP_LEASE_SECONDS": "99",
        "VP_CONFIG": "/nonexistent",
        "VP_DATABASE_URL": "sqlite:////leak.db",
        "VP_WORKSPACES_ROOT": "/leak",
        "HOME": "/leak",
    }.items():
        monkeypatch.setenv(name, value)
    settings = config.load({"VP_HOME": str(home), "HOME": "/home/someone"}, workspaces_root="~/w")
    assert settings.lease_seconds == 30
    assert "leak" not in repr(settings)
    assert settings.workspaces_root == Path("/home/someone/w")


def test_settings_and_profiles_cannot_be_changed(home: Path) -> None:
    settings = load(home)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.lease_seconds = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings.vps["vp.x"] = None  # type: ignore[index]
    with pytest.raises(ValueError, match="frozen"):
        settings.vps["vp.coder.primary"].title = "x"  # type: ignore[misc]


# --- the cache ------------------------------------------------------------------------------------


def settle(path: Path, seconds_ago: float = 10) -> None:
    """Make a file look old, so that it may be cached."""
    os.utime(path, (time.time() - seconds_ago,) * 2)


def test_an_unchanged_file_is_read_once(home: Path, write: Callable[[str], Path]) -> None:
    settle(write("lease_seconds = 40"))
    assert load(home) is load(home)
    assert load(home, lease_seconds=5) is not load(home)


def test_a_changed_new_replaced_or_deleted_file_is_noticed(home: Path, write: Callable[[str], Path]) -> None:
    assert load(home).lease_seconds == 30
    path = write("lease_seconds = 40")
    settle(path)
    assert load(home).lease_seconds == 40
    write("lease_seconds = 41")
    settle(path, 5)
    assert load(home).lease_seconds == 41
    (home / "new").write_text("lease_seconds = 42")
    settle(home / "new", 5)
    (home / "new").rename(path)
    assert load(home).lease_seconds == 42
    path.unlink()
    assert load(home).lease_seconds == 30


def test_two_changes_within_one_tick_of_the_time_stamp_are_noticed(home: Path, write: Callable[[str], Path]) -> None:
    for seconds in range(10, 60):
        write(f"lease_seconds = {seconds}")
        assert load(home).lease_seconds == seconds


def test_an_error_is_not_remembered(home: Path, write: Callable[[str], Path]) -> None:
    write("lease_seconds = 0")
    refusal(home)
    write("lease_seconds = 1")
    assert load(home).lease_seconds == 1


def test_the_cache_stays_small(home: Path) -> None:
    for seconds in range(1, 200):
        load(home, lease_seconds=seconds)
    assert len(config._cache) <= config.CACHED


def test_many_threads_and_a_changing_file(home: Path, write: Callable[[str], Path]) -> None:
    path = write("lease_seconds = 40")

    def change_and_load(number: int) -> float:
        if number % 10 == 0:
            fresh = home / f"fresh{number}"
            fresh.write_text(f"lease_seconds = {40 + number % 3}")
            fresh.replace(path)
        return load(home).lease_seconds

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(change_and_load, range(400))) <= {40, 41, 42}


# --- VP tables ------------------------------------------------------------------------------------


def test_a_table_of_a_built_in_vp_changes_only_the_keys_it_names(home: Path, write: Callable[[str], Path]) -> None:
    write('[vp."vp.general.primary"]\nexecutor = "command"\n[vp."vp.general.primary".options]\nargv = ["a"]\n')
    settings = load(home)
    general = settings.profile("vp.general.primary")
    assert (general.title, general.description) == ("Generalist", "Research, writing, analysis.")
    assert (general.executor, general.options) == ("command", {"argv": ["a"]})
    assert settings.profile("vp.coder.primary").title == "CODIE"


def test_a_new_vp_needs_an_executor_and_nothing_else(home: Path, write: Callable[[str], Path]) -> None:
    write('[vp."vp.x"]\nexecutor = "command"\n')
    profile = load(home).profile("vp.x")
    assert (profile.title, profile.description, profile.concurrency) == ("vp.x", "", 1)
    assert profile.folder == "vp_x_external"


def test_target_roots_are_expanded_from_the_given_home(home: Path, write: Callable[[str], Path]) -> None:
    write('[vp."vp.coder.primary"]\nallowed_target_roots = ["~/src", "/srv"]\n')
    roots = load(home).profile("vp.coder.primary").allowed_target_roots
    assert roots == (Path("/home/someone/src"), Path("/srv"))


def test_the_cap_also_caps_the_default_timeout(home: Path, write: Callable[[str], Path]) -> None:
    write('[vp."vp.coder.primary"]\nmax_timeout_seconds = 60\n')
    assert load(home).profile("vp.coder.primary").default_timeout_seconds == 60


def test_the_digest_tells_profiles_apart_and_survives_a_restart(home: Path, write: Callable[[str], Path]) -> None:
    before = load(home).profile("vp.coder.primary").digest
    write('[vp."vp.coder.primary"]\nmax_timeout_seconds = 86400\n# nothing new\n')
    assert load(home).profile("vp.coder.primary").digest == before
    write('[vp."vp.coder.primary".options]\nargv = ["a"]\n')
    changed = load(home).profile("vp.coder.primary").digest
    assert changed != before
    code = (
        "import sys; from vp_queue import config\n"
        "print(config.load({'VP_HOME': sys.argv[1]}).profile('vp.coder.primary').digest)"
    )
    assert in_a_new_process(code, str(home)) == changed


def test_an_unknown_vp_is_answered_with_the_known_ones_and_a_near_one(home: Path) -> None:
    with pytest.raises(UnknownVp, match=r"did you mean vp\.coder\.primary.*known: vp\.general\.primary") as caught:
        load(home).profile("vp.codr.primary")
    assert caught.value.details["known"] == ["vp.general.primary", "vp.coder.primary"]
    with pytest.raises(UnknownVp) as caught:
        load(home).profile("x" * 100_000)
    assert len(caught.value.message) < 300


def test_a_plugins_executor_is_known_by_its_entry_point(
    home: Path, write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write('[vp."vp.x"]\nexecutor = "mine"\n')
    refusal(home)
    point = importlib.metadata.EntryPoint("mine", "my.module:Executor", "vp_queue.executors")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    assert load(home).profile("vp.x").executor == "mine"


def test_names_kept_for_later_executors_are_accepted(home: Path, write: Callable[[str], Path]) -> None:
    write("\n".join(f'[vp."vp.{name}"]\nexecutor = "{name}"' for name in config.EXECUTORS))
    assert len(load(home).vps) == len(config.EXECUTORS) + 2


# --- errors name file, key and line ---------------------------------------------------------------

CODER = '[vp."vp.coder.primary"]\n'
MISTAKES = [
    # text, key, line, words of the message
    ("lease_second = 3", "lease_second", 1, "did you mean lease_seconds"),
    ("\n[vps.x]\na = 1", "vps", 2, "did you mean vp?"),
    ("lease_seconds = 0", "lease_seconds", 1, "greater than or equal to 1"),
    ("lease_seconds = 3601", "lease_seconds", 1, "less than or equal"),
    ("# c\n\nlease_seconds = nan", "lease_seconds", 3, "finite"),
    ("lease_seconds = true", "lease_seconds", 1, "valid number"),
    ('lease_seconds = "30"', "lease_seconds", 1, "valid number, not '30'"),
    ("lost_host_grace_seconds = -1", "lost_host_grace_seconds", 1, "greater"),
    ("workspaces_root = 3", "workspaces_root", 1, "string"),
    ('workspaces_root = ""', "workspaces_root", 1, "path"),
    ('artifacts_url = "x"', "artifacts_url", 1, "URL"),
    ('imports = [\n "ok.module",\n "not a module"]', "imports[1]", 3, "dotted name"),
    ('database_url = "mysql://h/d"', "database_url", 1, "not supported"),
    ('database_url = "sqlite:///:memory:"', "database_url", 1, "no :memory:"),
    ('database_url = "sqlite:///"', "database_url", 1, "names no file"),
    ('database_url = "sqlite:///x.db?mode=ro"', "database_url", 1, "no parameters"),
    ('database_url = "x.db"', "database_url", 1, "no URL"),
    ("vp = 3", "vp", 1, "one table for each VP"),
    ("[[vp]]\na = 1", "vp", 1, "one table for each VP"),
    ('[vp]\n"vp.x" = 3', 'vp."vp.x"', 2, "give a table"),
    (CODER + "\n# c\nconcurency = 2", 'vp."vp.coder.primary".concurency', 4, "did you mean concurrency"),
    (CODER + "concurrency = true", 'vp."vp.coder.primary".concurrency', 2, "valid integer"),
    (CODER + "concurrency = 1.0", 'vp."vp.coder.primary".concurrency', 2, "valid integer"),
    (CODER + "concurrency = 0", 'vp."vp.coder.primary".concurrency', 2, "greater"),
    (CODER + "concurrency = 65", 'vp."vp.coder.primary".concurrency', 2, "less"),
    (CODER + "enabled = 1", 'vp."vp.coder.primary".enabled', 2, "boolean"),
    (CODER + "cancel_grace_seconds = 20.1", 'vp."vp.coder.primary".cancel_grace_seconds', 2, "less"),
    (CODER + "max_timeout_seconds = 0", 'vp."vp.coder.primary".max_timeout_seconds', 2, "greater"),
    (CODER + "stall_after_seconds = inf", 'vp."vp.coder.primary".stall_after_seconds', 2, "finite"),
    (CODER + "max_releases = -1", 'vp."vp.coder.primary".max_releases', 2, "greater"),
    (CODER + 'title = ""', 'vp."vp.coder.primary".title', 2, "at least 1"),
    (CODER + 'title = "a\\u001bb"', 'vp."vp.coder.primary".title', 2, "control characters"),
    (CODER + 'vp_id = "vp.x"', 'vp."vp.coder.primary".vp_id', 2, "table's name"),
    (CODER + 'env_allow = ["A",\n"B-C"]', 'vp."vp.coder.primary".env_allow[1]', 3, "name of an environment variable"),
    (CODER + 'env_allow = ["VP_TOKEN"]', 'vp."vp.coder.primary".env_allow[0]', 2, "never passed on"),
    (CODER + 'env_allow = ["A\\n"]', 'vp."vp.coder.primary".env_allow[0]', 2, "name of an environment variable"),
    (CODER + 'env_allow = "PATH"', 'vp."vp.coder.primary".env_allow', 2, "give a list"),
    (CODER + 'allowed_target_roots = ["src"]', 'vp."vp.coder.primary".allowed_target_roots[0]', 2, "absolute"),
    (CODER + 'allowed_target_roots = ["/a/../b"]', 'vp."vp.coder.primary".allowed_target_roots[0]', 2, '".."'),
    (CODER + "allowed_target_roots = [1]", 'vp."vp.coder.primary".allowed_target_roots[0]', 2, "give a path"),
    (CODER + "options = 3", 'vp."vp.coder.primary".options', 2, "dictionary"),
    (CODER + "options.a.b = [1,\n2024-01-01]", 'vp."vp.coder.primary".options.a.b[1]', 3, "write it as a string"),
    (CODER + "[vp.'vp.coder.primary'.options]\nx = nan", 'vp."vp.coder.primary".options.x', 3, "finite"),
    (CODER + 'executor = "comand"', 'vp."vp.coder.primary".executor', 2, "did you mean command?; known: command"),
    ('a.b = 1\n[vp."vp.x"]\ntitle = "X"', "a", 1, "unknown key"),
    ('# c\n[vp."vp.codr.primary"]\ntitle = "X"', 'vp."vp.codr.primary".executor', 2, "did you mean vp.coder.primary"),
    ('[vp."vp.x".options]\na = 1', 'vp."vp.x".executor', 1, "needs an executor"),
    ("\n[vp.coder.primary]\nenabled = false", "vp.coder", 2, "in quotes"),
]


@pytest.mark.parametrize(("text", "key", "line", "words"), MISTAKES)
def test_a_mistake_is_named_with_file_key_and_line(
    home: Path, write: Callable[[str], Path], text: str, key: str, line: int, words: str
) -> None:
    path = write(text)
    error = refusal(home)
    assert error.details == {"file": str(path), "key": key, "line": line}
    assert error.message.startswith(f"{path}:{line}: {key}: ")
    assert words in error.message
    assert (error.code, error.exit_code) == ("configuration_error", 2)


@pytest.mark.parametrize(
    "vp_id", ["vp.", "coder", "vp.A", "vp.a..b", "vp.a.", "vp.a b", "vp._a", "vp.a/b", "vp.ä", "vp." + "a" * 82]
)
def test_an_id_of_another_form_is_refused(home: Path, write: Callable[[str], Path], vp_id: str) -> None:
    write(f'lease_seconds = 3\n[vp."{vp_id}"]\nexecutor = "command"\n')
    error = refusal(home)
    assert error.details["line"] == 2
    assert "a VP id is" in error.message


def test_an_id_with_a_newline_is_refused(home: Path, write: Callable[[str], Path]) -> None:
    write('[vp."vp.a\\n"]\nexecutor = "command"\n')
    assert "a VP id is" in refusal(home).message


def test_two_vps_with_one_folder_are_refused(home: Path, write: Callable[[str], Path]) -> None:
    write('[vp."vp.a_b"]\nexecutor = "command"\n[vp."vp.a.b"]\nexecutor = "command"\n')
    error = refusal(home)
    assert (error.details["key"], error.details["line"]) == ('vp."vp.a.b"', 3)
    assert "vp.a_b has the same folder, vp_a_b_external" in error.message
    write('[vp."vp.coder_primary"]\nexecutor = "command"\n')
    assert "vp.coder.primary has the same folder" in refusal(home).message


@pytest.mark.parametrize(
    ("text", "line"),
    [("a = 1\nb = \n", 2), ("a = 1\na = 2", 2), ("[x]\n[x]", 2), ('\na = """x', 2), ("a = [1,\n2", 2), ("ä = 1", 1)],
)
def test_a_syntax_error_is_named_with_its_line(home: Path, write: Callable[[str], Path], text: str, line: int) -> None:
    path = write(text)
    error = refusal(home)
    assert error.details == {"file": str(path), "key": None, "line": line}


def test_windows_line_ends_count_once(home: Path) -> None:
    (home / "vp_queue.toml").write_bytes(b"# a\r\nlease_seconds = 40\r\nx = 1\r\n")
    assert refusal(home).details["line"] == 3


def test_a_password_in_a_database_url_is_not_repeated(home: Path, write: Callable[[str], Path]) -> None:
    write('database_url = "postgresql://me:hunter2@db/x"')
    error = refusal(home)
    assert "hunter2" not in str(error.as_dict())
    assert "PostgreSQL comes with the extra 'postgres'" in error.message
    settings = dataclasses.replace(load(home, config_path="/nonexistent"), database_url="postgresql://me:hunter2@db/x")
    with pytest.raises(ConfigurationError, match="PostgreSQL comes with") as caught:
        _ = settings.database_path
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("text", ["abc", "nan", "inf", "0", "3601", "-1", "1,5"])
def test_a_wrong_variable_is_named(home: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="VP_LEASE_SECONDS") as caught:
        config.load({"VP_HOME": str(home), "VP_LEASE_SECONDS": text})
    assert caught.value.details == {"variable": "VP_LEASE_SECONDS"}


@pytest.mark.parametrize(("name", "text"), [("VP_DATABASE_URL", "mysql://x"), ("VP_ARTIFACTS_URL", "x")])
def test_every_wrong_variable_is_named(home: Path, name: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config.load({"VP_HOME": str(home), name: text})
    assert caught.value.details == {"variable": name}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lease_second", 3),
        ("lease_seconds", "3"),
        ("lease_seconds", True),
        ("home", 3),
        ("home", "a\0b"),
        ("config_path", ""),
        ("workspaces_root", "a\0b"),
        ("imports", "a.b"),
    ],
)
def test_a_wrong_argument_is_named(home: Path, name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"^argument {name}: ") as caught:
        config.load({}, **{"home": home, name: value})
    assert caught.value.details == {"argument": name}


# --- hostile files --------------------------------------------------------------------------------


def test_a_file_over_one_mebibyte_is_refused(home: Path, write: Callable[[str], Path]) -> None:
    write("#" * (config.FILE_BYTES + 1))
    assert "larger than 1048576 bytes" in refusal(home).message
    write("#" * config.FILE_BYTES)
    assert load(home).lease_seconds == 30


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 200_000,
        "a = " + "{a = " * 200_000,
        "a = " + "[" * 40 + "]" * 40,
        "a" + ".a" * 200_000 + " = 1",
        "[a" + ".a" * 200_000 + "]",
        "a = " + "9" * 500_000,
    ],
)
def test_hostile_nesting_keys_and_numbers_are_refused_with_a_line_and_soon(
    home: Path, write: Callable[[str], Path], text: str
) -> None:
    write("\n" + text)
    began = time.monotonic()
    assert refusal(home).details["line"] == 2
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "text",
    [
        'a = """' + '"x' * 400_000,
        "a = '" + "x" * 900_000,
        '"' + "\\" * 900_000,
        "a = [" + "#\n" * 400_000,
        "[" * 900_000,
    ],
)
def test_text_that_never_ends_is_refused_soon(home: Path, write: Callable[[str], Path], text: str) -> None:
    write(text)
    began = time.monotonic()
    refusal(home)
    assert time.monotonic() - began < 10


def test_what_is_no_text_is_refused(home: Path) -> None:
    (home / "vp_queue.toml").write_bytes(b"# a\n# \xff\n")
    error = refusal(home)
    assert error.details["line"] == 2
    assert "UTF-8" in error.message
    (home / "vp_queue.toml").write_bytes(b"a = '\0'")
    assert refusal(home).details["line"] == 1


def test_what_is_no_file_is_refused_without_waiting(home: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        assert "not a regular file" in refusal(home, config_path=place).message
    assert "cannot read" in refusal(home, config_path="/" + "x" * 300).message
    (tmp_path / "file").touch()
    assert "cannot read" in refusal(tmp_path / "file").message


# --- the line scanner -----------------------------------------------------------------------------


def test_lines_are_found_through_all_that_toml_allows() -> None:
    lines = KeyLines(
        'a = 1 # [b]\nb . "c d" = """\nx = 1\n[y]\\"""\n"""\n'
        "'l' = '''\nz = 1'''\n"
        'e = [ # ]\n  "one", # two\n  { f = 2, g = [ 3,\n 4 ] },\n]\n'
        "d = 1979-05-27 07:32:00\n"
        '[ vp . "vp.\\u0078" ]\nk = true\n'
        "[[t]]\nu = 1\n[[t]]\nu = 2\n[t.v]\nw = 3\n"
    )
    expected: dict[tuple[str | int, ...], int | None] = {
        ("a",): 1,
        ("b",): 2,
        ("b", "c d"): 2,
        ("x",): None,
        ("l",): 6,
        ("e",): 8,
        ("e", 0): 9,
        ("e", 1, "f"): 10,
        ("e", 1, "g", 1): 11,
        ("e", 9): 8,
        ("d",): 13,
        ("vp", "vp.x"): 14,
        ("vp", "vp.x", "k"): 15,
        ("vp", "vp.x", "missing"): 14,
        ("t", 0, "u"): 17,
        ("t", 1, "u"): 19,
        ("t", 1, "v", "w"): 21,
    }
    assert {path: lines.line_of(path) for path in expected} == expected


def test_quotes_at_the_end_of_a_multi_line_string_belong_to_it() -> None:
    for quotes in ('"', "'"):
        for extra in range(3):
            text = f"a = {quotes * 3}\nx{quotes * (3 + extra)}\nb = 1"
            tomllib.loads(text)
            assert KeyLines(text).line_of(("b",)) == 3


def test_nesting_up_to_the_limit_is_fine() -> None:
    KeyLines("a = " + "[" * (DEPTH_LIMIT - 1) + "]" * (DEPTH_LIMIT - 1))
    with pytest.raises(HostileToml):
        KeyLines("a = " + "[" * (DEPTH_LIMIT + 1) + "]" * (DEPTH_LIMIT + 1))


# --- the folders ----------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_ensure_home_makes_private_folders_and_may_be_repeated(tmp_path: Path) -> None:
    settings = load(tmp_path / "a" / "b", workspaces_root=tmp_path / "w" / "x")
    before = os.umask(0)
    try:
        config.ensure_home(settings)
    finally:
        os.umask(before)
    config.ensure_home(settings)
    made = (settings.home, settings.home.parent, settings.run_dir, settings.logs_dir, settings.workspaces_root)
    assert [mode(path) for path in made] == [0o700] * 5


def test_a_folder_that_anyone_may_write_is_refused(home: Path) -> None:
    home.chmod(0o777)
    with pytest.raises(ConfigurationError, match="anyone may write to it; run: chmod 700"):
        config.ensure_home(load(home))
    home.chmod(0o755)
    config.ensure_home(load(home))
    assert mode(home) == 0o755
    (home / "AGENT_RUN_WORKSPACES").chmod(0o1777)
    with pytest.raises(ConfigurationError, match="AGENT_RUN_WORKSPACES"):
        config.ensure_home(load(home))


@ROOT_ONLY
def test_a_folder_of_someone_else_is_refused(home: Path) -> None:
    os.chown(home, 12345, -1)
    with pytest.raises(ConfigurationError, match="belongs to user 12345, and this process runs as user 0"):
        config.ensure_home(load(home))


def test_a_folder_that_cannot_be_made_or_is_none_is_refused(home: Path) -> None:
    (home / "run").touch()
    with pytest.raises(ConfigurationError, match="run: it is not a folder") as caught:
        config.ensure_home(load(home))
    assert caught.value.details == {"path": str(home / "run")}
    with pytest.raises(ConfigurationError, match="cannot be made"):
        config.ensure_home(load(Path("/proc/vp-queue")))
    (home / "run").unlink()
    (home / "run").symlink_to(home / "nowhere")
    with pytest.raises(ConfigurationError, match="cannot be made"):
        config.ensure_home(load(home))


@ROOT_ONLY
def test_a_folder_without_permission_is_refused() -> None:
    code = (
        "import os, sys\n"
        "from vp_queue import config, errors\n"
        "settings = config.load({}, home=sys.argv[1], config_path='/nonexistent/c')\n"
        "os.setuid(12345)\n"
        "try: config.ensure_home(settings)\n"
        "except errors.ConfigurationError as error: print(error.message)\n"
    )
    # Not tmp_path: only root may pass the folders above that. A child, because root cannot be taken back.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chown(folder, 12345, -1)
        os.chmod(folder, 0o500)
        assert "may not write to it; run: chmod 700" in in_a_new_process(code, folder)


# --- vp init --------------------------------------------------------------------------------------


def uncommented() -> str:
    return re.sub(r"(?m)^#(?=[^\s#])", "", TEMPLATE.read_text())


def test_the_default_configuration_is_written_once_and_privately(home: Path) -> None:
    settings = load(home)
    assert config.write_default_config(settings)
    assert mode(settings.config_path) == 0o600
    assert settings.config_path.read_bytes() == TEMPLATE.read_bytes()
    settings.config_path.write_text("lease_seconds = 7")
    assert not config.write_default_config(settings)
    assert load(home).lease_seconds == 7
    with pytest.raises(ConfigurationError, match="cannot write"):
        config.write_default_config(load(home, config_path=home / "none" / "c.toml"))


def test_a_link_in_the_files_place_is_not_written_through(home: Path, tmp_path: Path) -> None:
    (home / "vp_queue.toml").symlink_to(tmp_path / "elsewhere")
    assert not config.write_default_config(load(home))
    assert not (tmp_path / "elsewhere").exists()


def test_the_template_as_written_changes_nothing(home: Path) -> None:
    before = load(home)
    config.write_default_config(before)
    assert load(home) == dataclasses.replace(before, config_exists=True)


def test_the_template_uncommented_states_the_true_defaults(home: Path, write: Callable[[str], Path]) -> None:
    before = load(home)
    write(uncommented())
    after = load(home)
    for vp_id, profile in before.vps.items():
        # run_as has no default that could be shown; there stands an example.
        assert after.vps[vp_id].model_copy(update={"run_as": None}).digest == profile.digest
        assert after.vps[vp_id].retention == profile.retention
    # Nobody is told by default: there stand examples.
    nobody = {"command": (), "url": "", "secret_env": ""}
    assert after.notify.model_copy(update=nobody) == before.notify
    same = dataclasses.replace(
        after, vps=before.vps, artifacts_url=None, min_free_bytes=None, config_exists=False, notify=before.notify
    )
    assert same == before


def test_the_template_names_every_key() -> None:
    data = tomllib.loads(uncommented())
    assert set(data) == {*config._General.model_fields, "vp", "retention", "notify", "web"}
    assert set(data["retention"]) == set(Retention.model_fields)
    assert set(data["notify"]) == set(Notify.model_fields)
    assert set(data["web"]) == set(Web.model_fields)
    assert set(data["vp"]["vp.general.primary"]) == set(config.Profile.model_fields) - {"vp_id"}


def test_the_templates_examples_show_a_program_and_commands_in_folders(
    home: Path, write: Callable[[str], Path]
) -> None:
    write(uncommented())
    settings = load(home)
    scribe, builder = settings.profile("vp.scribe.primary"), settings.profile("vp.builder.primary")
    argv = scribe.options["argv"]
    assert isinstance(argv, list)
    assert {"{mission_file}", "{workspace}", "{work_products}", "{target_path}"} <= set(argv)
    assert builder.allow_commands
    assert builder.allowed_target_roots == (Path("/home/someone/projects"), Path("/srv/checkouts"))


# --- cost -----------------------------------------------------------------------------------------


def test_importing_settings_imports_no_database_queue_or_metadata_scan() -> None:
    code = "import sys, vp_queue.config; print(*sys.modules)"
    loaded = set(in_a_new_process(code).split())
    assert not loaded & {"peewee", "huey", "cysqlite", "sqlite3", "rich", "click", "asyncio"}


@pytest.mark.parametrize(
    ("options", "line", "told"),
    [
        ('argv = ["a"]\nbogus = 2', 5, "argv only"),
        ("argv = []", 4, "list of strings"),
        ('argv = "ls"', 4, "list of strings"),
        ('argv = ["a", 1]', 4, "list of strings"),
        ('argv = ["a", "--in={workspace}"]', 4, "whole element"),
    ],
)
def test_options_of_the_command_executor_are_judged_at_load(home: Path, options: str, line: int, told: str) -> None:
    (home / "vp_queue.toml").write_text(
        f'[vp."vp.mine"]\nexecutor = "command"\n[vp."vp.mine".options]\n{options}\n', encoding="utf-8"
    )
    with pytest.raises(ConfigurationError) as caught:
        config.load({"VP_HOME": str(home)})
    assert told in caught.value.message
    assert caught.value.details["line"] == line
