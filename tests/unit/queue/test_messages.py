"""What travels through Huey is JSON, and only what vp-queue itself would write is taken for a wake-up."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from huey.registry import Message
from huey.utils import Error
from hypothesis import given, settings
from hypothesis import strategies as st

from vp_queue.queue.messages import (
    MESSAGE_BYTES,
    TASK_NAME,
    JsonSerializer,
    check_wake_up,
    parse_wake_up_id,
    wake_up_id,
)

MISSION = "m-0mdq3v8k2f-7x0k3w9c2h1"
SERIALIZER = JsonSerializer()


def wake_up(**fields: Any) -> bytes:
    """The bytes of a wake-up, some of its fields replaced."""
    message = {"id": f"{MISSION}.3", "name": TASK_NAME, "args": [MISSION, 3], **fields}
    return json.dumps({"message": message}).encode()


# --- ids ----------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.from_regex(r"\Am-[0-9a-z-]{10,60}\Z"), st.integers(1, 10**9 - 1))
def test_a_wake_up_id_reads_back(mission_id: str, attempt: int) -> None:
    assert parse_wake_up_id(wake_up_id(mission_id, attempt)) == (mission_id, attempt)


@pytest.mark.parametrize(
    "other",
    [
        MISSION,
        f"{MISSION}.0",
        f"{MISSION}.-1",
        f"{MISSION}.01",
        f"{MISSION}.1.2",
        f"{MISSION}.1\n",
        f"{MISSION}.٣",
        f"{MISSION}.9999999999",
        f"r:{MISSION}.1",
        "m-short.1",
        "../m-0000000000.1",
        "",
        None,
        7,
        b"m-0000000000.1",
        [f"{MISSION}.1"],
    ],
)
def test_other_ids_are_not_ours(other: object) -> None:
    assert parse_wake_up_id(other) is None


# --- the serializer -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        (None, True),
        (datetime(2030, 1, 1, 12, 0, 0, 5), False),  # noqa: DTZ001  Huey's own times are naive UTC
        (datetime(2030, 1, 1, tzinfo=UTC), True),
        'text with ü and \\ and "',
        {"a": [1, 2.5, None, True]},
        [1, 2],
        None,
        0,
        Message(
            id="x.1", name=TASK_NAME, args=["m", 1], kwargs={}, priority=5, expires=datetime(2030, 1, 1, tzinfo=UTC)
        ),
    ],
)
def test_what_huey_stores_reads_back(value: Any) -> None:
    assert SERIALIZER.deserialize(SERIALIZER.serialize(value)) == value


def test_an_error_reads_back_as_an_error() -> None:
    read = SERIALIZER.deserialize(SERIALIZER.serialize(Error({"error": "no", "retries": 0})))
    assert isinstance(read, Error)
    assert read.metadata == {"error": "no", "retries": 0}


def test_the_bytes_are_json_whatever_the_value() -> None:
    for value in ((None, True), "text", Error({}), Message(id="x", name="y", args=(), kwargs={})):
        json.loads(SERIALIZER.serialize(value))


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickle_is_never_loaded(tmp_path: Path) -> None:
    data = pickle.dumps(Bomb(tmp_path / "ran"))
    assert check_wake_up(data) == "not a JSON message"
    with pytest.raises(ValueError, match=r"."):
        SERIALIZER.deserialize(data)
    assert not (tmp_path / "ran").exists()
    pickle.loads(data)
    assert (tmp_path / "ran").exists(), "the control: unpickled, it does run"


# --- what is a wake-up --------------------------------------------------------------------------

AWARE, NAIVE = {"at": "2030-01-01T00:00:00+00:00"}, {"at": "2030-01-01T00:00:00"}


@pytest.mark.parametrize(
    "data",
    [
        wake_up(),
        wake_up(priority=-5),
        wake_up(expires=AWARE, expires_resolved=NAIVE),
        wake_up(retries=0, retry_delay=0, retry_backoff=0),
        wake_up(expires=None),
    ],
)
def test_a_wake_up_as_we_write_it_passes(data: bytes) -> None:
    assert check_wake_up(data) is None
    SERIALIZER.deserialize(data)


REFUSED = {
    "junk": b"\xff\x00junk",
    "nothing": b"",
    "another JSON": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "a text": b'"message"',
    "a message that is a list": b'{"message": [1]}',
    "a message that is a text": b'{"message": "id name args"}',
    "nested too deep": b"[" * 2_000 + b"]" * 2_000,
    "nested in the message": json.dumps({"message": {"id": {"a": [[[1]]]}, "name": TASK_NAME, "args": []}}).encode(),
    "a revocation": JsonSerializer().serialize((None, True)),
    "two things at once": b'{"tuple": [], ' + wake_up()[1:],
    "an unknown task": wake_up(name="os.system"),
    "a task of the same name elsewhere": wake_up(name="tasks.app.run_mission"),
    "a task that is no text": wake_up(name=[TASK_NAME]),
    "an id that is not ours": wake_up(id="x.1"),
    "an id of another mission": wake_up(id="m-0000000000-other.3"),
    "an id of another attempt": wake_up(id=f"{MISSION}.4"),
    "no arguments": wake_up(args=[]),
    "one argument more": wake_up(args=[MISSION, 3, "x"]),
    "an attempt as text": wake_up(args=[MISSION, "3"]),
    "an attempt as a float": wake_up(args=[MISSION, 3.0]),
    "true for one": wake_up(id=f"{MISSION}.1", args=[MISSION, True]),
    "arguments as a dict": wake_up(args={"mission_id": MISSION}),
    "keyword arguments": wake_up(kwargs={"attempt": 3}),
    "an eta": wake_up(eta=NAIVE),
    "a pipeline": wake_up(on_complete={"id": "x"}),
    "an error handler": wake_up(on_error={"id": "x"}),
    "a timeout": wake_up(timeout=1),
    "a chord": wake_up(chord_config=[1]),
    "an unknown part": wake_up(more=1),
    "retries": wake_up(retries=3),
    "an expiry that is no time": wake_up(expires="soon"),
    "an expiry that cannot be read": wake_up(expires_resolved={"at": "soon"}),
    "an expiry of another type": wake_up(expires_resolved={"at": 7}),
    "an expiry that cannot be compared": wake_up(expires_resolved=AWARE),
    "too long": wake_up(id=f"{MISSION}.3" + " " * MESSAGE_BYTES),
}


@pytest.mark.parametrize("what", REFUSED)
def test_anything_else_is_refused_with_a_reason(what: str) -> None:
    assert check_wake_up(REFUSED[what])


def test_the_longest_wake_up_is_far_below_the_limit() -> None:
    mission_id = "m-" + "z" * 60
    data = wake_up(id=f"{mission_id}.999999999", args=[mission_id, 999_999_999], expires=AWARE, expires_resolved=NAIVE)
    assert check_wake_up(data) is None
    assert len(data) < MESSAGE_BYTES / 4


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    assert check_wake_up(data) is not None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "args", "at"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*Message._fields, "more"]), JSON, max_size=6))
def test_whatever_passes_can_be_read_by_huey(fields: dict[str, Any]) -> None:
    data = wake_up(**fields)
    if check_wake_up(data) is None:
        message = SERIALIZER.deserialize(data)
        assert (message.id, message.args) == (f"{MISSION}.3", [MISSION, 3])
        assert message.kwargs == {}
