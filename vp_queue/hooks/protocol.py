"""The JSON between an agent host and its hooks, as Claude Code and its SDK define it (codex and others follow it)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from vp_queue.contracts import limits

STOP: Final = "Stop"
SESSION_START: Final = "SessionStart"
SESSION_END: Final = "SessionEnd"
# What these are answered with stands in the agent's context.
ADDS_CONTEXT: Final = frozenset({"UserPromptSubmit", SESSION_START, "PostToolUse"})
# It is repeated to the agent outside of any fence.
_SESSION: Final = re.compile(rf"[\w.:-]{{1,{limits.SESSION_CHARS}}}", re.ASCII)


@dataclass(frozen=True)
class Hook:
    """One call of a hook.

    Attributes:
        event: its ``hook_event_name``.
        session_id: the host's session; empty where it names none.
        stop_hook_active: the agent goes on already because a hook asked it to.
    """

    event: str
    session_id: str = ""
    stop_hook_active: bool = False

    @property
    def is_known(self) -> bool:
        """Whether there is anything to do for it."""
        return self.event in ADDS_CONTEXT or self.event in (STOP, SESSION_END)

    def answer(self, text: str) -> dict[str, Any]:
        """The host's form of telling the agent a text."""
        if self.event == STOP:
            return {"decision": "block", "reason": text}
        return {"hookSpecificOutput": {"hookEventName": self.event, "additionalContext": text}}


def parsed(text: str) -> Hook | None:
    """The hook that a host's JSON calls; None: it is no hook's JSON."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return hook_of(given) if isinstance(given, dict) else None


def hook_of(given: Mapping[str, Any]) -> Hook | None:
    """The hook of a host's input; None: it names none."""
    event, session = given.get("hook_event_name"), given.get("session_id")
    if not isinstance(event, str):
        return None
    if not isinstance(session, str) or not _SESSION.fullmatch(session):
        session = ""
    return Hook(event, session, given.get("stop_hook_active") is True)
