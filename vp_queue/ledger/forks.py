"""Makes ``os.fork`` safe while the ledger is open.

SQLite keeps its table of file locks in process memory and a forked child inherits it: the child believes
that it holds its parent's locks and never asks the operating system for them. When the parent then exits,
it removes the write-ahead log under the child, and missions the child acknowledged are lost (seen: 2 of 6).

So nothing is open at the instant of a fork: before it, new transactions are kept waiting, running ones are
waited for, and every connection of the process is closed; afterwards each side opens its own, lazily.
``subprocess`` does not come through here: it forks without running Python code.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final

import cysqlite

from vp_queue.errors import LedgerUnavailable

logger = logging.getLogger("vp_queue.ledger")

# A transaction is short, or waits for the write lock for at most limits.WRITE_WAIT_SECONDS.
PATIENCE_SECONDS: Final = 12.0


class _Held:
    """A connection of one thread, findable while the thread lives; cysqlite's own cannot be weakly referenced."""

    def __init__(self, connection: cysqlite.Connection) -> None:
        self.connection = connection


class _State:
    """What this process has open. A child makes itself a new one: locks may be held by threads it has not."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.held: weakref.WeakSet[_Held] = weakref.WeakSet()
        self.mine = threading.local()  # dies with its thread, and what it holds with it
        self.inside: dict[int, int] = {}  # thread → depth of open passages
        self.forks_under_way = 0
        self.generation = 0
        self.could_not_close = False
        self.unusable = False


_state = _State()
# Connections that could not be closed before a fork must not be closed in the child either.
_inherited: list[Any] = []
_renewals: list[Callable[[], None]] = []
_resets: list[Callable[[], None]] = []


def connect(path: str, **settings: Any) -> cysqlite.Connection:
    """Open a connection that a fork can find and close; for use by this thread, inside a :func:`passage`."""
    connection = cysqlite.Connection(path, **settings)
    with _state.changed:
        still_open = [held for held in getattr(_state.mine, "held", ()) if not held.connection.is_closed()]
        _state.mine.held = [*still_open, _Held(connection)]
        _state.held.add(_state.mine.held[-1])
    return connection


def generation() -> int:
    """Rises with every fork: a connection of an earlier generation is closed."""
    return _state.generation


@contextlib.contextmanager
def passage() -> Iterator[None]:
    """Use connections only inside: a fork waits until nobody is. Nests.

    Raises:
        LedgerUnavailable: this process was forked inside a transaction.
    """
    if _state.unusable:
        raise LedgerUnavailable(
            "This process was forked in the midst of a ledger transaction, so it cannot use the ledger safely. "
            "Fork when no call is under way, or start the process by spawn."
        )
    state, me = _state, threading.get_ident()
    with state.changed:
        if me not in state.inside:
            state.changed.wait_for(lambda: not state.forks_under_way)
        state.inside[me] = state.inside.get(me, 0) + 1
    try:
        yield
    finally:
        if state is _state:  # else this is a child that was forked inside
            with state.changed:
                state.inside[me] -= 1
                if not state.inside[me]:
                    del state.inside[me]
                    state.changed.notify_all()


def after_fork(*, in_parent: Callable[[], None], in_child: Callable[[], None]) -> None:
    """Register what to do afterwards with handles on connections that are closed by then."""
    _renewals.append(in_parent)
    _resets.append(in_child)


def _before() -> None:
    me = threading.get_ident()
    with _state.changed:
        _state.forks_under_way += 1
        others_left = _state.changed.wait_for(lambda: not _state.inside.keys() - {me}, PATIENCE_SECONDS)
        if not others_left or me in _state.inside:
            logger.error("forking inside a ledger transaction: the child will refuse to use the ledger")
            _state.could_not_close = True
            return
        _state.could_not_close = False
        for held in list(_state.held):
            held.connection.close()
        _state.held.clear()
        _state.generation += 1


def _in_parent() -> None:
    if not _state.could_not_close:
        for renew in _renewals:
            renew()
    with _state.changed:
        _state.forks_under_way -= 1
        _state.changed.notify_all()


def _in_child() -> None:
    global _state
    before, _state = _state, _State()
    _state.generation = before.generation
    if before.could_not_close:
        _state.unusable = True
        _inherited.append(before)  # closing them here would drop the parent's locks
    for reset in _resets:
        reset()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
