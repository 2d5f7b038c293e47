"""The hook as a program: ``vp inbox READER --format context``.

Its host waits for it at each prompt and shows its errors to a person who has something else to do. So it answers within
``limits.HOOK_SECONDS`` or not at all, and ends well whatever happens: what it could not tell is told at the next call.

The order is: acknowledge what the call *before* showed, print, remember, exit at once. Killed before it remembered, it
shows the same again. So nothing is lost unless it dies between its last two system calls, the write that remembers and
the exit, and its host then throws a complete answer away.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vp_queue import missions, missions_inbox
from vp_queue.contracts import limits
from vp_queue.errors import VpError
from vp_queue.hooks.block import block
from vp_queue.hooks.inbox import Shown, Told, confirm, tell
from vp_queue.hooks.memory import Memory
from vp_queue.hooks.protocol import Hook, parsed

# A pipe on which nothing comes is no host's: it has written its JSON before the hook has started.
STDIN_SECONDS: Final = 1.0
CONFIRM_SECONDS: Final = 1.0
CHUNK_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class Asked:
    """What the hook was configured to do."""

    reader: str
    source_session_id: str | None = None
    tell_session: bool = False


def run(asked: Asked, *, acknowledge_shown: bool = False, end: Callable[[], None] = lambda: os._exit(0)) -> None:
    """Print what is new in the form that whoever calls it needs: a host's JSON, or the plain block.

    Args:
        acknowledge_shown: acknowledge the plain block once it is printed. A host's is acknowledged by its next call.
        end: how a host's hook ends once it has remembered what it printed.
    """
    giving_up = threading.Timer(limits.HOOK_SECONDS, os._exit, (0,))
    giving_up.daemon = True
    giving_up.start()
    try:
        if missions_inbox.is_there():
            text = _given()
            hook = parsed(text) if text else None
            if hook is not None:
                _answer(asked, hook, end)
            else:
                _plain(asked, acknowledge_shown)
    except Exception as error:
        # On stderr, which hosts show to nobody while the status is 0.
        print(f"vp-queue: the inbox cannot be read now: {type(error).__name__}: {error}"[:300], file=sys.stderr)
    finally:
        giving_up.cancel()


def _answer(asked: Asked, hook: Hook, end: Callable[[], None]) -> None:
    if not hook.is_known:
        return
    with Memory(missions.ready(), asked.reader, hook.session_id) as memory:
        before = memory.recall()
        told = tell(
            asked.reader, hook, before, source_session_id=asked.source_session_id, tell_session=asked.tell_session
        )
        _confirm(asked.reader, told)
        deliver(told, memory, before)
        end()


def _confirm(reader: str, told: Told) -> None:
    """Acknowledge what is due; where the ledger is locked, at the next call."""
    if told.acknowledge is None:
        return
    confirming = threading.Thread(target=_quietly, args=(reader, told), daemon=True)
    confirming.start()
    confirming.join(CONFIRM_SECONDS)


def _quietly(reader: str, told: Told) -> None:
    with contextlib.suppress(VpError):
        confirm(reader, told)


def deliver(told: Told, memory: Memory, before: Shown) -> None:
    """Print, then remember: what was remembered, but not printed, would be lost."""
    if told.answer is not None:
        _print(json.dumps(told.answer))
    if told.shown != before:
        memory.remember(told.shown)


def _plain(asked: Asked, acknowledge_shown: bool) -> None:
    news = missions_inbox.news(asked.reader, 0, limits.CONTEXT_OUTCOMES, source_session_id=asked.source_session_id)
    if not news.count:
        return
    made = block(news, asked.reader)
    _print(made.text)
    if acknowledge_shown:
        until = news.oldest_seq - 1 if made.left_out and news.oldest_seq else news.until
        missions_inbox.acknowledge(asked.reader, until)


def _print(text: str) -> None:
    """To the last byte, before anything is remembered."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _given() -> str:
    """What stands on standard input; empty on a terminal, or where nobody writes."""
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return ""
    try:
        descriptor = sys.stdin.fileno()
    except OSError:  # a stand-in of a test, or of a program that calls this one
        return sys.stdin.read()
    if not select.select([descriptor], [], [], STDIN_SECONDS)[0]:
        return ""
    read = bytearray()
    while piece := os.read(descriptor, CHUNK_BYTES):
        read += piece
        if len(read) > limits.HOOK_INPUT_BYTES:
            raise ValueError(f"what stands on stdin is longer than {limits.HOOK_INPUT_BYTES} bytes")
    return read.decode("utf-8", "replace")
