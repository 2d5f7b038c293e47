"""A reader of server-sent events, for tests: strict about their form, and bounded in time by its socket."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx

WITHIN_SECONDS = 60.0


class Stream:
    """An open stream of events."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.iter_lines()
        self.comments = 0

    def events(self) -> Iterator[dict[str, Any]]:
        """Each event as it comes, until the server ends the stream."""
        found: dict[str, str] = {}
        for line in self._lines:
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(": ")
                assert name in ("id", "event", "data", "retry"), line
                assert name not in found, line
                found[name] = value
            elif "data" in found:
                event: dict[str, Any] = json.loads(found["data"])
                assert (str(event["seq"]), event["type"]) == (found["id"], found["event"]), found
                yield event
                found = {}
            else:
                found = {}

    def until(self, type_: str) -> list[dict[str, Any]]:
        """What comes up to an event of this type."""
        seen = []
        for event in self.events():
            seen.append(event)
            if event["type"] == type_:
                return seen
        raise AssertionError(f"the stream ended before {type_}: {[event['type'] for event in seen]}")


@contextlib.contextmanager
def following(client: httpx.Client, *, last_event_id: object = None, **query: Any) -> Iterator[Stream]:
    """A stream of a client's server, which has begun: what is committed from now on comes."""
    headers = {"accept": "text/event-stream"}
    if last_event_id is not None:
        headers["last-event-id"] = str(last_event_id)
    with client.stream("GET", "/api/v1/events", params=query, headers=headers, timeout=WITHIN_SECONDS) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer)
