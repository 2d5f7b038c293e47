"""docs/lifecycle.md says what the code does: every transition is run, and what landed is compared.

Each transition function is tried on a mission in each state, on a real ledger; the pairs of states and the
events seen are the truth that the document's diagram and table must equal. The table of limits is compared
with ``contracts.limits``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.oracle import STATUS_AFTER
from vp_queue import clock
from vp_queue.contracts import EDGES, TERMINAL, EventType, FailureCode, Status, limits
from vp_queue.ledger import database, leases, transitions
from vp_queue.ledger.database import Transaction
from vp_queue.ledger.models import Mission
from vp_queue.ledger.records import Claim, Ending, Failure, NewMission, WorkerIdentity

DOCS = Path(__file__).resolve().parents[2] / "docs"
WORKER = WorkerIdentity("w-docs", "here", "here")
DEADLINE = timedelta(minutes=30)

Row = tuple[str, str, str, str]  # from, to, transition, event


class AfterTheDeadline(clock.SystemClock):
    """An hour later."""

    def now(self) -> datetime:
        return super().now() + 2 * DEADLINE


@contextmanager
def ledger(folder: Path) -> Iterator[None]:
    database.open_ledger(folder / "vp_state.db")
    yield
    database.close_thread_connection()


def accepted(tx: Transaction) -> Mission:
    return transitions.accept(
        tx,
        NewMission(
            mission_id=clock.new_mission_id(),
            vp_id="vp.general.primary",
            mission_type="task",
            objective="x",
            constraints={},
            budget={},
            metadata={},
            priority=0,
            max_attempts=2,
            request_digest="",
            expires_at=tx.now + DEADLINE,
        ),
    )


def mission_in(tx: Transaction, state: Status) -> tuple[str, Claim]:
    """A new mission in this state, and the claim its worker has (or had, or none could have)."""
    mission = accepted(tx)
    nobody = Claim(mission.id, mission.vp_id, 1, "")
    if state == Status.QUEUED:
        return mission.id, nobody
    if state == Status.EXPIRED:
        with clock.use(AfterTheDeadline()):
            transitions.expire(Transaction(now=clock.now()), mission.id)
        return mission.id, nobody
    claimed = transitions.claim(tx, mission.id, 1, WORKER, 30)
    assert claimed is not None
    claim = claimed[1]
    if state == Status.NEEDS_INPUT:
        transitions.ask(tx, claim, "which?")
    elif state == Status.COMPLETED:
        transitions.complete(tx, claim, Ending())
    elif state == Status.FAILED:
        transitions.fail(tx, claim, Failure(FailureCode.REFUSED, ""), Ending(), backoff_seconds=0)
    elif state == Status.CANCELLED:
        transitions.cancelled(tx, claim, Ending())
    return mission.id, claim


def _answer(tx: Transaction, mission_id: str, claim: Claim) -> object:
    question = Mission.get_by_id(mission_id).question
    return transitions.answer(tx, mission_id, question["question_id"] if question else "q-none", "this")


def _charge(code: FailureCode) -> Callable[[Transaction, str, Claim], object]:
    return lambda tx, _, claim: transitions.fail(tx, claim, Failure(code, ""), Ending(), backoff_seconds=0)


def _lose(tx: Transaction, mission_id: str, claim: Claim) -> object:
    return transitions.lose(tx, claim, "gone", Ending(), backoff_seconds=0)


def _lose_the_last(tx: Transaction, mission_id: str, claim: Claim) -> object:
    Mission.update(max_attempts=1).where(Mission.id == mission_id).execute()
    return _lose(tx, mission_id, claim)


# Each function of transitions that can change a status, with every way it can go.
CALLS: list[tuple[str, Callable[[Transaction, str, Claim], object]]] = [
    ("claim", lambda tx, mission_id, _: transitions.claim(tx, mission_id, 1, WORKER, 30)),
    ("complete", lambda tx, _, claim: transitions.complete(tx, claim, Ending())),
    ("fail", _charge(FailureCode.EXIT_NONZERO)),
    ("fail", _charge(FailureCode.REFUSED)),
    ("lose", _lose),
    ("lose", _lose_the_last),
    ("release", lambda tx, _, claim: transitions.release(tx, claim, Ending(), max_releases=3, backoff_seconds=0)),
    ("cancelled", lambda tx, _, claim: transitions.cancelled(tx, claim, Ending())),
    ("request_cancel", lambda tx, mission_id, _: transitions.request_cancel(tx, mission_id, "")[1]),
    ("expire", lambda tx, mission_id, _: transitions.expire(tx, mission_id)),
    ("ask", lambda tx, _, claim: transitions.ask(tx, claim, "which?")),
    ("answer", _answer),
    ("leases.progress", lambda tx, _, claim: leases.progress(tx, claim, 0.5, "half")),
]


def landed(state: Status, name: str, call: Callable[[Transaction, str, Claim], object]) -> list[Row]:
    """What one call did to a mission in one state, step by step."""
    with database.write_transaction() as tx:
        mission_id, claim = mission_in(tx, state)
        if name != "expire":
            return seen(tx, state, name, mission_id, lambda: call(tx, mission_id, claim))
        with clock.use(AfterTheDeadline()):
            late = Transaction(now=clock.now())
            return seen(late, state, name, mission_id, lambda: call(late, mission_id, claim))


def seen(tx: Transaction, state: Status, name: str, mission_id: str, call: Callable[[], object]) -> list[Row]:
    tx.events.clear()
    call()
    rows, before = [], str(state)
    for event in tx.events:
        after = STATUS_AFTER.get(event["type"], before)
        # A question that nobody answered is withdrawn on the way to the end.
        by = "answer" if event["type"] == EventType.ANSWERED else name
        rows.append((before, after, by, str(event["type"])))
        before = after
    assert Mission.get_by_id(mission_id).status == before, (state, name, rows)
    return rows


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> set[Row]:
    """Everything that can happen to a mission."""
    with ledger(tmp_path_factory.mktemp("ledger")):
        return {row for state in Status for name, call in CALLS for row in landed(state, name, call)}


def section(title: str) -> str:
    """The text under a heading of the document."""
    text = (DOCS / "lifecycle.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/lifecycle.md has no section {title!r}"
    return found[1]


def table(title: str) -> list[list[str]]:
    """The rows of the table in a section, without its head; cells without back-ticks."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def diagram() -> str:
    """The diagram as it must stand in the document, drawn from EDGES."""
    lines = ["stateDiagram-v2", "    [*] --> queued"]
    lines += [f"    {old} --> {new}" for old, news in EDGES.items() for new in news]
    lines += [f"    {status} --> [*]" for status in TERMINAL]
    return "\n".join(lines)


