"""``vp notify``, ``vp status`` and ``vp doctor`` on who was told; and the document's receiver, run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests import receiver
from tests.ended import mission
from tests.harness import GENERAL, Home, until
from tests.receiver import Receiver, listening, status
from tests.unit.cli.driver import Cli
from tests.unit.keeper.test_notifier import Look, looking

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "notifications.md"


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv(receiver.VARIABLE, receiver.KEY)
    with listening(Receiver(script=(status(410, b"gone \x1b[31mfor good"), status(204)))) as made:
        yield made


@pytest.fixture
def look(home: Home, refusing: Receiver) -> Look:
    """One event that was refused."""
    made = looking(home, refusing.table)
    made()
    mission(timedelta(0))
    made()
    return made


def test_what_was_given_up_is_listed_with_its_reason_and_told_again_on_request(
    cli: Cli, look: Look, refusing: Receiver
) -> None:
    code, answer = cli.json("notify", "list", "--dead")
    assert code == 0
    (only,) = answer["deliveries"]
    assert (only["state"], only["attempts"]) == ("dead", 1)
    assert only["error"].startswith("the receiver answered 410: gone")
    _, shown, _ = cli("notify", "list")
    assert "\x1b" not in shown
    assert "vp notify retry" in shown
    assert receiver.PATH not in shown
    _, shown, _ = cli("status")
    assert "1 given up (vp notify list)" in shown
    _, answer = cli.json("doctor")
    found = {each["name"]: each for each in answer["checks"]}
    assert found["notify webhook"]["ok"]
    assert found["notified"]["ok"] is None
    code, answer = cli.json("notify", "retry", str(only["id"]))
    assert (code, answer["revived"]) == (0, 1)
    look()
    assert len(refusing.received) == 2
    assert "Nothing waits" in cli("notify", "list")[1]
    assert cli("notify", "retry", str(only["id"]))[0] == 2


def test_a_retry_wants_one_or_all(cli: Cli, home: Home) -> None:
    assert cli("notify", "retry")[0] == 2
    assert cli("notify", "retry", "1", "--all")[0] == 2
    code, answer = cli.json("notify", "retry", "--all")
    assert (code, answer["revived"]) == (0, 0)


def test_a_test_says_what_came_of_it(cli: Cli, home: Home, refusing: Receiver) -> None:
    home.configure(more=f'\n[notify]\n{refusing.table}command = ["sh", "-c", "echo no luck; exit 3"]\n')
    code, shown, _ = cli("notify", "test", GENERAL)
    assert code == 1
    assert "not told: command sh: exit status 3: no luck" in shown
    assert f"not told: webhook http://127.0.0.1:{refusing.port}: the receiver answered 410" in shown
    home.configure(more=f"\n[notify]\n{refusing.table}")
    code, answer = cli.json("notify", "test", GENERAL)
    assert (code, [each["delivered"] for each in answer["results"]]) == (0, [True])
    assert all(each.signed and each.what == ("notify.test", None) for each in refusing.received)


def test_a_test_of_nobody_says_where_to_name_somebody(cli: Cli, home: Home) -> None:
    code, _, told = cli("notify", "test", GENERAL)
    assert code == 2
    assert "vp_queue.toml" in told
    assert cli("notify", "test", "vp.nobody")[0] == 3


def test_doctor_tells_of_a_program_that_is_not_there_and_a_key_that_is_not_set(
    cli: Cli, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(receiver.VARIABLE, raising=False)
    table = f'secret_env = "{receiver.VARIABLE}"\nurl = "https://a.example/x"\ncommand = ["no-such-program"]\n'
    home.configure(more=f"\n[notify]\n{table}")
    _, answer = cli.json("doctor")
    found = {each["name"]: each["ok"] for each in answer["checks"]}
    assert (found["notify command"], found["notify webhook"]) == (False, None)


def test_the_documents_receiver_takes_what_is_signed_and_nothing_else(cli: Cli, home: Home, tmp_path: Path) -> None:
    code = re.search(r"<!-- run: receiver -->\n```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert code
    with listening(Receiver()) as free:
        pass  # its port is free now
    script, log = tmp_path / "receiver.py", tmp_path / "receiver.log"
    script.write_text(code[1].replace("8790", str(free.port)))
    with log.open("wb") as out:
        environment = {**os.environ, "VP_HOOK_KEY": receiver.KEY}
        running = subprocess.Popen([sys.executable, script], env=environment, stdout=out, stderr=out)
    try:
        home.configure(more=f'\n[notify]\nsecret_env = "{receiver.VARIABLE}"\nurl = "http://127.0.0.1:{free.port}/"\n')
        os.environ[receiver.VARIABLE] = receiver.KEY
        until(lambda: cli("notify", "test", GENERAL)[0] == 0, "it listens and takes what is signed")
        assert "vp_queue.notify.test None" in log.read_text()
        os.environ[receiver.VARIABLE] = "another key of more than 24 bytes"
        assert "the receiver answered 401" in cli("notify", "test", GENERAL)[1]
    finally:
        os.environ.pop(receiver.VARIABLE, None)
        running.kill()
        running.wait()
