"""What the shell can complete a value with. Only looks, quickly, and is silent where there is nothing to see."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class

OFFERED_MISSIONS: Final = 50
# What is completed ends up on the command line, and a file name may have been made for that: $(…), quotes.
_HARMLESS: Final = re.compile(r"[\w./@%+=:,-]+", re.ASCII)

Found = Iterable[tuple[str, str]]  # value, help
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


class Bash(BashComplete):
    """click's, and ``--status=com`` too, of which bash makes three words."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one at the cursor, and that one."""
        args, incomplete = super().get_completion_args()
        joined = [
            arg for before, arg in zip(["", *args], args, strict=False) if not (arg == "=" and before[:2] == "--")
        ]
        return joined, "" if incomplete == "=" and args and args[-1].startswith("--") else incomplete


def prepare() -> None:
    """Let click use these when a shell asks."""
    add_completion_class(Bash)


def _completer(find: Callable[[click.Context], Found]) -> Complete:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from vp_queue.cli import output

        try:
            return [
                CompletionItem(value, help=output.line(about, 60) or None)
                for value, about in find(ctx)
                if value.startswith(incomplete) and _HARMLESS.fullmatch(value)
            ]
        except Exception:
            return []  # a broken configuration is told when the command is run, not into a half-typed line

    return complete


def _vps(_: click.Context) -> Found:
    from vp_queue import config

    return [(vp_id, profile.title) for vp_id, profile in config.load().vps.items()]


def missions(*statuses: str) -> Complete:
    """The ids of the newest missions, in these statuses if any are given."""

    def find(_: click.Context) -> Found:
        from vp_queue.contracts import Status
        from vp_queue.ledger import database, lists

        if not _ledger_is_there():
            return []
        wanted = lists.Filter(statuses=[Status(status) for status in statuses] or None)
        with database.read_transaction():
            rows = lists.missions_page(wanted, OFFERED_MISSIONS).rows
        return [(row.id, f"{row.status} {row.vp_id}: {row.objective}") for row in rows]

    return _completer(find)


def _artifacts(ctx: click.Context) -> Found:
    """Those of the mission that stands on the line already."""
    from vp_queue import missions_artifacts

    mission_id = ctx.params.get("mission_id")
    if not mission_id or not _ledger_is_there():
        return []
    return [(path, "") for path in missions_artifacts.artifact_paths(mission_id)]


def _mission_types(_: click.Context) -> Found:
    return [("task", "what the VP is for"), ("command", "a program of yours, in constraints.command")]


def _tools(_: click.Context) -> Found:
    from vp_queue import tools

    return [(name, definition.description) for name, definition in tools.DEFINITIONS.items()]


vps: Final = _completer(_vps)
artifacts: Final = _completer(_artifacts)
mission_types: Final = _completer(_mission_types)
tool_names: Final = _completer(_tools)


def _ledger_is_there() -> bool:
    """Open the ledger if that makes and changes nothing: it exists, and needs no migration."""
    from vp_queue import config
    from vp_queue.ledger import database, schema, trouble

    settings = config.load()
    path = settings.database_path
    if not path.is_file() or path.stat().st_size == 0 or not settings.home.is_dir():
        return False
    ledger = database.Ledger(path)
    with trouble.translated_errors(path):
        try:
            if schema.pending(ledger.db, path):
                return False
        finally:
            ledger.db.close()
    database.open_ledger(path)
    return True