def test_the_diagram_is_drawn_from_the_edges() -> None:
    assert f"```mermaid\n{diagram()}\n```" in section("Diagram"), f"the diagram must be:\n{diagram()}"


def test_the_table_holds_every_change_and_its_event(truth: set[Row]) -> None:
    expanded = set()
    for old, new, names, event, _ in table("Changes and their events"):
        expanded |= {(old, new, name.strip(" `"), event) for name in names.split(",")}
    assert expanded == truth


def test_the_code_goes_along_every_edge_and_no_other(truth: set[Row]) -> None:
    gone = {(old, new) for old, new, _, _ in truth if old != new}
    assert gone == {(str(old), str(new)) for old, news in EDGES.items() for new in news}


def test_a_terminal_mission_never_changes(truth: set[Row]) -> None:
    assert not [row for row in truth if row[0] in TERMINAL]


def test_every_event_type_is_documented() -> None:
    named = set(re.findall(r"`((?:mission|vp)\.[a-z_]+)`", (DOCS / "lifecycle.md").read_text(encoding="utf-8")))
    assert named == {str(event) for event in EventType}


def shown(value: object) -> str:
    """A limit as the document writes it."""
    if isinstance(value, tuple):
        return " to ".join(map(shown, value))
    if isinstance(value, float) and not value.is_integer():
        return str(value)
    return f"{int(str(value).removesuffix('.0')):,}"


def test_the_table_of_limits_equals_the_code() -> None:
    documented = {name: value for name, value, _ in table("Limits")}
    assert documented == {name: shown(value) for name, value in vars(limits).items() if name.isupper()}
