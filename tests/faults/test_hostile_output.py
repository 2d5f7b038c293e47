"""Programs that print or report without end, or report nonsense: bounded memory and disk, and the mission goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import oracle
from tests.harness import Home, command, ended, events, ok, shell, until
from vp_queue import tools
from vp_queue.contracts import limits
from vp_queue.ledger.models import Attempt

MIB = 1024 * 1024
HIGH_WATER_BYTES = 150 * MIB
LOG_BYTES = limits.LOG_HEAD_BYTES + limits.LOG_TAIL_KEPT_BYTES
SECONDS = 600.0
# After the flood it waits, so that its launcher can be looked at while there still is one.
FLOODS = {
    "lines": "echo first; yes 'all work and no play' | head -c {bytes}; echo last; touch flooded; cat held",
    "one line": "echo first; tr '\\0' x < /dev/zero | head -c {bytes}; echo last; touch flooded; cat held",
}
SIZES = [300 * MIB, pytest.param(3 * 1024 * MIB, marks=pytest.mark.slow)]


def high_water_bytes(pid: int) -> int:
    """The largest resident memory a process ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def flooded(home: Home, script: str) -> tuple[str, int]:
    """Run a flood to its end; the mission, and the largest memory of its launcher."""
    mission_id = shell(f"mkfifo held; {script}")["mission_id"]
    workspace = home.workspace(mission_id)
    until(lambda: (workspace / "flooded").exists(), "all was printed", SECONDS)
    used = high_water_bytes(Attempt.get(Attempt.mission == mission_id).executor["launcher_pid"])
    (workspace / "held").write_text("")
    return mission_id, used


def check(home: Home, *mission_ids: str) -> None:
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", list(mission_ids))


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("size", SIZES)
def test_a_flood_costs_bounded_memory_and_disk_and_keeps_both_its_ends(home: Home, flood: str, size: int) -> None:
    consumer = home.consumer()
    mission_id, launcher_bytes = flooded(home, FLOODS[flood].format(bytes=size))
    assert ended(mission_id, SECONDS)["status"] == "completed"
    assert launcher_bytes < HIGH_WATER_BYTES
    assert high_water_bytes(consumer.pid) < HIGH_WATER_BYTES
    log = home.workspace(mission_id) / "run.log"
    assert log.stat().st_size <= LOG_BYTES + 100
    text = log.read_bytes()
    assert text.startswith(b"first\n")
    assert text.endswith(b"last\n")
    assert b" bytes left out here]" in text
    assert [path.name for path in log.parent.glob("run.log*")] == ["run.log"]
    check(home, mission_id)


def test_an_unbounded_log_would_keep_it_all(home: Home) -> None:
    home.consumer(mutants="unbounded-log")
    mission_id, _ = flooded(home, FLOODS["lines"].format(bytes=64 * MIB))
    ended(mission_id)
    assert (home.workspace(mission_id) / "run.log").stat().st_size > 64 * MIB > LOG_BYTES


def test_a_launcher_that_keeps_what_it_writes_would_pass_the_bound(home: Home) -> None:
    home.consumer(mutants="hoarding-launcher")
    mission_id, launcher_bytes = flooded(home, FLOODS["lines"].format(bytes=200 * MIB))
    assert launcher_bytes > HIGH_WATER_BYTES
    ended(mission_id)


def test_past_the_limit_the_program_is_ended_and_what_it_printed_stays(home: Home) -> None:
    home.consumer(mutants="small-output-limit")
    mission_id = shell("echo first; trap '' TERM; yes")["mission_id"]
    failure = ended(mission_id)["failure"]
    assert failure["code"] == "output_limit"
    assert (home.workspace(mission_id) / "run.log").read_bytes().startswith(b"first\n")
    check(home, mission_id)


def test_an_endless_flood_is_cancelled_like_anything_else(home: Home) -> None:
    home.consumer()
    mission_id = shell("trap '' TERM; yes >&3 & yes '{\"progress\": 0.5}' >&3 & yes")["mission_id"]
    until(lambda: "mission.progress" in events(mission_id), "its reports are heard")
    ok(tools.vp_cancel_mission(mission_id=mission_id))
    assert ended(mission_id)["status"] == "cancelled"
    check(home, mission_id)


