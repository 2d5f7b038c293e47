"""Mutants of retention and of the watermark; and deaths at the boundaries of its phases."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.mutants import mutant


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@mutant
def follows_links() -> None:
    """A remover that looks where a link leads, and goes there."""
    import contextlib
    import stat
    from collections.abc import Iterator

    from vp_queue.worker import removal

    def is_folder(self: Any, folder: int, name: str) -> bool:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder).st_mode)

    @contextlib.contextmanager
    def opened(self: Any, parent: int, name: str) -> Iterator[int]:
        found = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=parent)
        try:
            yield found
        finally:
            os.close(found)

    removal._Removal._is_folder = is_folder  # type: ignore[method-assign]
    removal._Removal._opened = opened  # type: ignore[method-assign,assignment]


@mutant
def no_note_of_the_folder() -> None:
    """Rows are deleted without writing down which folder is to go (the two phases removed)."""
    from vp_queue.ledger import retention

    class Forgetful:
        def insert(self, **values: Any) -> int:
            return 0

    retention._INSERT_FOLDER = Forgetful()  # type: ignore[assignment,misc]


@mutant
def prunes_the_unacknowledged() -> None:
    """No reader is asked."""
    from vp_queue.ledger import retention

    bounds = retention._bounds
    retention._bounds = lambda now, policy: {**bounds(now, policy), "acknowledged": None}


@mutant
def prunes_the_unsettled() -> None:
    """No hour of grace after the end."""
    from datetime import timedelta

    from vp_queue.ledger import retention

    retention.SETTLED = timedelta(0)  # type: ignore[misc]


@mutant
def no_watermark() -> None:
    """Missions are taken however full the disk is."""
    from vp_queue import missions_space

    missions_space.check = lambda settings: None


@mutant
def forgets_pruned_keys() -> None:
    """A key goes with its mission."""
    from vp_queue.ledger import retention
    from vp_queue.ledger.models import IdempotencyKey

    class Deleting:
        def run(self, *, vp_id: str, key: str, **_: Any) -> None:
            IdempotencyKey.delete().where(IdempotencyKey.vp_id == vp_id, IdempotencyKey.key == key).execute()

    retention._KEY_PRUNED = Deleting()  # type: ignore[assignment,misc]


@mutant
def believes_the_clock() -> None:
    """A keeper that never compares the wall clock with anything."""
    from vp_queue.keeper import retention

    class Credulous:
        def is_believed(self) -> bool:
            return True

    retention.WallClock = Credulous  # type: ignore[assignment,misc]


@mutant
def never_pauses() -> None:
    """One transaction after the other, each as long as there are missions."""
    from vp_queue.keeper import retention

    retention.PAUSE_SECONDS = 0.0  # type: ignore[misc]
    retention.TRANSACTION_SECONDS = 3_600.0  # type: ignore[misc]
    retention.MISSIONS_AT_ONCE = 1_000_000  # type: ignore[misc]
    retention.PAGE = 1_000_000  # type: ignore[misc]


# --- deaths -------------------------------------------------------------------------------------


@mutant
def dies_before_the_rows_are_deleted() -> None:
    """Inside the first transaction, before its commit."""
    from vp_queue.keeper import retention

    retention.storage.forget = lambda *_: _die()


@mutant
def dies_before_a_folder_is_removed() -> None:
    """After the rows are gone, before the first folder is touched."""
    from vp_queue.keeper import retention

    retention.remove_mission_folder = lambda *_: _die()  # type: ignore[assignment]


@mutant
def dies_while_a_folder_is_removed() -> None:
    """In the midst of the first folder."""
    from vp_queue.worker import removal

    def lift(self: Any, folder: int, name: str, top: int) -> None:
        inner(self, folder, name, top)
        _die()

    inner = removal._Removal._lift
    removal._Removal._lift = lift  # type: ignore[method-assign]


@mutant
def dies_before_the_note_is_deleted() -> None:
    """After the folders have gone."""
    from vp_queue.ledger import retention

    retention.folder_gone = lambda mission_id: _die()
