"""The README is true: its session is run under a real supervisord, its tables and names are compared with the code.

A block is run if a comment stands before it: ``<!-- test: first-five-minutes -->``. In a console block, lines
after ``$ `` are run in one shell, in order; what they print must be the other lines and nothing else, where "…" stands
for anything. ``ID`` stands for the id of the mission dispatched last.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.harness import ended, ok
from vp_queue import config, errors, tools
from vp_queue.config_options import OPTIONS
from vp_queue.contracts import FINAL_FAILURES, REPORTABLE_FAILURES, EventType
from vp_queue.contracts.views import MissionView

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
COMMAND_SECONDS = 120.0
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("skills/**/*.md"),
    ]
)
FENCE = re.compile(r"^```([a-z]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MISSION_ID = re.compile(r"\bm-[0-9a-z]{10}-[0-9a-z]{11}\b")


@dataclass(frozen=True)
class Block:
    """One fenced block with its mark (``first-five-minutes``) and the mark's further words."""

    mark: str
    words: str
    language: str
    text: str


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[Block]:
    """The marked blocks of a document, in order."""
    pattern = r"<!-- test: ([a-z-]+)(?:, (.*?))? -->\n```([a-z]+)\n(.*?)^```$"
    found = re.findall(pattern, read(document), re.MULTILINE | re.DOTALL)
    return [Block(*each) for each in found]


def block(document: str, mark: str) -> Block:
    (found,) = [each for each in blocks(document) if each.mark == mark]
    return found


def table(document: str, mark: str) -> list[list[str]]:
    """The rows of the table after ``<!-- check: mark -->``, without its head."""
    after = read(document).partition(f"<!-- check: {mark} -->\n")[2]
    assert after, f"{document} has no table {mark}"
    lines = after.partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def ticked(text: str) -> list[str]:
    """What stands in back-ticks outside fenced blocks."""
    return re.findall(r"`([^`]+)`", FENCE.sub("", text))


