"""Missions run by real consumers: order, pause, due times, cancel, stop, failures, limits."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests import oracle
from tests.harness import (
    CODER,
    GENERAL,
    Home,
    alive_with_environment,
    command,
    ended,
    events,
    ok,
    shell,
    status,
    until,
)
from vp_queue import missions, tools

# Ignores TERM, and leaves behind a daemon: double-forked, in a session of its own, ignoring TERM too.
STUBBORN = """
trap '' TERM
python3 -c 'import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open(os.environ["VP_WORK_PRODUCTS"] + "/daemon", "w").close()
        time.sleep(600)
    os._exit(0)
os.wait()'
while :; do sleep 600; done
"""


@pytest.fixture(autouse=True)
def invariants_hold(home: Home):
    yield
    home.close()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES")


def ran(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def test_a_mission_is_executed_and_its_artifact_read(home: Home) -> None:
    home.consumer()
    mission = ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective="Write a poem"))["mission"]
    done = ended(mission["mission_id"])
    assert done["status"] == "completed"
    assert events(mission["mission_id"]) == ["mission.dispatched", "mission.started", "mission.completed"]
    read = ok(tools.vp_read_result_artifacts(mission_id=mission["mission_id"]))
    assert [(a["path"], a["content"], a["media_type"]) for a in read["artifacts"]] == [
        ("poem.md", "Roses are red\n", "text/markdown")
    ]
    workspace = home.workspace(mission["mission_id"])
    assert (workspace / "work_products" / "poem.md").read_text() == "Roses are red\n"
    assert "Write a poem" in (workspace / "MISSION.md").read_text()
    assert (workspace / "mission_receipt.json").exists()


def test_reports_become_progress_result_and_usage_even_from_a_plain_shell(home: Home) -> None:
    home.consumer()
    mission = shell(
        'echo \'{"progress": 0.5, "message": "half way"}\' >&$VP_REPORT_FD\n'
        "echo '{\"progress\": 2.0}' >&3\n"
        "echo 'not json' >&3\n"
        "head -c 200000 /dev/zero | tr '\\0' x >&3; echo >&3\n"
        'echo \'{"result": "all done", "usage": {"input_tokens": 7, "cost_usd": 0.25}}\' >&3\n'
        'echo \'{"result": "forged"}\''
    )
    done = ended(mission["mission_id"])
    assert (done["status"], done["result"]) == ("completed", "all done")
    assert done["usage"] == {"input_tokens": 7, "output_tokens": None, "cost_usd": 0.25, "turns": None}
    assert (done["progress"]["fraction"], done["progress"]["message"]) == (1.0, "half way")
    assert "mission.progress" in events(mission["mission_id"])


def test_a_failed_program_tells_its_status_and_the_end_of_its_log(home: Home) -> None:
    home.consumer()
    failed = ended(shell("echo so far; echo it broke >&2; exit 7")["mission_id"])
    assert failed["status"] == "failed"
    failure = failed["failure"]
    assert (failure["code"], failure["exit_code"], failure["attempt"]) == ("exit_nonzero", 7, 1)
    assert failure["log_tail"] == "so far\nit broke\n"
    missing = ended(command("no-such-program-anywhere")["mission_id"])
    assert missing["failure"]["code"] == "executor_error"
    assert "no-such-program-anywhere" in missing["failure"]["message"]


def test_attempts_are_retried_with_back_off_until_they_are_used_up(home: Home) -> None:
    home.consumer()
    home.keeper()
    mission = shell("echo x >> ../tries; test $(wc -l < ../tries) -ge 3", max_attempts=3)
    done = ended(mission["mission_id"])
    assert (done["status"], done["attempt"], done["attempts_charged"]) == ("completed", 3, 3)
    assert events(mission["mission_id"]).count("mission.retrying") == 2
    once = ended(shell("exit 1", max_attempts=2)["mission_id"])
    assert (once["status"], once["attempt"]) == ("failed", 2)


def test_higher_priority_runs_first_and_zero_is_a_real_value(home: Home) -> None:
    order = home.path / "order"
    for priority in (0, -5, 5):
        shell(f"echo {priority} >> {order}", priority=priority)
    first = shell(f"echo first-zero-stays-first >> {order}", priority=0)
    home.consumer()
    ended(first["mission_id"])
    until(lambda: len(ran(order)) == 4, "all four ran")
    assert ran(order) == ["5", "0", "first-zero-stays-first", "-5"]


def test_a_paused_vp_keeps_its_queue_without_spinning(home: Home) -> None:
    consumer = home.consumer()
    missions.pause(GENERAL, "maintenance")
    mission = shell("true")

    def cpu_ticks() -> int:
        fields = Path(f"/proc/{consumer.pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = cpu_ticks()
    time.sleep(2)  # the behaviour under test is what happens while nothing happens
    spent_seconds = (cpu_ticks() - before) / os.sysconf("SC_CLK_TCK")
    assert spent_seconds < 0.4, f"a paused consumer used {spent_seconds} s of CPU in 2 s"
    assert status(mission["mission_id"]) == "queued"
    missions.resume(GENERAL)
    assert ended(mission["mission_id"])["status"] == "completed"


def test_not_before_and_expires_at_are_kept(home: Home) -> None:
    home.consumer()
    home.keeper()
    start = datetime.now(UTC) + timedelta(seconds=2)
    later = shell("true", not_before=start.isoformat())
    soon = shell("true")
    assert ended(soon["mission_id"])["status"] == "completed"
    done = ended(later["mission_id"])
    assert datetime.fromisoformat(done["started_at"]) >= start
    missions.pause(GENERAL)
    missed = shell("true", expires_at=(datetime.now(UTC) + timedelta(seconds=1)).isoformat())
    assert ended(missed["mission_id"])["status"] == "expired"
    missions.resume(GENERAL)
    assert events(missed["mission_id"]) == ["mission.dispatched", "mission.expired"]


def test_cancelling_a_queued_mission_ends_it_at_once_and_for_good(home: Home) -> None:
    mission = shell("echo ran > ../ran")
    answer = ok(tools.vp_cancel_mission(mission_id=mission["mission_id"], reason="changed my mind"))
    assert (answer["changed"], answer["mission"]["status"]) == (True, "cancelled")
    home.consumer()
    assert ended(shell("true")["mission_id"])["status"] == "completed"
    assert status(mission["mission_id"]) == "cancelled"
    assert not home.workspace(mission["mission_id"]).exists()


def test_cancelling_a_running_mission_leaves_nothing_alive(home: Home) -> None:
    home.consumer()
    mission = shell(STUBBORN)
    mission_id = mission["mission_id"]
    daemon = home.workspace(mission_id) / "work_products" / "daemon"
    until(daemon.exists, "the daemon started")
    assert len(alive_with_environment("VP_MISSION_ID", mission_id)) >= 2
    answer = ok(tools.vp_cancel_mission(mission_id=mission_id, reason="enough"))
    assert answer["changed"]
    assert answer["mission"]["cancel_requested"]
    assert not ok(tools.vp_cancel_mission(mission_id=mission_id))["changed"]
    assert ended(mission_id)["status"] == "cancelled"
    assert alive_with_environment("VP_MISSION_ID", mission_id) == []
    assert [a["path"] for a in ok(tools.vp_read_result_artifacts(mission_id=mission_id))["artifacts"]] == ["daemon"]


def test_a_daemon_left_behind_is_ended_before_completed_is_said(home: Home) -> None:
    home.consumer()
    mission = shell("setsid sh -c 'sleep 600' & setsid sh -c 'sleep 600' & exit 0")
    assert ended(mission["mission_id"])["status"] == "completed"
    assert alive_with_environment("VP_MISSION_ID", mission["mission_id"]) == []


def test_the_time_limit_ends_a_mission(home: Home) -> None:
    home.consumer()
    failed = ended(shell("echo began; sleep 600", budget={"max_duration_seconds": 0.5})["mission_id"])
    assert (failed["status"], failed["failure"]["code"]) == ("failed", "timeout")
    assert failed["failure"]["log_tail"] == "began\n"


def test_reported_use_beyond_the_budget_ends_a_mission_and_keeps_what_it_made(home: Home) -> None:
    home.consumer()
    script = 'echo part > $VP_WORK_PRODUCTS/part; echo \'{"usage": {"cost_usd": 2.5}}\' >&3; sleep 600'
    failed = ended(shell(script, budget={"max_cost_usd": 2})["mission_id"])
    assert (failed["status"], failed["failure"]["code"]) == ("failed", "budget_exhausted")
    assert "2.5 US dollars" in failed["failure"]["message"]
    read = ok(tools.vp_read_result_artifacts(mission_id=failed["mission_id"]))
    assert [artifact["path"] for artifact in read["artifacts"]] == ["part"]
    within = shell('echo \'{"usage": {"input_tokens": 6, "output_tokens": 4}}\' >&3', budget={"max_tokens": 10})
    assert ended(within["mission_id"])["status"] == "completed"
    after = shell('echo \'{"usage": {"turns": 3}}\' >&3', budget={"max_turns": 2})
    assert ended(after["mission_id"])["failure"]["code"] == "budget_exhausted"


def test_sigterm_releases_the_mission_uncharged_and_the_next_consumer_runs_it(home: Home) -> None:
    consumer = home.consumer()
    go = home.path / "go"
    mission = shell(f"echo x >> ../starts; test -e {go} || sleep 600")
    mission_id = mission["mission_id"]
    until(lambda: alive_with_environment("VP_MISSION_ID", mission_id), "the program runs")
    consumer.send_signal(signal.SIGTERM)
    assert consumer.wait(30) == 0
    released = ok(tools.vp_get_mission(mission_id=mission_id))
    assert (released["mission"]["status"], released["mission"]["attempts_charged"]) == ("queued", 0)
    assert [attempt["outcome"] for attempt in released["attempts"]] == ["released"]
    assert alive_with_environment("VP_MISSION_ID", mission_id) == []
    go.touch()
    home.consumer()
    done = ended(mission_id)
    assert (done["status"], done["attempt"], done["attempts_charged"]) == ("completed", 2, 1)


def test_sigint_drains_what_runs_finishes_and_nothing_new_starts(home: Home) -> None:
    consumer = home.consumer()
    go = home.path / "go"
    running = shell(f"while ! test -e {go}; do sleep 0.05; done")
    until(lambda: status(running["mission_id"]) == "running", "it runs")
    waiting = shell("true")
    consumer.send_signal(signal.SIGINT)
    until(lambda: "Shutting down gracefully" in home.logs(), "the consumer drains")
    go.touch()
    assert consumer.wait(30) == 0
    assert status(running["mission_id"]) == "completed"
    assert status(waiting["mission_id"]) == "queued"


def test_a_killed_consumer_is_noticed_and_its_mission_is_lost_not_doubled(home: Home) -> None:
    home.keeper()
    consumer = home.consumer()
    mission = shell("echo x >> ../starts; sleep 600")
    again = shell("echo x >> ../starts; test $(wc -l < ../starts) -ge 2 || sleep 600", max_attempts=2)
    until(lambda: alive_with_environment("VP_MISSION_ID", mission["mission_id"]), "the program runs")
    os.kill(consumer.pid, signal.SIGKILL)
    lost = ended(mission["mission_id"])
    assert (lost["status"], lost["failure"]["code"]) == ("failed", "worker_lost")
    assert alive_with_environment("VP_MISSION_ID", mission["mission_id"]) == []
    second = home.consumer()
    until(lambda: status(again["mission_id"]) == "running", "the second mission runs")
    until(lambda: alive_with_environment("VP_MISSION_ID", again["mission_id"]), "its program runs")
    os.kill(second.pid, signal.SIGKILL)
    until(lambda: status(again["mission_id"]) == "queued", "it is requeued")
    home.consumer()
    done = ended(again["mission_id"])
    assert (done["status"], done["attempts_charged"]) == ("completed", 2)
    starts = (home.workspace(again["mission_id"]).parent / "starts").read_text().split()
    assert len(starts) == 2


def test_a_wake_up_lost_with_its_consumer_is_written_again(home: Home) -> None:
    """A consumer that dies between taking the row and claiming leaves a queued mission without a row."""
    mission = shell("true")
    from vp_queue.ledger import database

    with database.write_transaction():
        database.current().db.execute_sql("DELETE FROM task")
    home.consumer()
    home.keeper()
    assert ended(mission["mission_id"])["status"] == "completed"


def test_junk_in_the_queue_is_reported_and_never_executed(home: Home) -> None:
    import pickle

    from vp_queue.ledger import database

    proof = home.path / "executed"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {proof}",)

    missions.ready()
    rows = [
        b"junk \xff\x00",
        pickle.dumps(Evil()),
        b'{"message": {"id": "m-0000000000.1", "name": "os.system", "args": []}}',
    ]
    with database.write_transaction():
        for row in rows:
            database.current().db.execute_sql(
                "INSERT INTO task (queue, data, priority) VALUES (?, ?, 99)", (GENERAL, row)
            )
    mission = shell("true")
    home.consumer()
    assert ended(mission["mission_id"])["status"] == "completed"
    rejected = [event for event in missions.events_after(0, 100) if event.type == "vp.message_rejected"]
    assert len(rejected) == 3
    assert home.logs().count("was removed unexecuted") == 3
    assert not proof.exists()


def test_the_program_sees_only_the_allowed_environment(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_API_KEY", "canary-7f3a9")
    home.consumer()
    mission = shell("env | sort > $VP_WORK_PRODUCTS/env; pwd > $VP_WORK_PRODUCTS/pwd")
    assert ended(mission["mission_id"])["status"] == "completed"
    workspace = home.workspace(mission["mission_id"])
    names = {line.partition("=")[0] for line in (workspace / "work_products" / "env").read_text().splitlines()}
    allowed = {"PATH", "LANG", "HOME"}
    ours = {
        "VP_MISSION_ID",
        "VP_ATTEMPT",
        "VP_ID",
        "VP_WORKSPACE",
        "VP_WORK_PRODUCTS",
        "VP_MISSION_FILE",
        "VP_REPORT_FD",
    }
    assert ours <= names
    assert names <= allowed | ours | {"PWD", "OLDPWD", "SHLVL", "_"}
    assert (workspace / "work_products" / "pwd").read_text().strip() == str(workspace)


def test_an_allowed_secret_is_used_but_never_shown(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_TOKEN", "s3cr3t-value-42")
    home.configure(more='env_allow = ["PATH", "MY_API_TOKEN"]\n')  # belongs to the last table, the coder's
    home.consumer(CODER)
    mission = shell(
        'printf "$MY_API_TOKEN" | cut -c1-5 | tr -d "\\n"; printf "$MY_API_TOKEN" | cut -c6-; '
        'echo "{\\"result\\": \\"$MY_API_TOKEN\\", \\"message\\": \\"$MY_API_TOKEN\\"}" >&3; exit 1',
        vp_id=CODER,
    )
    failed = ended(mission["mission_id"])
    assert failed["failure"]["log_tail"] == "[redacted]\n"
    assert failed["result"] == "[redacted]"
    answer = str(tools.vp_get_mission(mission_id=mission["mission_id"], events_limit=500))
    assert "s3cr3t" not in answer
    assert "s3cr3t" not in (home.workspace(mission["mission_id"], CODER) / "run.log").read_text()


def test_required_artifacts_are_the_evidence_of_success(home: Home) -> None:
    home.consumer()
    constraints = {"require_artifacts": ["report.md", "data/*.csv"]}
    lacking = ended(shell("echo x > $VP_WORK_PRODUCTS/report.md", constraints=constraints)["mission_id"])
    assert lacking["failure"]["code"] == "evidence_missing"
    assert "data/*.csv" in lacking["failure"]["message"]
    assert "report.md" not in lacking["failure"]["message"]
    script = "echo x > $VP_WORK_PRODUCTS/report.md; mkdir $VP_WORK_PRODUCTS/data; echo 1 > $VP_WORK_PRODUCTS/data/a.csv"
    assert ended(shell(script, constraints=constraints)["mission_id"])["status"] == "completed"


def test_files_are_put_into_the_workspace(home: Home) -> None:
    home.consumer()
    files = {"input/data.txt": "hello", "notes.md": "ü"}
    mission = shell("cat input/data.txt notes.md > $VP_WORK_PRODUCTS/both", constraints={"files": files})
    assert ended(mission["mission_id"])["status"] == "completed"
    read = ok(tools.vp_read_result_artifacts(mission_id=mission["mission_id"]))
    assert read["artifacts"][0]["content"] == "helloü"


def test_what_may_not_be_an_artifact_is_skipped_with_the_reason(home: Home) -> None:
    home.consumer()
    mission = shell(
        "cd $VP_WORK_PRODUCTS; echo good > good.txt; ln -s /etc/passwd link; mkfifo pipe; "
        "ln ../MISSION.md hard; mkdir .git; echo x > .git/config; truncate -s 1T huge"
    )
    assert ended(mission["mission_id"])["status"] == "completed"
    read = ok(tools.vp_read_result_artifacts(mission_id=mission["mission_id"]))
    assert [artifact["path"] for artifact in read["artifacts"]] == ["good.txt"]
    last = ok(tools.vp_get_mission(mission_id=mission["mission_id"]))["events"][-1]
    assert {entry["path"] for entry in last["data"]["skipped"]} == {"link", "pipe", "hard", ".git", "huge"}


def test_an_artifact_changed_after_publishing_is_withheld(home: Home) -> None:
    home.consumer()
    mission = shell("echo one > $VP_WORK_PRODUCTS/a; echo two > $VP_WORK_PRODUCTS/b")
    ended(mission["mission_id"])
    products = home.workspace(mission["mission_id"]) / "work_products"
    (products / "a").write_text("ONE\n")
    read = ok(tools.vp_read_result_artifacts(mission_id=mission["mission_id"]))
    assert [(a["content"], a["problem"]) for a in read["artifacts"]] == [(None, "changed"), ("two\n", None)]
    (products / "a").write_text("one\n")  # as published again: the oracle looks at it


def test_lifecycle_events_reach_huey_signal_handlers_of_the_user(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = home.path / "my_handlers.py"
    handlers.write_text(
        "import os\n"
        "from vp_queue.tasks.app import huey\n"
        '@huey.signal("mission.started", "mission.completed")\n'
        "def seen(signal, task, event):\n"
        '    with open(os.environ["VP_HOME"] + "/seen", "a") as file:\n'
        '        print(signal, task.id, event["mission_seq"], file=file)\n'
        '    raise RuntimeError("harmless")\n'
    )
    monkeypatch.setenv("PYTHONPATH", str(home.path))
    config = home.path / "vp_queue.toml"
    config.write_text('imports = ["my_handlers"]\n' + config.read_text())
    home.consumer()
    mission_id = shell("true")["mission_id"]
    assert ended(mission_id)["status"] == "completed"
    expected = [f"mission.started {mission_id}.1 2", f"mission.completed {mission_id}.1 3"]
    until(lambda: len(ran(home.path / "seen")) == 6, "both signals were handled")
    assert (home.path / "seen").read_text().splitlines() == expected


def test_without_a_place_for_the_receipt_a_mission_is_not_called_completed(home: Home) -> None:
    home.consumer()
    failed = ended(shell('cd /; rm -rf "$VP_WORKSPACE"')["mission_id"])
    assert (failed["status"], failed["failure"]["code"]) == ("failed", "executor_error")
    assert "receipt" in failed["failure"]["message"]


def test_sigterm_during_a_drain_releases_what_still_runs(home: Home) -> None:
    consumer = home.consumer()
    mission_id = shell("sleep 600")["mission_id"]
    until(lambda: alive_with_environment("VP_MISSION_ID", mission_id), "the program runs")
    consumer.send_signal(signal.SIGINT)
    until(lambda: "Shutting down gracefully" in home.logs(), "the consumer drains")
    consumer.send_signal(signal.SIGTERM)
    assert consumer.wait(30) == 0
    mission = ok(tools.vp_get_mission(mission_id=mission_id))["mission"]
    assert (mission["status"], mission["attempts_charged"]) == ("queued", 0)


def test_a_duplicate_wake_up_does_not_hide_a_mission_from_an_orderly_stop(home: Home) -> None:
    """Huey counts tasks in flight by id: the duplicate's end takes the running one off its list."""
    from vp_queue.ledger import database, queries
    from vp_queue.queue import huey

    home.configure(concurrency=2)
    consumer = home.consumer()
    mission_id = shell("sleep 600")["mission_id"]
    until(lambda: alive_with_environment("VP_MISSION_ID", mission_id), "the program runs")
    with database.write_transaction():
        again = queries.mission_row(mission_id)
        again.attempt -= 1
        huey.huey_for(GENERAL).enqueue(huey._wake_up(again))
    until(lambda: f"wake-up {mission_id}.1 is stale" in home.logs() or _rows() == 0, "the duplicate was taken")
    shell("true")
    consumer.send_signal(signal.SIGTERM)
    assert consumer.wait(30) == 0
    mission = ok(tools.vp_get_mission(mission_id=mission_id))["mission"]
    assert (mission["status"], mission["attempts_charged"]) == ("queued", 0)


def _rows() -> int:
    from vp_queue.ledger import database

    with database.read_transaction():
        return int(database.current().db.execute_sql("SELECT COUNT(*) FROM task").fetchone()[0])
