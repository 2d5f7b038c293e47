"""What a user installs: one top-level package, every module once, every file that is read at run time.

The wheel is built twice, from the checkout and from the sdist (where links may have become files), and both
must hold the same.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.harness import GENERAL, Home, command, ended, ok
from vp_queue import tools

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"vp_queue": "vp_queue", "tasks": "vp_queue/tasks", "cli": "vp_queue/cli", "skills": "vp_queue/skills"}
LEFT_BEHIND = shutil.ignore_patterns(
    ".git",
    ".venv",
    "build",
    "dist",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "*.egg-info",
    "vp_state.db*",
    "node_modules",
)


def expected_files(root: Path) -> set[str]:
    """Every file of the package in a checkout, by the path it must have in the wheel."""
    found = set()
    for folder, target in FOLDERS.items():
        for path in (root / folder).rglob("*"):
            # rglob does not descend into linked folders, so tasks, cli and skills count once.
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                found.add(f"{target}/{path.relative_to(root / folder).as_posix()}")
    return found


def build(source: Path, target: Path, kind: str) -> Path:
    """Build one distribution with the pinned back end, without the network."""
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with its links, so that building leaves nothing in the tree others work in."""
    target = tmp_path_factory.mktemp("source") / "checkout"
    return Path(shutil.copytree(ROOT, target, symlinks=True, ignore=LEFT_BEHIND))


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module", params=["checkout", "sdist"])
def wheel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "checkout":
        return build(request.getfixturevalue("checkout"), tmp_path_factory.mktemp("wheel"), "wheel")
    unpacked = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(request.getfixturevalue("sdist"), unpacked)
    (source,) = unpacked.iterdir()
    return build(source, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def contents(wheel: Path) -> list[zipfile.ZipInfo]:
    with zipfile.ZipFile(wheel) as archive:
        return [info for info in archive.infolist() if not info.is_dir()]


def test_the_wheel_has_one_top_level_package(contents: list[zipfile.ZipInfo]) -> None:
    tops = {info.filename.split("/")[0] for info in contents}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"vp_queue"}


def test_the_wheel_holds_every_file_once_and_no_other(contents: list[zipfile.ZipInfo], checkout: Path) -> None:
    names = [info.filename for info in contents if info.filename.startswith("vp_queue/")]
    assert len(names) == len(set(names))
    expected = expected_files(checkout)
    missing, extra = expected - set(names), set(names) - expected
    assert not missing, f"add a package or a package-data pattern to pyproject.toml for: {sorted(missing)}"
    assert not extra


def test_the_wheel_holds_what_is_read_at_run_time(contents: list[zipfile.ZipInfo]) -> None:
    names = {info.filename for info in contents}
    assert {"vp_queue/py.typed", "vp_queue/supervisord.conf"} <= names
    assert any(name.startswith("vp_queue/ledger/migrations/0001") for name in names)


def test_the_wheel_holds_regular_files(contents: list[zipfile.ZipInfo], wheel: Path, checkout: Path) -> None:
    kinds = {info.filename: (info.external_attr >> 16) & 0o170000 for info in contents}
    assert set(kinds.values()) <= {0, 0o100000}
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("vp_queue/supervisord.conf") == (checkout / "supervisord.conf").read_bytes()


def test_the_wheel_says_who_it_is(wheel: Path) -> None:
    from vp_queue import __version__

    with zipfile.ZipFile(wheel) as archive:
        folder = f"vp_queue-{__version__}.dist-info"
        metadata = archive.read(f"{folder}/METADATA").decode()
        entry_points = archive.read(f"{folder}/entry_points.txt").decode()
        assert f"{folder}/licenses/LICENSE" in archive.namelist()
    head = metadata.split("\n\n")[0].splitlines()
    for line in (
        "Name: vp-queue",
        f"Version: {__version__}",
        "License-Expression: Apache-2.0",
        "Requires-Python: >=3.11",
    ):
        assert line in head
    assert "vp = vp_queue.cli.main:main" in entry_points
    assert "command = vp_queue.executors.command:CommandExecutor" in entry_points


def test_the_package_list_is_complete() -> None:
    # A package that is missing here would be missing from the wheel without a word.
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    standing = {str(Path(name).parent).replace("/", ".") for name in expected_files(ROOT) if name.endswith(".py")}
    assert listed == sorted(set(listed))
    assert standing <= set(listed), f"not in pyproject.toml: {sorted(standing - set(listed))}"
    for package in listed:
        assert (ROOT / package.replace(".", "/") / "__init__.py").is_file(), (
            f"{package} is listed and has no __init__.py"
        )


@pytest.mark.parametrize("name", ["dev", "hosts"])
def test_the_pinned_requirements_name_no_place(name: str) -> None:
    # A pinned file with an index or a folder of its own installs on one machine only.
    text = (ROOT / f"requirements/{name}.txt").read_text()
    assert not [line for line in text.splitlines() if line.lstrip().startswith("-") and "--hash=" not in line]
    assert "://" not in text
    assert "--hash=sha256:" in text


def test_the_wheel_installs_the_skill_of_the_checkout(wheel: Path, tmp_path: Path, checkout: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    project = tmp_path / "project"
    project.mkdir()
    run = "import vp_queue.cli.main as main; print(main.__file__); main.main()"
    done = subprocess.run(
        [sys.executable, "-c", run, "skill", "install", "--project", str(project)],
        env={"PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[0]).is_relative_to(tmp_path)
    expected = (checkout / "skills/vp-orchestration/SKILL.md").read_bytes()
    for place in (".claude", ".agents"):
        assert (project / place / "skills/vp-orchestration/SKILL.md").read_bytes() == expected


def test_both_pinned_requirements_fit_in_one_environment() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^([a-z0-9-]+)==", (ROOT / f"requirements/{name}.txt").read_text(), re.MULTILINE))

    def lines(name: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9-]+==\S+", (ROOT / f"requirements/{name}.txt").read_text(), re.MULTILINE))

    shared = pins("dev") & pins("hosts")
    assert "mcp" in shared
    assert len({line for line in lines("dev") | lines("hosts") if line.partition("==")[0] in shared}) == len(shared)


def test_the_pinned_agent_hosts_name_no_place() -> None:
    packages = json.loads((ROOT / "tests/hosts/package-lock.json").read_text())["packages"]
    assert not [name for name, package in packages.items() if "resolved" in package]
    assert not [name for name, package in packages.items() if name and "integrity" not in package]


def test_dispatched_from_a_checkout_and_consumed_by_a_wheel(wheel: Path, tmp_path: Path, home: Home) -> None:
    """And from a folder that is neither: no module of the checkout may help."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # The wheel's dependencies; behind the wheel itself, and without the checkout's own .pth.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {**home.environment, "VP_ID": GENERAL}
    where = subprocess.check_output(
        [python, "-c", "import vp_queue.tasks.app as app; print(app.__file__)"],
        env=environment,
        cwd=tmp_path,
        text=True,
    )
    assert Path(where.strip()).is_relative_to(tmp_path)
    mission_id = command("sh", "-c", "echo from a wheel > $VP_WORK_PRODUCTS/out")["mission_id"]
    consumer = subprocess.Popen(
        [python, "-m", "huey.bin.huey_consumer", "vp_queue.tasks.app.huey"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert ended(mission_id)["status"] == "completed"
    finally:
        consumer.terminate()
        consumer.wait(30)
    (artifact,) = ok(tools.vp_read_result_artifacts(mission_id=mission_id))["artifacts"]
    assert artifact["content"] == "from a wheel\n"
