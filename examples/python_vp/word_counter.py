"""A callable for executor ``python``: counts words, and stops when it is told to.

[vp."vp.counter.primary"]
description = "Counts the words of the objective."
executor = "python"
[vp."vp.counter.primary".options]
callable = "word_counter:count"
path = ["/path/to/examples/python_vp"]
arguments = {most = 10}
"""

from __future__ import annotations

from collections import Counter

from vp_queue.executors.context import MissionContext, MissionFailed


def count(mission: MissionContext) -> str:
    """Write the words and how often they come to ``words.txt``, the most frequent first."""
    words = mission.objective.lower().split()
    if not words:
        raise MissionFailed("refused", "The objective has no words to count.")
    counted: Counter[str] = Counter()
    for number, word in enumerate(words, 1):
        if mission.cancelled.is_set():  # cancelled, out of time, or the worker is being stopped
            break
        counted[word] += 1
        mission.report(fraction=number / len(words), message=f"{number} of {len(words)}")
    most = counted.most_common(mission.arguments.get("most"))
    lines = [f"{times} {word}" for word, times in most]
    (mission.work_products / "words.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"{len(words)} words, {len(counted)} different; see words.txt."
