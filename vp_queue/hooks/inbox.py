"""What a hook tells of the inbox, and when that counts as acknowledged.

Acknowledging has two phases. A call shows and remembers what it has shown (``memory``); the next call of the same
session acknowledges that, for the host then has gone on with it. Whatever is killed before it remembered shows the same
again. A hook speaks of outcomes; that a mission was dispatched, started or got on is passed over.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from vp_queue import missions_inbox
from vp_queue.contracts import limits
from vp_queue.errors import ValidationError
from vp_queue.hooks import protocol
from vp_queue.hooks.block import block
from vp_queue.hooks.protocol import Hook


@dataclass(frozen=True)
class Shown:
    """What a session of a host knows of a reader's inbox.

    Attributes:
        seq: everything up to here was shown, or left out and said so.
        acknowledge: everything up to here was shown; what was left out stays unread.
    """

    seq: int = 0
    acknowledge: int = 0


@dataclass(frozen=True)
class Told:
    """A hook's answer; ``answer`` is None where there is nothing to say.

    Attributes:
        answer: for the host.
        shown: what the session knows once it has been given the answer.
        acknowledge: what it was shown before, to acknowledge now; None: nothing is due.
    """

    answer: dict[str, Any] | None
    shown: Shown
    acknowledge: int | None


def tell(
    reader: str, hook: Hook, shown: Shown, *, source_session_id: str | None = None, tell_session: bool = False
) -> Told:
    """What a hook answers. Reads only; :func:`confirm` what it says is due.

    A stop is held up only for outcomes of missions that this very session dispatched (their ``source_session_id`` is
    the host's ``session_id``), and never while the agent already goes on because of a hook.

    Args:
        shown: what this session was shown before.
        source_session_id: only outcomes of this session's missions.
        tell_session: at a start, tell the agent its session's id.

    Raises:
        LedgerBusy, LedgerUnavailable, ConfigurationError: nothing can be told.
    """
    news = missions_inbox.news(reader, shown.seq, limits.CONTEXT_OUTCOMES, source_session_id=source_session_id)
    due = shown.acknowledge if shown.acknowledge > news.acknowledged else None
    texts = []
    after = shown
    if _wanted(hook, news):
        made = block(news, reader)
        after = _after(shown, news, made.left_out)
        texts.append(made.text)
    elif not news.count:
        after = _after(shown, news, 0)  # nothing but what is passed over
    if tell_session and hook.event == protocol.SESSION_START and hook.session_id:
        texts.append(
            f'[vp-queue] This session: vp_dispatch_mission(source_session_id="{hook.session_id}", …), so that what '
            "its missions come to is told here."
        )
    return Told(hook.answer("\n".join(texts)) if texts else None, after, due)


def _wanted(hook: Hook, news: missions_inbox.News) -> bool:
    if not news.count:
        return False
    if hook.event == protocol.STOP:
        mine = any(mission.source_session_id == hook.session_id for _, mission in news.outcomes)
        return mine and bool(hook.session_id) and not hook.stop_hook_active
    return hook.event in protocol.ADDS_CONTEXT


def _after(shown: Shown, news: missions_inbox.News, left_out: int) -> Shown:
    # What an earlier block left out holds the acknowledgement back until somebody has read it.
    if max(news.acknowledged, shown.acknowledge) < shown.seq:
        return Shown(news.until, shown.acknowledge)
    return Shown(news.until, news.oldest_seq - 1 if left_out and news.oldest_seq else news.until)


def confirm(reader: str, told: Told) -> None:
    """Acknowledge what the session was shown by an earlier answer.

    Raises:
        LedgerBusy, LedgerUnavailable: it is due again at the next call.
    """
    if told.acknowledge is None:
        return
    with contextlib.suppress(ValidationError):  # of a ledger that is not this one any more
        missions_inbox.acknowledge(reader, told.acknowledge)
