"""An agent host's hook is killed at any moment, and yet the agent hears of every outcome.

The host of these tests is a strict one: it takes what its hook printed only if the hook ended with status 0. The hook
runs as ``vp inbox`` runs it, in a process forked where everything is imported, so that the kills hit its work.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import time
from datetime import timedelta

import pytest

from tests import ended, mutants, oracle
from tests.harness import Home, forget_ledger
from vp_queue import missions, missions_inbox
from vp_queue.contracts import EventType, Status
from vp_queue.hooks import process
from vp_queue.ledger import database, inbox
from vp_queue.ledger.models import Event

FORK = multiprocessing.get_context("fork")
READER, SESSION = "host", "s-1"
ROUNDS = 48
SEED = int(os.environ.get("VP_INBOX_SEED", "7"))


def hook(given: int, printed: int, hosts: tuple[int, int]) -> None:
    """The hook's process.

    Args:
        hosts: its host's ends of the two pipes.
    """
    for end in hosts:
        os.close(end)
    os.dup2(given, 0)
    os.dup2(printed, 1)
    process.sys.stdin, process.sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    process.run(process.Asked(READER))


class Host:
    """Calls its hook at each prompt; ``heard`` is what stands in the agent's context."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._seconds = 0.03  # that a call takes
        self.heard: set[str] = set()
        self.killed = 0

    def prompt(self, *, kill: bool) -> str:
        """One prompt: what the hook added to it, or nothing where it was killed first."""
        given, asks = os.pipe()
        answers, printed = os.pipe()
        child = FORK.Process(target=hook, args=(given, printed, (asks, answers)))
        child.start()
        began = time.monotonic()
        os.close(given)
        os.close(printed)
        with os.fdopen(asks, "w") as stdin, os.fdopen(answers) as stdout:
            stdin.write(json.dumps({"hook_event_name": "UserPromptSubmit", "session_id": SESSION, "prompt": "hello"}))
            stdin.close()
            if kill:
                time.sleep(self._draw.uniform(0, 1.2 * self._seconds))
                child.kill()
            text = stdout.read()
        child.join()
        self.killed += child.exitcode != 0
        if child.exitcode == 0:
            self._seconds = time.monotonic() - began
            self.heard |= set(re.findall(r"m-[0-9a-z]{10}-[0-9a-z]{11}", text))
            return text
        return ""


def conversation(host: Host) -> list[str]:
    """Prompts, kills and outcomes, until the agent has nothing more to hear; every mission that ended."""
    missions.ready()
    over = []
    for number in range(ROUNDS):
        if number % 3 == 0:
            over.append(ended.mission(timedelta(0), Status.CANCELLED))
        host.prompt(kill=number % 4 != 3)
        check_acknowledged(host)
    while host.prompt(kill=False):
        pass
    check_acknowledged(host)
    return over


def check_acknowledged(host: Host) -> None:
    """Nothing was acknowledged that the agent has not heard."""
    with database.read_transaction():
        until = inbox.acknowledged(READER)
        rows = Event.select().where(Event.seq <= until, Event.type == EventType.CANCELLED)
        assert {row.mission_id for row in rows} <= host.heard


def test_a_hook_killed_at_any_moment_loses_no_outcome(home: Home) -> None:
    host = Host(SEED)
    over = conversation(host)
    assert host.killed > ROUNDS // 8
    assert set(over) == host.heard
    assert missions_inbox.news(READER, 0, 10).count == 0, "the last call acknowledged what its predecessor showed"
    forget_ledger()
    oracle.check(home.database, home.path / "AGENT_RUN_WORKSPACES", over)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_hook_killed_at_any_moment_loses_no_outcome_for_long(home: Home, seed: int) -> None:
    host = Host(1_000 + seed)
    assert set(conversation(host)) == host.heard


def test_control_a_hook_that_remembers_before_it_prints_loses_outcomes(home: Home) -> None:
    host = Host(SEED)
    with mutants.removed("remembers-before-it-prints"), pytest.raises(AssertionError):
        assert set(conversation(host)) == host.heard
