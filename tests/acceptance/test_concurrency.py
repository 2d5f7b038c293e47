"""Many at once: dispatchers, readers, cancellers and consumers on one ledger, and one idempotency key."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from tests import oracle
from tests.harness import CODER, GENERAL, Home, ended, ok, refused, until
from vp_queue import tools

DISPATCHER = """
import json, sys
from vp_queue import tools

vps, count = ["vp.general.primary", "vp.coder.primary"], int(sys.argv[1])
sys.stdin.readline()  # all start together
made, problems = [], []
for number in range(count):
    for answer in (
        tools.vp_dispatch_mission(
            vp_id=vps[number % 2], objective="a command", mission_type="command",
            constraints={"command": ["sh", "-c", "echo x > $VP_WORK_PRODUCTS/out"]},
        ),
        tools.vp_list_missions(limit=5),
    ):
        if not answer["ok"]:
            problems.append(answer)
        elif "mission" in answer:
            made.append(answer["mission"]["mission_id"])
    if number % 5 == 4:
        answer = tools.vp_cancel_mission(mission_id=made[-1], reason="every fifth")
        problems += [] if answer["ok"] else [answer]
    answer = tools.vp_get_mission(mission_id=made[-1])
    problems += [] if answer["ok"] else [answer]
print(json.dumps({"made": made, "problems": problems}))
"""


def test_sixty_dispatches_from_four_processes_while_two_consumers_a_vp_work(home: Home) -> None:
    home.configure(concurrency=2)
    for vp_id in (GENERAL, CODER):
        home.consumer(vp_id)
        home.start("huey_consumer", "vp_queue.tasks.app.huey", VP_ID=vp_id)
    home.keeper()
    dispatchers = [
        subprocess.Popen(
            [sys.executable, "-c", DISPATCHER, "15"],
            env=home.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for dispatcher in dispatchers:
        dispatcher.stdin.write("go\n")
        dispatcher.stdin.flush()
    made = []
    for dispatcher in dispatchers:
        out, err = dispatcher.communicate(timeout=120)
        assert dispatcher.returncode == 0, err
        answer = json.loads(out)
        assert answer["problems"] == []
        assert err == ""
        made += answer["made"]
    assert len(set(made)) == 60
    statuses = [ended(mission_id)["status"] for mission_id in made]
    assert set(statuses) <= {"completed", "cancelled"}
    assert statuses.count("completed") >= 48
    assert "locked" not in home.logs()
    assert "Traceback" not in home.logs()
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", made, rescued=True)


def test_fifty_dispatches_with_one_key_are_one_mission_that_runs_once(home: Home) -> None:
    home.configure(concurrency=4)
    home.consumer()
    together = threading.Barrier(50)
    request = {
        "vp_id": GENERAL,
        "objective": "once only",
        "mission_type": "command",
        "constraints": {"command": ["sh", "-c", "echo x >> ../runs"]},
        "idempotency_key": "the-key",
    }

    def dispatch(_: int) -> dict:
        together.wait()
        return ok(tools.vp_dispatch_mission(**request))

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(dispatch, range(50)))
    assert len({answer["mission"]["mission_id"] for answer in answers}) == 1
    assert [answer["created"] for answer in answers].count(True) == 1
    mission_id = answers[0]["mission"]["mission_id"]
    assert ended(mission_id)["status"] == "completed"
    again = ok(tools.vp_dispatch_mission(**request))
    assert (again["created"], again["mission"]["status"]) == (False, "completed")
    runs = home.workspace(mission_id).parent / "runs"
    assert runs.read_text() == "x\n"
    refused(tools.vp_dispatch_mission(**{**request, "objective": "another"}), "idempotency_conflict", "idempotency_key")
    assert ok(tools.vp_list_missions())["counts"]["completed"] == 1


def test_cancel_racing_claim_and_finish_ends_each_mission_exactly_once(home: Home) -> None:
    home.configure(concurrency=2, grace=0)
    home.consumer()
    made = []
    for _ in range(30):
        answer = tools.vp_dispatch_mission(
            vp_id=GENERAL, objective="race", mission_type="command", constraints={"command": ["true"]}
        )
        mission_id = ok(answer)["mission"]["mission_id"]
        made.append(mission_id)
        if len(made) % 3 == 0:  # let it be claimed first
            until(lambda now=mission_id: ok(tools.vp_get_mission(mission_id=now))["mission"]["attempt"] or True, "look")
        ok(tools.vp_cancel_mission(mission_id=mission_id))
    statuses = {ended(mission_id)["status"] for mission_id in made}
    assert statuses <= {"completed", "cancelled"}
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", made, rescued=True)