class Shell:
    """One bash that runs commands one after the other, as a reader at a terminal does."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.mission_id = "(no mission was dispatched yet)"
        self._mark = secrets.token_hex(8)
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            env=environment,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> str:
        """Run a command; returns what it printed. Fails the test if it fails or takes too long."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        # Not from our stdin: a command that reads would swallow the next one.
        self._bash.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n%s %s\\n' {self._mark} $?\n")
        self._bash.stdin.flush()
        output = ""
        too_late = threading.Timer(COMMAND_SECONDS, self._bash.kill)
        too_late.start()
        try:
            for line in self._bash.stdout:
                if line.startswith(self._mark):
                    assert line.split()[1] == "0", f"$ {command}\n{output}\nexit status {line.split()[1]}"
                    return output
                output += line
        finally:
            too_late.cancel()
        pytest.fail(f"$ {command}\n{output}\nthe shell ended, or the command took more than {COMMAND_SECONDS} s")

    def close(self) -> None:
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.close()
        self._bash.wait(10)
        self._bash.stdout.close()


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A reader's shell in a fresh home; whatever it started is down at the end."""
    monkeypatch.setenv("VP_HOME", str(tmp_path / "vp-demo"))
    unset = {name: value for name, value in os.environ.items() if not name.startswith("VP_")}
    environment = {**unset, "HOME": str(tmp_path), "PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "120"}
    shell = Shell(environment, tmp_path)
    try:
        yield shell
    finally:
        shell.close()
        down = [str(BIN / "vp"), "down"]
        ended = subprocess.run(down, env={**environment, "VP_HOME": str(tmp_path / "vp-demo")}, timeout=COMMAND_SECONDS)
        assert ended.returncode == 0


def assert_shown(expected: list[str], output: str, command: str) -> None:
    """The output is these lines and no others; a line "…" stands for any lines, within a line "…" for any text."""
    left = [" ".join(line.split()) for line in output.splitlines() if line.strip()]
    gap = False
    for wanted in filter(str.strip, expected):
        if wanted == "…":
            gap = True
            continue
        pattern = re.compile(re.escape(" ".join(wanted.split())).replace("…", ".*"))
        found = next((place for place, line in enumerate(left) if pattern.fullmatch(line)), None)
        assert found is not None, f"$ {command}\nit is to show {wanted!r}, which does not come (there) in:\n{output}"
        assert gap or found == 0, f"$ {command}\nnobody expects {left[0]!r}, which comes before {wanted!r}"
        left, gap = left[found + 1 :], False
    assert gap or not left or not expected, f"$ {command}\nnobody expects {left[0]!r}, which comes last"


def play(shell: Shell, text: str) -> None:
    """Run a console block."""
    pairs: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            pairs.append((line[2:], []))
        else:
            pairs[-1][1].append(line)
    for command, expected in pairs:
        spoken = re.sub(r"\bID\b", shell.mission_id, command)
        output = shell.run(spoken)
        if found := MISSION_ID.search(output):
            shell.mission_id = found[0]
        assert_shown(expected, output, spoken)


def test_the_first_five_minutes(reader: Shell, tmp_path: Path) -> None:
    session = blocks("README.md")
    assert {each.language for each in session} == {"console", "toml", "python"}
    # The README stops everything before it turns to Python; here that comes last.
    for each in sorted(session, key=lambda each: each.words == "last"):
        if each.language == "toml":
            with (tmp_path / "vp-demo/vp_queue.toml").open("a") as file:
                # Not the port that a web face of this machine's owner may have.
                file.write(f"[web]\nport = 0\n{each.text}")
        elif each.language == "python":
            script = tmp_path / "example.py"
            script.write_text(each.text)
            output = reader.run(f"python {script}")
            told = re.findall(r"^print\(.*# (.*)$", each.text, re.MULTILINE)
            assert_shown([*told, "…"], output, "python")  # the poem's other lines
        else:
            play(reader, each.text)
    home = tmp_path / "vp-demo"
    poem = f"AGENT_RUN_WORKSPACES/vp_general_primary_external/{first_of(home)}/attempt-1/work_products/poem.md"
    assert (home / poem).read_text().startswith("Roses are red,\n")
    oracle.check(home / "vp_state.db", home / "AGENT_RUN_WORKSPACES")


def first_of(home: Path) -> str:
    """The id of the generalist's first mission."""
    assert os.environ["VP_HOME"] == str(home)
    missions = ok(tools.vp_list_missions(vp_id="vp.general.primary"))["missions"]
    assert {mission["status"] for mission in missions} == {"completed"}
    return str(missions[-1]["mission_id"])


def test_a_line_that_does_not_come_is_noticed() -> None:
    assert_shown(["a …", "…", "d"], "a b\nc\nd\n", "x")
    for wrong in (["e"], ["…", "d", "a b"], ["a"]):
        with pytest.raises(AssertionError, match="does not come"):
            assert_shown(wrong, "a b\nc\nd\n", "x")


def test_a_line_that_nobody_expects_is_noticed() -> None:
    for wrong in (["a b", "d"], ["c", "…"], ["a b", "c"], ["…", "c"]):
        with pytest.raises(AssertionError, match="nobody expects"):
            assert_shown(wrong, "a b\nc\nd\n", "x")


def test_the_programs_of_writing_a_vp(reader: Shell, tmp_path: Path) -> None:
    document = "docs/writing-a-vp.md"
    home = tmp_path / "vp-demo"
    reader.run("export VP_HOME=~/vp-demo; vp init")
    with (home / "vp_queue.toml").open("a") as file:
        file.write(block(document, "a-vp").text)
    reader.run("vp up --detach")
    in_python = f"exec {sys.executable} minutes.py\n"
    for files in (
        {"scribe.sh": block(document, "report-from-sh").text},
        {"scribe.sh": in_python, "minutes.py": block(document, "report-from-python").text},
    ):
        answer = tools.vp_dispatch_mission(
            vp_id="vp.scribe.primary",
            objective="Anna spoke, then Ben.",
            constraints={"files": files, "require_artifacts": ["minutes.md"]},
        )
        mission = ended(ok(answer)["mission"]["mission_id"])
        assert mission["status"] == "completed", mission["failure"]
        assert mission["result"] == "Minutes are in minutes.md."
        assert mission["progress"]["fraction"] == 0.5
        read = ok(tools.vp_read_result_artifacts(mission_id=mission["mission_id"]))
        assert "Anna spoke, then Ben." in read["artifacts"][0]["content"]
    assert mission["usage"]["cost_usd"] == 0.02
    oracle.check(home / "vp_state.db", home / "AGENT_RUN_WORKSPACES")


def test_the_executor_of_writing_an_executor(tmp_path: Path) -> None:
    # Its rules are those of the Protocol; a plugin that is really installed is tested with the registry.
    from vp_queue.executors.base import Brief, ExecutorFailure, ProgramExit

    names: dict[str, object] = {}
    exec(block("docs/writing-an-executor.md", "an-executor").text, names)
    haiku = names["Haiku"]()  # type: ignore[operator]
    assert haiku.availability({}).ok
    (tmp_path / "work_products").mkdir()
    paths = (tmp_path, tmp_path / "work_products", tmp_path / "MISSION.md")
    brief = Brief("m-0", "vp.x", 1, "task", "x", {}, {}, *paths, target_path=None, options={})

    class Control:
        def report(self, **_: object) -> None: ...

        def run_program(self, argv: list[str], environment: object = None) -> ProgramExit:
            return ProgramExit(subprocess.run(argv, cwd=tmp_path, check=False).returncode, None, None)

    assert haiku.run(brief, Control()) == "A haiku."
    Control.run_program = lambda *_: ProgramExit(1, None, None)  # type: ignore[assignment,method-assign]
    with pytest.raises(ExecutorFailure):
        haiku.run(brief, Control())


def test_the_callable_of_executors(tmp_path: Path) -> None:
    from vp_queue.executors.context import MissionContext, MissionFailed

    names: dict[str, Any] = {}
    exec(block("docs/executors.md", "a-callable").text, names)
    reports, writer = os.pipe()
    os.environ["VP_REPORT_FD"] = str(writer)
    try:
        common = {"guidance": None, "constraints": {}, "budget": {}, "metadata": {}, "target_path": None}
        where = {"workspace": tmp_path, "work_products": tmp_path}
        mission = MissionContext("m-0", "vp.x", 1, "to be or not", arguments={"language": "English"}, **common, **where)
        assert names["count"](mission) == "4 words, in English."
        with pytest.raises(MissionFailed, match="nothing to count"):
            names["count"](dataclasses.replace(mission, objective=" "))
    finally:
        del os.environ["VP_REPORT_FD"]
        os.close(writer)
        with open(reports) as lines:
            assert [json.loads(line)["progress"] for line in lines] == [0.25, 0.5, 0.75, 1.0]


def as_toml(value: object) -> str:
    """A default as the tables write it."""
    if value is None:
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else json.dumps(value)}`"


@pytest.mark.parametrize("executor", OPTIONS)
def test_the_tables_of_options_equal_the_code(executor: str) -> None:
    documented = {ticked(row[0])[0]: row[1] for row in table("docs/executors.md", f"options {executor}")}
    actual = {}
    for name, field in OPTIONS[executor].model_fields.items():
        default = field.get_default(call_default_factory=True)
        actual[name] = "needed" if field.is_required() else as_toml(default)
    assert documented == actual


def test_the_table_of_reportable_failures_equals_the_code() -> None:
    documented = {ticked(code)[0]: again for code, again in table("docs/executors.md", "reportable")}
    assert documented == {str(code): "no" if code in FINAL_FAILURES else "yes" for code in REPORTABLE_FAILURES}


def test_the_table_of_tools_equals_the_code() -> None:
    documented = [[ticked(cell) for cell in row] for row in table("README.md", "tools")]
    actual = [
        [[name], list(tool.arguments.model_fields), [field for field in tool.answer.model_fields if field != "ok"]]
        for name, tool in tools.DEFINITIONS.items()
    ]
    assert documented == actual


def subclasses(kind: type[errors.VpError]) -> Iterator[type[errors.VpError]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def error_classes() -> dict[str, type[errors.VpError]]:
    """The error codes of errors.py, each with the class that answers with it."""
    own = [kind for kind in subclasses(errors.VpError) if kind.__module__ == "vp_queue.errors"]
    return {kind.code: kind for kind in own if not kind.__subclasses__() or kind is errors.InternalError}


def test_the_table_of_errors_equals_the_code() -> None:
    documented = {
        code: (retryable == "yes", int(exit_code))
        for codes, retryable, exit_code in table("README.md", "errors")
        for code in ticked(codes)
    }
    assert documented == {code: (kind.retryable, kind.exit_code) for code, kind in error_classes().items()}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_codes_and_events_that_are_named_exist(document: str) -> None:
    text = read(document)
    named = {name for name in ticked(text) if re.fullmatch(r"mission\.[a-z_]+|vp\.[a-z_]+", name)}
    fields = {f"mission.{field}" for field in MissionView.model_fields}
    spans = set(re.findall(r'"(vp\.[a-z_]+)"', read("vp_queue/tracing.py")))  # and their attributes
    assert named - fields - spans - {"mission.json"} <= {str(event) for event in EventType}
    assert set(re.findall(r'"code": "([a-z_]+)"', text)) <= error_classes().keys()


def vp_help(*arguments: str) -> str:
    environment = {**os.environ, "COLUMNS": "200"}
    command = [str(BIN / "vp"), *arguments, "--help"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout


def spoken_commands(text: str) -> Iterator[tuple[str, str]]:
    """Each ``vp COMMAND …`` in code: the command, and the rest of its line."""
    fenced = [line for name, code in FENCE.findall(text) if name in ("console", "sh") for line in code.splitlines()]
    indented = re.findall(r"^    (?:\$ )?vp .*$", FENCE.sub("", text), re.MULTILINE)
    for code in (*fenced, *ticked(text), *indented):
        for found in re.finditer(r"(?:^|[\s;&(])vp ([a-z]+(?:-[a-z]+)*)\b([^;&|,]*)", code):
            yield found[1], found[2]


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """The help of each command that there is, with that of its own commands."""
    found = {}
    for command in commands_in(vp_help()):
        text = vp_help(command)
        found[command] = text + "".join(vp_help(command, each) for each in commands_in(text))
    return found


def commands_in(text: str) -> list[str]:
    """The commands that a group's help lists."""
    return re.findall(r"^  ([a-z-]+)  +\S", text.partition("\nCommands:\n")[2], re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_that_are_named_exist(document: str, helps: dict[str, str]) -> None:
    for command, rest in spoken_commands(read(document)):
        assert command in helps, f"{document} names `vp {command}`"
        for option in re.findall(r"(?<!\S)--[a-z-]+", rest.partition("'")[0]):
            assert re.search(rf"{option}\b", helps[command]), f"{document}: `vp {command}` has no {option}"


def test_the_readme_names_commands() -> None:
    named = {command for command, _ in spoken_commands(read("README.md"))}
    assert named >= {"init", "up", "dispatch", "down", "schema"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", read(document)):
        path, _, anchor = target.partition("#")
        linked = ((ROOT / document).parent / path).resolve() if path else ROOT / document
        assert linked.exists(), f"{document}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, f"{document}: {target}"


def test_every_line_of_doctor_is_explained(tmp_path: Path) -> None:
    environment = {**os.environ, "VP_HOME": str(tmp_path / "fresh")}
    subprocess.run([str(BIN / "vp"), "init"], env=environment, check=True, capture_output=True, timeout=60)
    done = subprocess.run([str(BIN / "vp"), "doctor", "--json"], env=environment, capture_output=True, timeout=60)
    lines = {check["name"] for check in json.loads(done.stdout)["checks"]}
    explained = {name for row in table("docs/operations.md", "doctor") for name in ticked(row[0])}
    of_vps = set(config.load(environment).vps)
    assert lines - of_vps <= explained
    assert of_vps <= lines
