"""What takes room, and making some: ``vp usage`` and ``vp prune``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from vp_queue import clock, missions, missions_space
from vp_queue.config import Settings
from vp_queue.config_retention import Retention
from vp_queue.contracts import Status
from vp_queue.keeper.retention import Scope, Sweep, Swept, policy_of
from vp_queue.ledger import database, retention, usage
from vp_queue.ledger.retention import Expendable, Reason
from vp_queue.worker.footprint import mission_footprint
from vp_queue.worker.workspace import relative_mission_path

# What is counted in one command; where that is not enough, the answer says that it is not everything.
COUNTING_SECONDS: Final = 5.0
COUNTED_ENTRIES: Final = 500_000
COUNTED_MISSIONS: Final = 2_000
NAMED_MISSIONS: Final = 1_000
NAMED_FOLDERS: Final = 20


@dataclass
class _Budget:
    """How much may still be counted."""

    deadline: float
    entries: int
    complete: bool = True

    def size(self, settings: Settings, vp_id: str, mission_id: str) -> int:
        """What a mission's workspace takes, as far as the budget goes."""
        if not self._left():
            self.complete = False
            return 0
        found = mission_footprint(settings.workspaces_root, vp_id, mission_id, self.entries, self._left)
        self.entries -= found.entries
        self.complete = self.complete and found.complete
        return found.bytes

    def _left(self) -> bool:
        return self.entries > 0 and clock.monotonic() < self.deadline


@dataclass
class _Sizes:
    """Workspaces whose size the ledger does not have: of live missions, and of those that have just ended."""

    live: dict[str, int] = field(default_factory=dict)
    ended: dict[str, dict[str, int]] = field(default_factory=dict)
    complete: bool = True

    def of_ended(self, vp_id: str) -> dict[str, int]:
        return self.ended.get(vp_id, {})


def _counted(settings: Settings, *, live: bool) -> _Sizes:
    """Count what was not measured yet, each workspace once, within limits; nothing is stored."""
    with database.read_transaction():
        unmeasured = retention.unmeasured(COUNTED_MISSIONS)
        running = usage.live_workspaces(COUNTED_MISSIONS) if live else []
    budget = _Budget(clock.monotonic() + COUNTING_SECONDS, COUNTED_ENTRIES)
    found = _Sizes()
    for vp_id, mission_id in running:
        found.live[vp_id] = found.live.get(vp_id, 0) + budget.size(settings, vp_id, mission_id)
    for mission_id, vp_id, attempts in unmeasured:
        size = budget.size(settings, vp_id, mission_id) if attempts else 0
        found.ended.setdefault(vp_id, {})[mission_id] = size
    found.complete = budget.complete and max(len(unmeasured), len(running)) < COUNTED_MISSIONS
    return found


# --- prune --------------------------------------------------------------------------------------


def prune(
    settings: Settings,
    *,
    dry_run: bool = False,
    vp_id: str | None = None,
    older_than: timedelta | None = None,
    progress: Callable[[int, int], None] = lambda missions, folders: None,
) -> dict[str, Any]:
    """Remove now what the keeper would remove, or say what that is.

    Args:
        dry_run: write nothing.
        vp_id: one VP's missions only; it may have been removed from the configuration.
        older_than: an age at which ended missions go whatever the settings say, failed ones too. Those within
            an hour of their end, and those whose end a reader has not acknowledged, stay even so.
        progress: is told now and then how many missions and workspaces have gone.

    Raises:
        UnknownVp: no such VP, nor any ended missions of it.
        LedgerBusy, LedgerUnavailable: some may have gone already; what is left goes another time.
    """
    missions.ready(settings)
    scope = Scope(vp_id, older_than)
    with database.read_transaction():
        vp_ids = retention.ended_vps()
    if vp_id is not None:
        if vp_id not in vp_ids:
            settings.profile(vp_id)
        vp_ids = [each for each in vp_ids if each == vp_id]
    if dry_run:
        sizes = _counted(settings, live=False)
        with database.read_transaction() as now:
            swept = Swept([each for vp in vp_ids for each in _going(settings, now, vp, scope, sizes)])
        complete = sizes.complete
    else:
        swept = _sweep(settings, scope, progress)
        complete = True
    return {
        "ok": True,
        "dry_run": dry_run,
        "missions_total": len(swept.missions),
        "bytes_total": sum(each.bytes or 0 for each in swept.missions),
        "complete": complete,
        "groups": _groups(settings, swept.missions, older_than),
        "missions": [_as_dict(each) for each in swept.missions[:NAMED_MISSIONS]],
        "removed": {"workspaces": swept.folders, "bytes": swept.freed_bytes},
        "held": _held(settings, vp_ids, older_than),
        "left": _left(settings),
    }


def _going(settings: Settings, now: datetime, vp_id: str, scope: Scope, sizes: _Sizes) -> list[Expendable]:
    policy = policy_of(settings, vp_id)
    return list(retention.expendable(now, vp_id, policy, older_than=scope.older_than, measured=sizes.of_ended(vp_id)))


