"""The figures of an installation, for Prometheus: read from the ledger in one snapshot when somebody asks.

No process counts for itself: counters come from the tally, which is exact whoever was killed, and gauges are looked up.
So every process gives the same answer, and a restarted one the same as before. ``docs/metrics.md`` lists them.
Labels are ids from the configuration and fixed words; nothing a mission says becomes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from vp_queue import __version__, missions
from vp_queue.contracts import TERMINAL, EventType, FailureCode, Status
from vp_queue.contracts.views import WorkerView
from vp_queue.ledger import accounts, database, queries, schema, tally, usage

_BOUNDS: Final = (*(f"{bound:g}" for bound in tally.BOUNDS_SECONDS), "+Inf")


@dataclass(frozen=True)
class Snapshot:
    """What was read, at one instant of the ledger."""

    configured: frozenset[str]
    workers: dict[str, list[WorkerView]]
    on_hold: frozenset[str]
    keepers: list[WorkerView]
    totals: accounts.Tallied
    missions: dict[tuple[str, str], int]
    queues: dict[str, accounts.Queue]
    pages: usage.LedgerPages
    migration: str

    @property
    def vp_ids(self) -> list[str]:
        """The configured VPs, each with its zeros, and those that are only remembered."""
        return sorted(self.configured | {vp_id for vp_id in self.totals if self._dispatched(vp_id)})

    def _dispatched(self, vp_id: str) -> bool:
        return self.total(vp_id, tally.EVENT[EventType.DISPATCHED]) > 0

    def total(self, vp_id: str, measure: str) -> float:
        """What was counted of it since ever."""
        return self.totals.get(vp_id, {}).get(measure, 0.0)


def exposition(accept: str = "") -> tuple[bytes, str]:
    """The figures as Prometheus reads them, and their content type.

    Args:
        accept: the request's ``Accept`` header: the text format unless it asks for OpenMetrics.

    Raises:
        LedgerBusy, LedgerUnavailable: it cannot be read now.
        ConfigurationError: ``vp_queue.toml`` is wrong.
    """
    encode, content_type = choose_encoder(accept)
    return encode(_Figures(_read())), content_type


def _read() -> Snapshot:
    settings = missions.ready()
    current = queries.Current(settings.lease_seconds, None, "")  # whether a worker is outdated is not shown
    with database.read_transaction() as now:
        vp_ids = frozenset(settings.vps)
        return Snapshot(
            configured=vp_ids,
            workers={vp_id: queries.worker_views(vp_id, current) for vp_id in vp_ids},
            on_hold=frozenset(vp_id for vp_id in vp_ids if _on_hold(vp_id)),
            keepers=queries.worker_views(None, current),
            totals=accounts.totals(),
            missions=accounts.mission_counts(),
            queues=accounts.queues(now),
            pages=usage.pages(),
            migration=schema.applied(database.current().db)[-1],
        )


def _on_hold(vp_id: str) -> bool:
    decided = queries.agent_row(vp_id)
    return decided is not None and (decided.paused or decided.draining)


class _Figures(Collector):
    """One snapshot in the shape that prometheus_client writes out; no registry of the process is touched."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._seen = snapshot

    def collect(self) -> Iterable[Metric]:
        """Every figure, in the order of ``docs/metrics.md``."""
        yield from self._gauges()
        yield from self._counters()
        yield from self._histograms()
        yield from self._installation()

    def _gauges(self) -> Iterator[Metric]:
        seen = self._seen
        stored = GaugeMetricFamily("vp_missions", "Missions that are in the ledger.", labels=["vp_id", "status"])
        depth = GaugeMetricFamily("vp_queue_depth", "Queued missions: due now, or later.", labels=["vp_id", "due"])
        oldest = GaugeMetricFamily(
            "vp_oldest_due_age_seconds",
            "How long the longest waiting mission has been due; 0: none is.",
            labels=["vp_id"],
        )
        for vp_id in seen.vp_ids:
            for status in Status:
                stored.add_metric([vp_id, status], seen.missions.get((vp_id, status), 0))
            queue = seen.queues.get(vp_id, accounts.EMPTY)
            depth.add_metric([vp_id, "now"], queue.due)
            depth.add_metric([vp_id, "later"], queue.later)
            oldest.add_metric([vp_id], queue.oldest_due_seconds)
        yield from (stored, depth, oldest, *self._workers())

    def _workers(self) -> Iterator[Metric]:
        workers = GaugeMetricFamily("vp_workers", "Workers that have not ended.", labels=["vp_id", "state"])
        stale = GaugeMetricFamily(
            "vp_workers_stale", "Those of them that have been silent for longer than a lease.", labels=["vp_id"]
        )
        held = GaugeMetricFamily("vp_on_hold", "1 while nothing may start: paused or draining.", labels=["vp_id"])
        for vp_id, there in sorted(self._seen.workers.items()):
            for state in queries.ALIVE:
                workers.add_metric([vp_id, state], sum(worker.state == state for worker in there))
            stale.add_metric([vp_id], sum(worker.stale for worker in there))
            held.add_metric([vp_id], vp_id in self._seen.on_hold)
        yield from (workers, stale, held)

    def _counters(self) -> Iterator[Metric]:
        ended = {event: str(status) for status in TERMINAL for event in [tally.EVENT[EventType(f"mission.{status}")]]}
        yield self._counter("vp_missions_ended", "Missions that ended.", "outcome", ended)
        attempts = {measure: str(outcome) for outcome, measure in tally.ATTEMPT.items()}
        yield self._counter("vp_attempts", "Attempts that ended.", "outcome", attempts)
        codes = {tally.failure(code): str(code) for code in FailureCode}
        yield self._counter("vp_failures", "Attempts that failed or were lost, by failure code.", "code", codes)
        rescues = {tally.RESCUE_REQUEUED: "requeued", tally.RESCUE_ENDED: "ended"}
        yield self._counter("vp_rescues", "Lost attempts, by what became of the mission.", "mission", rescues)
        tokens = {"input_tokens": "input", "output_tokens": "output"}
        yield self._counter("vp_tokens", "Tokens that attempts reported.", "direction", tokens)
        cost = CounterMetricFamily("vp_cost_usd", "US dollars that attempts reported.", labels=["vp_id"])
        for vp_id in self._seen.vp_ids:
            cost.add_metric([vp_id], self._seen.total(vp_id, "cost_usd"))
        yield cost
        events = {measure: str(event) for event, measure in tally.EVENT.items()}
        others = self._seen.totals.keys() - set(self._seen.vp_ids)  # the keeper's own
        yield self._counter("vp_events", "Events recorded.", "type", events, sorted(others))

    def _counter(
        self, name: str, documentation: str, label: str, words: dict[str, str], others: Iterable[str] = ()
    ) -> Metric:
        """A counter with one series for each VP and word.

        Args:
            words: by the measure that counts it.
            others: what is no VP, but was counted too.
        """
        family = CounterMetricFamily(name, documentation, labels=["vp_id", label])
        for vp_id in (*self._seen.vp_ids, *others):
            for measure, word in words.items():
                family.add_metric([vp_id, word], self._seen.total(vp_id, measure))
        return family

    def _histograms(self) -> Iterator[Metric]:
        for kind, name, documentation in (
            (tally.WAIT, "vp_wait_seconds", "From being due to being claimed, of each attempt."),
            (tally.RUN, "vp_run_seconds", "From claim to end, of each attempt."),
        ):
            family = HistogramMetricFamily(name, documentation, labels=["vp_id"])
            for vp_id in self._seen.vp_ids:
                upto = accumulate(self._seen.total(vp_id, measure) for measure in tally.UPTO[kind])
                family.add_metric(
                    [vp_id], list(zip(_BOUNDS, upto, strict=True)), self._seen.total(vp_id, f"{kind}.sum")
                )
            yield family

    def _installation(self) -> Iterator[Metric]:
        pages, keepers = self._seen.pages, self._seen.keepers
        yield GaugeMetricFamily(
            "vp_keeper_up", "1 while a keeper lives.", value=any(not keeper.stale for keeper in keepers)
        )
        yield GaugeMetricFamily("vp_ledger_bytes", "Size of the ledger's file.", value=pages.bytes)
        yield GaugeMetricFamily("vp_ledger_free_bytes", "What of it is free for reuse.", value=pages.free_bytes)
        build = GaugeMetricFamily("vp_build_info", "Always 1.", labels=["version", "sqlite", "migration"])
        build.add_metric([__version__, database.versions()["cysqlite"], self._seen.migration], 1)
        yield build
