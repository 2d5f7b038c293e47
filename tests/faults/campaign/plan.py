"""What a campaign will do, drawn from its seed: the missions with their fates, and the faults."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

VPS: Final = ("vp.general.primary", "vp.coder.primary", "vp.extra")
DISPATCHERS: Final = 3
MISSIONS_PER_SECOND: Final = 2.0
FAULTS_PER_SECOND: Final = 0.9
FIRST_FAULT_SECONDS: Final = 0.5
LAST_FAULT_SECONDS: Final = 1.0

# behaviour of the program: weight, and the range of seconds it takes
BEHAVIOURS: Final[dict[str, tuple[int, tuple[float, float]]]] = {
    "quick": (6, (0.0, 0.0)),
    "slow": (6, (0.5, 4.0)),
    "failing": (4, (0.0, 0.5)),
    "printing": (3, (0.2, 1.0)),
    "reporting": (2, (0.3, 1.5)),
    "making": (4, (0.1, 0.5)),  # artifacts
    "stubborn": (5, (0.5, 4.0)),  # ignores TERM
    "daemon": (4, (0.1, 0.6)),  # leaves a process in a session of its own
}

# (fault, target): weight
FAULTS: Final[dict[tuple[str, str], int]] = {
    ("kill", "consumer"): 14,
    ("term", "consumer"): 6,
    ("stop", "consumer"): 9,
    ("kill", "launcher"): 6,
    ("term", "launcher"): 2,
    ("stop", "launcher"): 3,
    ("kill", "program"): 6,
    ("term", "program"): 3,
    ("stop", "program"): 4,
    ("kill", "keeper"): 7,
    ("term", "keeper"): 2,
    ("stop", "keeper"): 5,
    ("kill", "supervisord"): 3,
    ("term", "supervisord"): 1,
    ("stop", "supervisord"): 1,
    ("kill", "client"): 14,
    ("term", "client"): 2,
    ("stop", "client"): 5,
    ("lock", "ledger"): 4,
    ("pause", "vp"): 3,
    ("restart", "vp"): 2,
    ("drain", "vp"): 2,
    ("down", "all"): 1,
}


@dataclass(frozen=True)
class MissionSpec:
    """One dispatch and what is to become of it. Times are seconds from the campaign's start, or from ``at``."""

    name: str  # unique; also its objective
    at: float
    vp_id: str
    behaviour: str
    seconds: float
    max_attempts: int
    priority: int
    keyed: bool
    not_before_after: float | None
    expires_after: float | None
    cancel_after: float | None  # after its acknowledgement
    retry: bool  # if it fails, it is retried once


@dataclass(frozen=True)
class FaultSpec:
    """One fault: ``pick`` in [0, 1) chooses among the candidates there are; ``seconds`` is how long it lasts."""

    at: float
    kind: str
    target: str
    pick: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """All of a campaign that its seed decides."""

    seed: int
    seconds: float
    lease_seconds: float
    direct: bool  # consumers started by the campaign, two for each VP, instead of by supervisord
    missions: tuple[tuple[MissionSpec, ...], ...]  # by dispatcher
    faults: tuple[FaultSpec, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Plan:
        missions = tuple(tuple(MissionSpec(**spec) for spec in each) for each in stored["missions"])
        faults = tuple(FaultSpec(**spec) for spec in stored["faults"])
        return cls(**{**stored, "missions": missions, "faults": faults})


def make(
    seed: int,
    seconds: float,
    *,
    lease_seconds: float | None = None,
    direct: bool = False,
    only: Sequence[str] = (),
    faults_per_second: float = FAULTS_PER_SECOND,
) -> Plan:
    """The plan of a seed.

    Args:
        seconds: how long faults are injected.
        lease_seconds: None: drawn too.
        direct: without supervisord; else one plan in four is.
        only: ``kind:target`` of the faults to choose from; none: all.
    """
    draw = random.Random(seed)
    drawn_lease, drawn_direct = draw.choice((2.0, 3.0, 3.0, 6.0)), draw.random() < 0.25
    lease_seconds = lease_seconds or drawn_lease
    weights = {pair: weight for pair, weight in FAULTS.items() if not only or ":".join(pair) in only}
    missions = tuple(tuple(_missions(draw, number, seconds)) for number in range(DISPATCHERS))
    faults = []
    at = FIRST_FAULT_SECONDS
    while at < seconds:
        fault = _fault(draw, at, lease_seconds, weights)
        # All is undone soon after the end, so that what is left can settle.
        faults.append(replace(fault, seconds=min(fault.seconds, max(LAST_FAULT_SECONDS, seconds - at))))
        at += draw.expovariate(faults_per_second)
    return Plan(seed, seconds, lease_seconds, direct or drawn_direct, missions, tuple(faults))


def _missions(draw: random.Random, dispatcher: int, seconds: float) -> list[MissionSpec]:
    specs: list[MissionSpec] = []
    at = draw.random()
    while at < seconds:
        specs.append(_mission(draw, f"d{dispatcher}-{len(specs)}", at))
        at += draw.expovariate(MISSIONS_PER_SECOND / DISPATCHERS)
    return specs


def _mission(draw: random.Random, name: str, at: float) -> MissionSpec:
    behaviour = draw.choices(list(BEHAVIOURS), [weight for weight, _ in BEHAVIOURS.values()])[0]
    fate = draw.random()
    return MissionSpec(
        name=name,
        at=round(at, 3),
        vp_id=draw.choice(VPS),
        behaviour=behaviour,
        seconds=round(draw.uniform(*BEHAVIOURS[behaviour][1]), 3),
        max_attempts=draw.choice((1, 2, 3, 3)),
        priority=draw.choice((-5, 0, 0, 0, 5)),
        keyed=draw.random() < 0.7,
        not_before_after=round(draw.uniform(0.2, 4.0), 3) if fate < 0.1 else None,
        expires_after=round(draw.uniform(0.3, 4.0), 3) if 0.1 <= fate < 0.2 else None,
        cancel_after=round(draw.uniform(0.0, 3.0), 3) if draw.random() < 0.2 else None,
        retry=draw.random() < 0.2,
    )


def _fault(draw: random.Random, at: float, lease_seconds: float, weights: dict[tuple[str, str], int]) -> FaultSpec:
    kind, target = draw.choices(list(weights), list(weights.values()))[0]
    lasts = draw.uniform(1.0, 2.0)
    if kind == "stop":
        seconds = lasts * lease_seconds if target in ("consumer", "keeper") else 3.0 * (lasts - 0.9)
    elif kind == "lock":
        # Sometimes longer than a writer waits (8 s), so that callers see ledger_busy.
        seconds = draw.choice((0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 10.0)) * lasts
    else:
        seconds = 2.0 * lasts
    return FaultSpec(round(at, 3), kind, target, round(draw.random(), 6), round(seconds, 3))