def _sweep(settings: Settings, scope: Scope, progress: Callable[[int, int], None]) -> Swept:
    return Sweep(
        settings,
        scope,
        go_on=lambda: True,
        pause=time.sleep,
        progress=lambda swept: progress(len(swept.missions), swept.folders),
    ).run()


def _groups(settings: Settings, going: Sequence[Expendable], older_than: timedelta | None) -> list[dict[str, Any]]:
    """How many missions and bytes go, by VP and reason."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for each in going:
        why = _why(policy_of(settings, each.vp_id), each, older_than)
        new: dict[str, Any] = {"vp_id": each.vp_id, "reason": str(each.reason), "why": why, "missions": 0, "bytes": 0}
        group = found.setdefault((each.vp_id, why), new)
        group["missions"] += 1
        group["bytes"] += each.bytes or 0
    return list(found.values())


def _why(policy: Retention, mission: Expendable, older_than: timedelta | None) -> str:
    if mission.reason is Reason.COUNT:
        return f"more than {policy.max_missions:,} missions"
    if mission.reason is Reason.BYTES:
        return f"workspaces over {policy.max_bytes / 1024**3:.3g} GiB"
    failed = mission.status == Status.FAILED
    age = policy.max_age(failed)
    if older_than is not None and (age is None or older_than < age):
        return "older than asked for"
    days = age.total_seconds() / 86_400 if age else 0
    return f"{'failed, ' if failed else ''}over {days:g} days old"


def _as_dict(mission: Expendable) -> dict[str, Any]:
    return {
        "mission_id": mission.mission_id,
        "vp_id": mission.vp_id,
        "status": str(mission.status),
        "finished_at": clock.as_text(mission.finished_at),
        "bytes": mission.bytes,
        "reason": str(mission.reason),
    }


def _held(settings: Settings, vp_ids: Sequence[str], older_than: timedelta | None) -> dict[str, Any]:
    """What stays although it is old enough, and for whom."""
    with database.read_transaction() as now:
        count = sum(retention.held(now, vp_id, policy_of(settings, vp_id), older_than) for vp_id in vp_ids)
        return {"missions": count, "reader": retention.last_reader() if count else None}


def _left(settings: Settings) -> dict[str, Any]:
    """Folders of pruned missions that are still there."""
    with database.read_transaction():
        count, failed = retention.folders_left(NAMED_FOLDERS)
    return {
        "workspaces": count,
        "stuck": [
            {
                "path": str(settings.workspaces_root / relative_mission_path(row.vp_id, row.mission_id)),
                "problem": row.problem,
                "retry_at": clock.as_text(row.retry_at),
            }
            for row in failed
        ],
    }


# --- usage --------------------------------------------------------------------------------------


def usage_report(settings: Settings) -> dict[str, Any]:
    """Missions and workspaces of each VP, the ledger, the logs, the disk, and what retention would remove now.

    Sizes of ended workspaces come from the ledger; those of live missions, and of what ended since the keeper
    looked last, are counted here within limits. ``complete`` says whether that was everything.

    Raises:
        LedgerBusy, LedgerUnavailable: it cannot be read.
    """
    missions.ready(settings)
    sizes = _counted(settings, live=True)
    with database.read_transaction() as now:
        live = usage.live_missions()
        vp_ids = dict.fromkeys((*settings.vps, *live, *retention.ended_vps()))
        vps = [_vp_usage(settings, now, vp_id, live.get(vp_id, 0), sizes) for vp_id in vp_ids]
        pages, rows = usage.pages(), usage.huey_rows()
    path = settings.database_path
    return {
        "ok": True,
        "complete": sizes.complete,
        "vps": vps,
        "ledger": {
            "path": str(path),
            "bytes": pages.bytes,
            "free_bytes": pages.free_bytes,
            "wal_bytes": _size_of(Path(f"{path}-wal")),
        },
        "huey": rows,
        "logs": {"path": str(settings.logs_dir), "bytes": sum(map(_size_of, settings.logs_dir.glob("*")))},
        "workspaces_root": str(settings.workspaces_root),
        "disks": [space.as_dict() for space in missions_space.measure(settings)],
        "left": _left(settings),
    }


def _vp_usage(settings: Settings, now: datetime, vp_id: str, live: int, sizes: _Sizes) -> dict[str, Any]:
    ended, measured = retention.totals(vp_id), sizes.of_ended(vp_id)
    going = _going(settings, now, vp_id, Scope(), sizes)
    return {
        "vp_id": vp_id,
        "configured": vp_id in settings.vps,
        "live": {"missions": live, "bytes": sizes.live.get(vp_id, 0)},
        "ended": {"missions": ended.missions, "bytes": ended.bytes + sum(measured.values())},
        "prunable": {"missions": len(going), "bytes": sum(each.bytes or 0 for each in going)},
    }


def _size_of(path: Path) -> int:
    try:
        return path.lstat().st_blocks * 512
    except OSError:
        return 0