@pytest.mark.parametrize("lines", [100_000, pytest.param(3_000_000, marks=pytest.mark.slow)])
def test_a_flood_of_reports_is_heard_to_its_end_and_recorded_at_a_bounded_rate(home: Home, lines: int) -> None:
    consumer = home.consumer()
    report = '{"progress": 0.5, "message": "busy", "usage": {"turns": 3}}'
    script = f"yes '{report}' | head -n {lines} >&3; echo '{{\"result\": \"done\"}}' >&3"
    mission_id = shell(script)["mission_id"]
    done = ended(mission_id, SECONDS)
    assert (done["status"], done["result"], done["usage"]["turns"]) == ("completed", "done", 3)
    told, seconds = events(mission_id).count("mission.progress"), done["duration_seconds"]
    assert 1 <= told <= 2 + seconds / limits.PROGRESS_INTERVAL_SECONDS
    assert high_water_bytes(consumer.pid) < HIGH_WATER_BYTES
    check(home, mission_id)


@pytest.mark.parametrize("mutants", ["", "unbounded-report-line"])
def test_an_endless_line_of_a_report_is_dropped_as_it_comes(home: Home, mutants: str) -> None:
    consumer = home.consumer(mutants=mutants)
    ended(shell("true")["mission_id"])
    before = high_water_bytes(consumer.pid)
    size = 12 * MIB if mutants else 100 * MIB
    script = f"(tr '\\0' x < /dev/zero | head -c {size}; echo; echo '{{\"result\": \"heard\"}}') >&3"
    done = ended(shell(script)["mission_id"], SECONDS)
    assert (done["status"], done["result"]) == ("completed", "heard")
    grown = high_water_bytes(consumer.pid) - before
    assert (grown < 8 * MIB) == (not mutants)
    check(home)


NONSENSE = r"""
import os
lines = [
    '{"progress": NaN}', '{"progress": Infinity}', '{"progress": -Infinity}', '{"progress": 1e999}',
    '{"progress": 1%s}' % ("0" * 400), '{"progress": -1%s}' % ("0" * 4000), '{"progress": 1%s}' % ("0" * 5000),
    '{"progress": true}', '{"progress": "0.5"}', '{"progress": [0.5]}', '{"progress": {"a": 1}}', '{"progress": null}',
    '{"message": "a\\u0000b \\ud800 c"}', '{"message": 7}', '{"message": "%s"}' % ("m" * 60_000),
    '{"usage": {"turns": 1%s}}' % ("0" * 400), '{"usage": {"turns": -1, "input_tokens": 1.5, "cost_usd": NaN}}',
    '{"usage": {"cost_usd": 1e999, "output_tokens": true}}', '{"usage": {"cost_usd": 1%s}}' % ("0" * 400),
    '{"usage": [1]}', '{"usage": "much"}', '{"usage": null}',
    '{"failure": {"code": "no_such", "message": "x"}}', '{"failure": {"code": ["auth"], "message": "x"}}',
    '{"failure": {"code": "auth"}}', '{"failure": "auth"}', '{"failure": {"code": {}, "message": {}}}',
    '{"result": {"nested": 1}}', '{"result": ["x"]}', '{"result": 1%s}' % ("0" * 4000),
    '[' * 10_000, '{"a":' * 10_000 + '1' + '}' * 10_000, '[' * 10_000 + ']' * 10_000,
    '{"result": ' + '[' * 900 + ']' * 900 + '}',
    '[]', '1', 'null', '"text"', '{', '}', '', '   ', 'no JSON', '{"result": "cut', "{'result': 'python'}", '{"": ""}',
]
with open(3, "wb") as reports:
    for line in lines:
        reports.write(line.encode() + b"\n")
    reports.write(b"\xff\xfe\x00\x80\n\x00\x00\n\r\n\xef\xbb\xbf{}\n" + b"\x00" * 70_000 + b"\n")
    reports.write(b'{"result": "the truth \\u0000 \\udfff", "usage": {"turns": 2}}\n{"result": "unfinished')
"""


@pytest.mark.parametrize("mutants", ["", "trusting-reports"])
def test_nonsense_in_reports_is_dropped_and_changes_nothing(home: Home, mutants: str) -> None:
    home.consumer(mutants=mutants)
    mission_id = command(sys.executable, "-c", NONSENSE)["mission_id"]
    done = ended(mission_id)
    if mutants:
        assert done["status"] != "completed"
        return
    assert (done["status"], done["failure"], done["usage"]["turns"]) == ("completed", None, 2)
    assert done["result"] == "the truth \N{REPLACEMENT CHARACTER} ?"
    assert done["usage"]["cost_usd"] is None
    assert done["progress"]["fraction"] in (0.0, 1.0)
    assert done["progress"]["message"] == "m" * (limits.PROGRESS_MESSAGE_CHARS - 1) + "…"
    check(home, mission_id)
