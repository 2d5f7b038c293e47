"""At 80 and at 200 columns, piped and on a terminal: nothing is wider, ids are whole, the width is used."""

from __future__ import annotations

import json
import re

import pytest
from rich.cells import cell_len

from tests.harness import GENERAL, Home, ended, ok, shell
from tests.unit.cli.driver import MISSION_ID, Cli, on_terminal
from vp_queue import tools
from vp_queue.cli import output, tables
from vp_queue.cli.tables import Column

WIDTHS = (80, 200)
LONG_VP = "vp.a-rather-long-name-for-a-department.research.and.development.primary"
OBJECTIVES = (
    "短い",
    "日本語の文章はここにあります。" * 20,
    "🚀 👩‍💻 👨‍👩‍👧 e\u0301 " * 40,
    "\x1b[31mred\x1b]0;title\x07 [bold]markup[/] \u202e" + "long " * 100,
    "x" * 100_000,
    "tab\there,\nnewline and a | pipe",
)
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LISTS = (["list"], ["list", "--limit", "3"], ["events", "--since", "0"], ["vps"], ["status"], ["doctor"], ["schema"])


@pytest.fixture
def full(home: Home) -> list[str]:
    """A ledger with all that is hard to print."""
    home.configure(more=f'[vp."{LONG_VP}"]\nexecutor = "command"\ntitle = "研究"\nallow_commands = true\n')
    made = []
    for number in range(30):
        answer = ok(
            tools.vp_dispatch_mission(
                vp_id=(GENERAL, LONG_VP)[number % 2], objective=OBJECTIVES[number % len(OBJECTIVES)]
            )
            if number % 2 == 0
            else tools.vp_dispatch_mission(
                vp_id=LONG_VP,
                objective=OBJECTIVES[number % len(OBJECTIVES)],
                mission_type="command",
                constraints={"command": ["true"]},
            )
        )
        made.append(answer["mission"]["mission_id"])
    ok(tools.vp_cancel_mission(mission_id=made[0], reason="理由 \x1b[2J" + "because " * 100))
    return made


def check(printed: str, columns: int) -> None:
    """No line is too wide for the terminal, none ends in blanks, and no id is cut."""
    for line in ESCAPE.sub("", printed).splitlines():
        assert cell_len(line) <= columns, line
        assert line == line.rstrip(), line
        for word in re.findall(r"(?<![/\w-])m-[0-9a-z-]+…?", line):
            assert MISSION_ID.fullmatch(word), line


@pytest.mark.parametrize("columns", WIDTHS)
def test_piped(cli: Cli, full: list[str], columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for args in (*LISTS, *(["get", mission_id] for mission_id in full[:6]), ["get", full[1], "--events", "100"]):
        code, out, _ = cli(*args)
        assert code == 0 or args == ["doctor"]
        check(out, columns)
    _, out, _ = cli("list")
    assert set(MISSION_ID.findall(out)) == set(full)


@pytest.mark.parametrize("columns", WIDTHS)
def test_on_a_terminal(full: list[str], columns: int) -> None:
    for args in (["list"], ["events", "--since", "0"], ["vps"]):
        code, printed = on_terminal(*args, columns=columns)
        assert code == 0
        check(printed, columns)
        if args == ["list"]:
            assert set(MISSION_ID.findall(printed)) == set(full)


def test_two_hundred_columns_are_used(cli: Cli, full: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = cli("list")
    assert LONG_VP in out
    assert max(cell_len(line) for line in out.splitlines()) > 195
    assert "took" in out
    _, out, _ = cli("vps")
    assert "研究" in out
    monkeypatch.setenv("COLUMNS", "80")
    assert "took" not in cli("list")[1]


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_mission_that_ended_badly_after_much_output(
    cli: Cli, home: Home, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    home.consumer()
    report = json.dumps({"failure": {"code": "crashed", "message": "失敗 \x1b[2J" + "because " * 200}})
    script = f"echo '{report}' >&3; printf 'line %s ' $(seq 300); printf '\\033[31m日本\\n'; exit 1"
    failed = shell(script)["mission_id"]
    ended(failed)
    made = shell("mkdir -p 'work_products/深い/b'; echo x > \"work_products/深い/b/$(printf 'n%.0s' $(seq 200))\"")
    ended(made["mission_id"])
    for args in (["get", failed], ["artifacts", made["mission_id"]], ["get", made["mission_id"]], ["wait", failed]):
        _, out, _ = cli(*args)
        check(out, columns)
        assert "\x1b" not in out
    assert "crashed: 失敗" in cli("get", failed)[1]
    _, out, _ = cli("artifacts", made["mission_id"])
    assert len(re.findall("n", out.split("深い")[1])) >= 200  # broken, but all there
    sha256 = ok(tools.vp_read_result_artifacts(mission_id=made["mission_id"]))["artifacts"][0]["sha256"]
    assert (sha256 if columns == 200 else sha256[:12]) in out


def test_the_id_is_whole_whatever_the_width(cli: Cli, full: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (60, 72, 100, 132):
        monkeypatch.setenv("COLUMNS", str(columns))
        _, out, _ = cli("list")
        check(out, columns)
        assert set(MISSION_ID.findall(out)) == set(full)


# --- the fitting itself -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "natural", "width", "widths"),
    [
        (["id", "text"], [24, 10], 80, [24, 10]),
        (["id", "text"], [24, 300], 80, [24, 54]),
        (["id", Column("vp", least=18), "text"], [24, 18, 300], 80, [24, 18, 34]),
        (["id", Column("vp", least=18), "text"], [24, 70, 300], 80, [24, 18, 34]),
        (["id", Column("vp", least=18), "text"], [24, 70, 300], 200, [24, 70, 102]),
        (["id", Column("vp", least=18), "text"], [24, 70, 20], 80, [24, 32, 20]),
        (["id", "vp", "text"], [24, 24, 300], 80, [24, 24, 28]),
        (["id", "text"], [90, 30], 80, [62, 16]),
        (["id", Column("vp", least=18), "status", "age", "text"], [24, 18, 9, 5, 300], 60, [24, 8, 9, 5, 6]),
    ],
)
def test_widths(columns: list[str | Column], natural: list[int], width: int, widths: list[int]) -> None:
    heads = [column if isinstance(column, Column) else Column(column) for column in columns]
    assert tables.fitted(heads, natural, width) == widths


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("short", 3, ["short"]),  # rich breaks what has no separator
        ("/srv/vp/home/vp_state.db", 12, ["/srv/vp/", "home/", "vp_state.db"]),
        ("vp.research.and.primary", 12, ["vp.research.", "and.primary"]),
        ("a path /srv/m-0mdq3v8k2f-7x0k3w9c2h1/x", 26, ["a path /srv/", "m-0mdq3v8k2f-7x0k3w9c2h1/x"]),
    ],
)
def test_long_words_are_broken_after_a_separator(text: str, width: int, lines: list[str]) -> None:
    assert tables.broken(text, width).split("\n") == lines


def test_a_feed_is_broken_only_where_a_terminal_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert "\n" not in output.headed("1 now mission.failed", "x" * 150)
    monkeypatch.setenv("COLUMNS", "80")
    assert output.headed("1 now mission.failed", "x" * 150) == "1 now mission.failed\n    " + "x" * 75 + "…"
    assert output.headed("1 now mission.failed", "") == "1 now mission.failed"
