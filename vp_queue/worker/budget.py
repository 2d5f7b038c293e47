"""Whether what a program reports it used is more than its mission may use.

Duration is the worker's own clock; cost, tokens and turns are only known from reports, so a program that
reports nothing is held by the time limit alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def overspent(budget: Mapping[str, Any], usage: Mapping[str, Any]) -> str | None:
    """Which limit was passed, in words, or None.

    Args:
        budget: ``max_cost_usd``, ``max_tokens`` and ``max_turns``, where given.
        usage: the totals reported so far; tokens count in both directions.
    """
    tokens = (usage.get("input_tokens") or 0) + (usage.get("output_tokens") or 0)
    used = {
        "max_cost_usd": (usage.get("cost_usd") or 0, "US dollars"),
        "max_tokens": (tokens, "tokens"),
        "max_turns": (usage.get("turns") or 0, "turns"),
    }
    for limit, (amount, unit) in used.items():
        if limit in budget and amount > budget[limit]:
            return f"{amount:g} {unit} used, {limit} is {budget[limit]:g}"
    return None
