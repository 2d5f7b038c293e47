"""``[retention]``: how long what has ended is kept. One table for all VPs, one in each VP's own that overrides keys.

The defaults weigh two complaints against each other: full disks (221 workspaces with 30 GB in them) and
results that were gone when somebody asked. A month is longer than anybody waits for a result; a failure is
looked at later than a success; and since a month of large workspaces fills a disk all the same, what a VP may
keep in bytes is bounded too. The count is only a stop for ledgers that nobody looks after.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from vp_queue.config_blame import Blame, judged, shown
from vp_queue.config_lines import KeyPath

KEY: Final = "retention"
# What a reader of the inbox has not acknowledged is kept so many times longer, and no more: a reader
# that died must not fill the disk.
UNACKNOWLEDGED_TIMES: Final = 2

Days = Annotated[float, Field(ge=0, le=36_500)]


class Retention(BaseModel):
    """What is kept of a VP's ended missions; in every key 0 means without limit.

    Attributes:
        max_age_days: of completed, cancelled and expired missions, since their end.
        failed_max_age_days: of failed missions; never less than ``max_age_days``.
        max_missions: ended missions of the VP; the oldest go first.
        max_bytes: what their workspaces take on disk; the oldest go first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    max_age_days: Days = 30.0
    failed_max_age_days: Days = 90.0
    max_missions: int = Field(default=100_000, ge=0, le=100_000_000)
    max_bytes: int = Field(default=10 * 1024**3, ge=0, le=2**60)

    @field_validator("failed_max_age_days")
    @classmethod
    def _not_below_max_age(cls, value: float, info: ValidationInfo) -> float:
        least = info.data.get("max_age_days", 0.0)
        if (value or math.inf) < (least or math.inf):
            wanted = f"{least:g} or more, or 0" if least else "0"
            raise ValueError(f"failed missions are kept at least as long as others: give {wanted}")
        return value

    def max_age(self, failed: bool) -> timedelta | None:
        """How old an ended mission may become, or None: any age."""
        days = self.failed_max_age_days if failed else self.max_age_days
        return timedelta(days=days) if days else None

    def unacknowledged_max_age(self, failed: bool) -> timedelta:
        """How old one may become whose end a reader has not acknowledged; where age has no limit, by its default."""
        return UNACKNOWLEDGED_TIMES * (self.max_age(failed) or DEFAULT.max_age(failed) or timedelta.max)


DEFAULT: Final = Retention()


def retention_of(table: object, inherited: Retention, blame: Blame, at: KeyPath) -> Retention:
    """The retention that a table states, on top of what it inherits.

    Args:
        table: what stands in the file; keys it does not name are inherited.
        inherited: from ``[retention]``, or the defaults.
        blame: makes the error for a key path.
        at: where the table stands.

    Raises:
        ConfigurationError: an unknown key, a value out of range, or failed missions kept shorter than others.
    """
    if not isinstance(table, Mapping):
        raise blame(at, f"give a table, not {shown(table)}")
    values = {**inherited.model_dump(), **table}
    if "failed_max_age_days" not in table and isinstance(values["max_age_days"], int | float):
        # Whoever only keeps everything longer means the failed ones too.
        given, least = inherited.failed_max_age_days, values["max_age_days"]
        values["failed_max_age_days"] = max(given, least) if given and least else 0.0
    return judged(Retention, values, blame, at)
