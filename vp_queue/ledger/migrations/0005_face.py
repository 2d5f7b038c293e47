"""What the operator's face needs: counts that outlive missions, what a person has seen, lineage, traces."""

from typing import Any

SQLITE = (
    """CREATE TABLE "vp_tally" (
    "vp_id" TEXT NOT NULL,
    "day" INTEGER NOT NULL,
    "measure" TEXT NOT NULL,
    "value" REAL NOT NULL,
    PRIMARY KEY ("vp_id", "day", "measure")
) WITHOUT ROWID""",
    """CREATE TABLE "vp_seen" (
    "mission_id" TEXT NOT NULL PRIMARY KEY,
    "seen_at" INTEGER NOT NULL,
    "seen_by" TEXT NOT NULL,
    FOREIGN KEY ("mission_id") REFERENCES "vp_mission" ("id") ON DELETE CASCADE
)""",
    'ALTER TABLE "vp_mission" ADD COLUMN "trace_context" TEXT',
    """CREATE INDEX "vp_mission_retry_of" ON "vp_mission" ("retry_of") WHERE retry_of IS NOT NULL""",
)


_BOUNDS = ("0.1", "0.5", "1", "5", "15", "60", "300", "900", "1800", "3600", "7200", "14400", "28800", "86400")
_DAY_US = 86400000000


def _tallied(vp_id: str, at: str, measure: str, value: str, rows: str) -> str:
    return (
        'INSERT INTO "vp_tally" ("vp_id", "day", "measure", "value") '  # noqa: S608  of constants
        f"SELECT {vp_id}, {at} / {_DAY_US}, {measure}, {value} FROM {rows} GROUP BY 1, 2, 3"
    )


def _durations(kind: str, at: str, since: str, rows: str) -> tuple[str, str]:
    seconds = f"MAX(0, {at} - {since}) / 1000000.0"
    bound = " ".join(f"WHEN {seconds} <= {bound} THEN '{bound}'" for bound in _BOUNDS)
    return (
        _tallied("m.vp_id", at, f"'{kind}.sum'", f"SUM({seconds})", rows),
        _tallied("m.vp_id", at, f"'{kind}.upto:' || CASE {bound} ELSE 'inf' END", "COUNT(*)", rows),
    )


_ATTEMPTS = '"vp_attempt" AS a JOIN "vp_mission" AS m ON m.id = a.mission_id'
_ENDED = f"{_ATTEMPTS} WHERE a.ended_at IS NOT NULL"
# A text that is no JSON any more is passed over: one damaged row must not keep the ledger from its new schema.
_FAILURE = "CASE WHEN json_valid(a.failure) THEN json_extract(a.failure, '$.code') END"
_LOST = f"{_ENDED} AND a.outcome = 'lost'"
_AGAIN = (
    "EXISTS (SELECT 1 FROM vp_event AS e WHERE e.mission_id = a.mission_id AND e.attempt = a.number "
    "AND e.type = 'mission.retrying')"
)

# What was done before is counted from the rows that are still there. Of waits, those of first attempts: when a
# mission that was queued again became due was not kept.
TALLIES = (
    _tallied("vp_id", "at", "'event:' || type", "COUNT(*)", '"vp_event"'),
    _tallied("m.vp_id", "a.ended_at", "'attempt:' || a.outcome", "COUNT(*)", _ENDED),
    _tallied("m.vp_id", "a.ended_at", f"'failure:' || {_FAILURE}", "COUNT(*)", f"{_ENDED} AND {_FAILURE} IS NOT NULL"),
    _tallied(
        "m.vp_id",
        "a.ended_at",
        f"CASE WHEN {_AGAIN} THEN 'rescue:requeued' ELSE 'rescue:ended' END",
        "COUNT(*)",
        _LOST,
    ),
    *(
        _tallied("m.vp_id", "a.ended_at", f"'{name}'", f"SUM({used})", f"{_ENDED} AND {used} > 0")
        for name in ("input_tokens", "output_tokens", "cost_usd")
        for used in [f"CASE WHEN json_valid(a.usage) THEN json_extract(a.usage, '$.{name}') END"]
    ),
    *_durations("run", "a.ended_at", "a.started_at", _ENDED),
    *_durations(
        "wait", "a.started_at", "MAX(m.created_at, COALESCE(m.not_before, 0))", f"{_ATTEMPTS} WHERE a.number = 1"
    ),
)


def up(migrator: Any, db: Any) -> None:
    """Add the tables, the column and the index, and count what there is."""
    for statement in (*SQLITE, *TALLIES):
        db.execute_sql(statement)
