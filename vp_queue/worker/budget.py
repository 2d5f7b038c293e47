"""Whether what a program reports it used is more than its mission may use.

Duration is the worker's own clock; cost, tokens and turns are only known from reports, so a program that
reports nothing is held by the time limit alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def overspent(budget: Mapping[str, Any], *usages: Mapping[str, Any]) -> str | None:
    """Which limit was passed, in words, or None.

    Args:
        budget: ``max_cost_usd``, ``max_tokens`` and ``max_turns``, where given.
        usages: totals reported by the mission's attempts; tokens count in both directions.
    """

    def used(*keys: str) -> Any:
        return sum(usage.get(key) or 0 for usage in usages for key in keys)

    amounts = {
        "max_cost_usd": (used("cost_usd"), "US dollars"),
        "max_tokens": (used("input_tokens", "output_tokens"), "tokens"),
        "max_turns": (used("turns"), "turns"),
    }
    for limit, (amount, unit) in amounts.items():
        if limit in budget and amount > budget[limit]:
            return f"{amount:g} {unit} used, {limit} is {budget[limit]:g}"
    return None
