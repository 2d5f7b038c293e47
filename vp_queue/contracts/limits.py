"""Every limit of the contract, in one place: a limit on everything (source: TigerBeetle's style)."""

from __future__ import annotations

from typing import Final

# Requests
OBJECTIVE_CHARS: Final = 100_000
GUIDANCE_CHARS: Final = 20_000
REASON_CHARS: Final = 2_000
NAME_CHARS: Final = 100  # vp_id, mission_type, reader
KEY_CHARS: Final = 200  # idempotency keys
SESSION_CHARS: Final = 200
METADATA_BYTES: Final = 16 * 1024
PRIORITY_RANGE: Final = (-100, 100)
MAX_ATTEMPTS: Final = 10
PATH_CHARS: Final = 4_096
PATH_COUNT: Final = 200
COMMAND_ARGUMENTS: Final = 1_000
COMMAND_BYTES: Final = 256 * 1024
FILES_COUNT: Final = 100
FILES_BYTES: Final = 1024 * 1024
GLOBS_COUNT: Final = 50
DURATION_SECONDS: Final = 30 * 86_400.0
COST_USD: Final = 100_000.0
TOKENS: Final = 10_000_000_000
TURNS: Final = 1_000_000

# Answers
LIST_PAGE: Final = 500
EVENTS_PAGE: Final = 1_000
EVENTS_OF_MISSION: Final = 500
SEARCH_CHARS: Final = 200  # a text to look for
SEARCHED_MISSIONS: Final = 50_000  # looked through for it, in one page
READ_FILES: Final = 200
READ_BYTES: Final = (256, 2_000_000)
WAIT_SECONDS: Final = 3_600.0
FEED_WAIT_SECONDS: Final = 60.0
CONTEXT_OUTCOMES: Final = 20  # of the inbox, as context for an agent
CONTEXT_BYTES: Final = 8_000  # hosts cut what a hook adds at about 10,000
CONTEXT_TEXT_CHARS: Final = 300  # an objective, a result
HOOK_INPUT_BYTES: Final = 8 * 1024 * 1024  # a host's JSON holds the prompt
HOOK_SECONDS: Final = 3.0  # then the hook lets the host go on without it
HOOK_SESSIONS: Final = 500  # remembered by what they were shown

# What a person who watches is shown, and does to many at once
CARD_RUNNING: Final = 20  # missions of one VP
NEEDS_LISTED: Final = 50
NEEDS_DAYS: Final = 7  # a failed mission is pointed out, unless it was seen or retried
OVERVIEW_EVENTS: Final = 100
SERIES_SECONDS: Final = 7 * 86_400
SERIES_STEPS: Final = 360
LAST_WORDS_CELLS: Final = 200  # each line, of two
LINEAGE_MISSIONS: Final = 50  # to either side
READERS_LISTED: Final = 100
ACTIONS_PAGE: Final = 200
ACTIONS_SCANNED: Final = 20_000  # events, in one page
BULK_MISSIONS: Final = 1_000  # changed in one call
BULK_MATCHED: Final = 100_000  # counted by one call
BULK_SECONDS: Final = 5.0
BULK_ERRORS: Final = 20
LOG_READ_BYTES: Final = 1024 * 1024

# What a running mission may leave behind
RESULT_CHARS: Final = 4_000
FAILURE_MESSAGE_CHARS: Final = 2_000
LOG_TAIL_BYTES: Final = 4_096
EVENT_DATA_BYTES: Final = 16 * 1024
PROGRESS_MESSAGE_CHARS: Final = 500
PROGRESS_EVENTS_PER_ATTEMPT: Final = 1_000
PROGRESS_INTERVAL_SECONDS: Final = 0.5
REPORT_LINE_BYTES: Final = 64 * 1024
ARTIFACT_COUNT: Final = 1_000
ARTIFACT_FILE_BYTES: Final = 256 * 1024 * 1024
ARTIFACT_TOTAL_BYTES: Final = 1024 * 1024 * 1024
ARTIFACT_WALK_ENTRIES: Final = 20_000  # directory entries looked at, artifacts or not
ARTIFACT_DEPTH: Final = 32
SKIPPED_LISTED: Final = 50
LOG_HEAD_BYTES: Final = 8 * 1024 * 1024
LOG_TAIL_KEPT_BYTES: Final = 8 * 1024 * 1024
OUTPUT_BYTES: Final = 16 * 1024 * 1024 * 1024  # past it the mission fails: output_limit

# What is kept of what has ended (besides [retention] in vp_queue.toml)
SETTLED_SECONDS: Final = 3_600.0  # nothing is pruned sooner after its end
PRUNED_KEY_DAYS: Final = 30
VP_EVENTS_KEPT: Final = 10_000
MEASURED_ENTRIES: Final = 1_000_000
TALLY_DAYS: Final = 92  # each on its own; what was counted before is kept as one sum

# Notifications
DELIVERIES_PENDING: Final = 10_000  # of one sink; the oldest are given up first
DELIVERIES_DEAD: Final = 1_000  # in all; the oldest go first
DELIVERY_ERROR_CHARS: Final = 500
DELIVERY_WAIT_SECONDS: Final = 3_600.0  # between two attempts, whatever Retry-After asks for
SINKS_AT_ONCE: Final = 8  # told at the same time; of one sink one event at a time

# Waiting for the ledger
WRITE_WAIT_SECONDS: Final = 8.0
CHECKED_BYTES: Final = 256 * 1024 * 1024  # a larger ledger is not checked for damage at each start
