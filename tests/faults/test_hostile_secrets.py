"""A canary in the worker's environment is found nowhere; a secret that the program may have is shown nowhere."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.harness import BIN, CODER, Home, alive_with_environment, command, ended, ok, shell, until
from vp_queue import missions, tools
from vp_queue.ledger.models import Attempt
from vp_queue.worker.log import log_tail

CANARY, ALLOWED = "canary-7f3a91c04be2", "allowed-5d2e88a1f6b3"
# What an operator's shell may hold, under names that look secret and under names that do not.
WORKERS_OWN = {
    "CANARY_API_KEY": f"{CANARY}-key",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}-aws",
    "DATABASE_URL": f"postgres://user:{CANARY}-url@host/db",
    "LD_PRELOAD_NOTE": f"{CANARY}-note",
    "VP_TOKEN": f"{CANARY}-token",
    "PYTHONSTARTUP": f"/{CANARY}-startup",
    "BASH_FUNC_x%%": f"() {{ echo {CANARY}-function; }}",
}
# Says all it knows on every channel, the secret cut in two and run together, and fails.
TELL_ALL = r"""
env; env > work_products/env; cat /proc/self/environ /proc/$PPID/environ
echo "$SOME_TOKEN"; printf '%s' "$SOME_TOKEN" | cut -c 1-9 | tr -d '\n'; sleep 0.1
printf '%s\n' "$SOME_TOKEN" | cut -c 10-
printf 'x%sx%s%s\n' "$SOME_TOKEN" "$SOME_TOKEN" "$SOME_TOKEN" >&2
echo "{\"progress\": 0.5, \"message\": \"token is $SOME_TOKEN\"}" >&3
echo "{\"result\": \"the token was $SOME_TOKEN\"}" >&3
echo "{\"failure\": {\"code\": \"auth\", \"message\": \"refused $SOME_TOKEN\"}}" >&3
rm work_products/env
"""


def found_in_files(needle: str, *roots: Path) -> list[str]:
    """Files that hold the text, by their bytes."""
    return sorted(
        str(path)
        for root in roots
        for path in ([root] if root.is_file() else root.rglob("*"))
        if path.is_file() and not path.is_symlink() and needle.encode() in path.read_bytes()
    )


def found_in_answers(needle: str, mission_id: str) -> list[str]:
    """Tools that tell the text."""
    answers = {
        "get": tools.vp_get_mission(mission_id=mission_id, events_limit=500),
        "list": tools.vp_list_missions(),
        "read": tools.vp_read_result_artifacts(mission_id=mission_id),
        "events": tools.vp_read_events(reader="r", limit=1000),
        "vps": tools.vp_list_vps(),
        "unknown": tools.vp_get_mission(mission_id="m-0mdq3v8k2f-7x0k3w9c2h1p"),
        "invalid": tools.vp_dispatch_mission(vp_id=CODER, objective=""),
    }
    return [name for name, answer in answers.items() if needle in json.dumps(answer)]


def printed(*words: str) -> str:
    """What a command prints."""
    told = subprocess.run([BIN / "vp", *words], capture_output=True, text=True, timeout=60, check=False)
    return told.stdout + told.stderr


def _alone(pids: list[int]) -> list[int]:
    return pids if len(pids) == 1 else []


def found_in_environments(needle: str, pids: list[int]) -> list[int]:
    return [pid for pid in pids if needle.encode() in Path(f"/proc/{pid}/environ").read_bytes()]


def check(home: Home, *mission_ids: str) -> None:
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", list(mission_ids))


def everything_told(home: Home, mutants: str = "") -> tuple[str, list[int]]:
    """One mission that tells all and one that waits, under a consumer with the canaries; the pids of the second."""
    home.configure(concurrency=2, more='env_allow = ["PATH", "SOME_TOKEN"]\n')
    secrets = {**WORKERS_OWN, "SOME_TOKEN": ALLOWED}
    consumer = home.start(
        "huey_consumer", "vp_queue.tasks.app.huey", mutants=mutants, VP_ID=CODER, **secrets
    )  # fmt: skip
    home.start("vp", "keeper", **secrets)
    until(lambda: consumer.pid in missions.worker_pids(), "the consumer registered")
    waits = shell("exec sleep 600", vp_id=CODER)["mission_id"]
    until(lambda: alive_with_environment("VP_MISSION_ID", waits), "the program runs")
    told = shell(TELL_ALL + "exit 3", vp_id=CODER)["mission_id"]
    ended(told)
    launcher = Attempt.get(Attempt.mission == waits).executor["launcher_pid"]
    assert found_in_environments(CANARY, [consumer.pid]), "the canary was not even there"
    pids = [launcher, *alive_with_environment("VP_MISSION_ID", waits)]
    return told, pids


def test_a_canary_of_the_worker_is_nowhere_and_an_allowed_secret_is_redacted(home: Home) -> None:
    mission_id, pids = everything_told(home)
    assert found_in_environments(CANARY, pids) == []
    assert found_in_environments(ALLOWED, pids[:1]) == []  # the launcher's own
    assert found_in_answers(CANARY, mission_id) == []
    assert found_in_answers(ALLOWED, mission_id) == []
    assert found_in_files(CANARY, home.path) == []
    assert found_in_files(ALLOWED, home.path) == []
    for words in (["logs", mission_id], ["get", mission_id], ["status", "--json"], ["doctor", "--json"]):
        told = printed(*words)
        assert CANARY not in told
        assert ALLOWED not in told
    mission = ok(tools.vp_get_mission(mission_id=mission_id))["mission"]
    assert mission["failure"]["code"] == "auth"
    assert mission["failure"]["message"] == "refused [redacted]"
    assert mission["result"] == "the token was [redacted]"
    assert mission["progress"]["message"] == "token is [redacted]"
    log = (home.workspace(mission_id, CODER) / "run.log").read_text(errors="replace")
    assert "x[redacted]x[redacted][redacted]\n" in log
    assert "SOME_TOKEN=[redacted]" in log
    home.close()
    assert found_in_files(CANARY, home.path) + found_in_files(ALLOWED, home.path) == []
    check(home, mission_id)


@pytest.mark.parametrize(("mutants", "needle"), [("environment-passed-through", CANARY), ("nothing-redacted", ALLOWED)])
def test_without_the_guard_they_are_found(home: Home, mutants: str, needle: str) -> None:
    mission_id, pids = everything_told(home, mutants)
    in_files = found_in_files(needle, home.path)
    assert any(path.endswith("/run.log") for path in in_files)
    assert needle in printed("logs", mission_id)
    if needle == CANARY:
        assert found_in_environments(CANARY, pids) == pids[1:]
    else:
        assert any("vp_state.db" in path for path in in_files)


def test_supervisords_environment_reaches_consumers_and_no_further(home: Home) -> None:
    """`vp up` gives its environment to supervisord, and that to keeper and consumers: for keys that profiles name."""
    environment = {**home.environment, **WORKERS_OWN}
    vp = BIN / "vp"
    subprocess.run([vp, "up", "--detach"], env=environment, check=True, capture_output=True, timeout=120)
    try:
        mission_id = shell("env; exec sleep 600")["mission_id"]
        until(lambda: alive_with_environment("VP_MISSION_ID", mission_id), "the program runs")
        until(lambda: b"VP_MISSION_ID" in log_tail(home.workspace(mission_id), 10_000), "it printed")
        # What printed is a child, and may not have ended yet.
        (program,) = until(lambda: _alone(alive_with_environment("VP_MISSION_ID", mission_id)), "the rest has ended")
        launcher = Attempt.get(Attempt.mission == mission_id).executor["launcher_pid"]
        assert found_in_environments(CANARY, sorted(missions.worker_pids())) != []
        assert found_in_environments(CANARY, [launcher, program]) == []
        assert found_in_answers(CANARY, mission_id) == []
        ok(tools.vp_cancel_mission(mission_id=mission_id))
        ended(mission_id)
    finally:
        subprocess.run([vp, "down"], env=environment, check=True, capture_output=True, timeout=120)
    assert found_in_files(CANARY, home.path) == []
    check(home, mission_id)


def test_an_error_that_cannot_start_a_program_tells_no_secret(home: Home) -> None:
    home.configure(more='env_allow = ["PATH", "SOME_TOKEN"]\n')
    consumer = home.start("huey_consumer", "vp_queue.tasks.app.huey", VP_ID=CODER, SOME_TOKEN=ALLOWED, **WORKERS_OWN)
    until(lambda: consumer.pid in missions.worker_pids(), "the consumer registered")
    missing: dict[str, Any] = ended(command(f"no-such-{ALLOWED}", vp_id=CODER)["mission_id"])
    assert missing["failure"]["code"] == "executor_error"
    assert missing["failure"]["message"].endswith("no such program 'no-such-[redacted]'")
    check(home, missing["mission_id"])
