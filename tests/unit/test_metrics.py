"""What Prometheus is told: read by its own parser, equal to what happened, and as docs/metrics.md says."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from tests import ended
from tests.harness import CODER, GENERAL, ROOT, Home, ok, shell, until
from vp_queue import missions, tools
from vp_queue.contracts import EventType, FailureCode, Outcome, Status
from vp_queue.ledger import database, fleet
from vp_queue.ledger.models import Mission
from vp_queue.metrics import exposition

HISTOGRAMS = ("_bucket", "_count", "_sum")


@pytest.fixture(autouse=True)
def ready(home: Home) -> Home:
    missions.ready()
    return home


def families() -> dict[str, Metric]:
    body, content_type = exposition()
    assert content_type.startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(body.decode())}


def value(sample: str, **labels: str) -> float:
    """What a sample of the text format says."""
    [found] = [
        each.value
        for family in families().values()
        for each in family.samples
        if (each.name, each.labels) == (sample, labels)
    ]
    return found


def test_a_new_installation_has_every_series_at_zero() -> None:
    found = families()
    assert {sample.value for name in found if name.startswith("vp_missions") for sample in found[name].samples} == {0}
    for vp_id in (GENERAL, CODER):
        assert value("vp_missions", vp_id=vp_id, status="completed") == 0
        assert value("vp_events_total", vp_id=vp_id, type="vp.worker_lost") == 0
        assert value("vp_run_seconds_bucket", vp_id=vp_id, le="+Inf") == 0
    assert value("vp_keeper_up") == 0


def test_missions_are_counted_by_vp_and_outcome() -> None:
    for status, how_many in ((Status.COMPLETED, 3), (Status.FAILED, 2), (Status.CANCELLED, 1), (Status.NEEDS_INPUT, 1)):
        ended.many(how_many, ended.HOUR, status)
    ended.mission(ended.HOUR, vp_id=CODER)
    assert value("vp_missions", vp_id=GENERAL, status="completed") == 3
    assert value("vp_missions", vp_id=GENERAL, status="needs_input") == 1
    assert value("vp_missions_ended_total", vp_id=GENERAL, outcome="failed") == 2
    assert value("vp_missions_ended_total", vp_id=CODER, outcome="completed") == 1
    assert value("vp_attempts_total", vp_id=GENERAL, outcome="cancelled") == 1
    assert value("vp_failures_total", vp_id=GENERAL, code="exit_nonzero") == 2
    assert value("vp_events_total", vp_id=GENERAL, type="mission.started") == 7
    assert value("vp_wait_seconds_count", vp_id=GENERAL) == 7
    assert value("vp_run_seconds_count", vp_id=GENERAL) == 6


def test_counters_stay_when_missions_are_removed() -> None:
    ended.mission(ended.HOUR)
    with database.write_transaction():
        Mission.delete().execute()
    assert value("vp_missions", vp_id=GENERAL, status="completed") == 0
    assert value("vp_missions_ended_total", vp_id=GENERAL, outcome="completed") == 1


def test_what_is_due_is_told_apart_from_what_is_for_later() -> None:
    shell("true")
    shell("true", not_before="2999-01-01T00:00:00Z")
    ended.mission(2 * ended.HOUR, Status.QUEUED)
    assert value("vp_queue_depth", vp_id=GENERAL, due="now") == 2
    assert value("vp_queue_depth", vp_id=GENERAL, due="later") == 1
    assert 7_200 <= value("vp_oldest_due_age_seconds", vp_id=GENERAL) < 7_300
    assert value("vp_oldest_due_age_seconds", vp_id=CODER) == 0


def test_buckets_are_cumulative() -> None:
    ended.many(5, ended.HOUR)
    found = families()["vp_run_seconds"]
    upto = [sample.value for sample in found.samples if sample.labels.get("vp_id") == GENERAL and "le" in sample.labels]
    assert upto == sorted(upto)
    assert upto[-1] == 5


def test_a_real_run_is_in_it(home: Home) -> None:
    home.keeper()
    home.consumer()
    script = """echo '{"usage": {"input_tokens": 40, "output_tokens": 2, "cost_usd": 0.5}}' >&$VP_REPORT_FD"""
    mission_id = shell(script)["mission_id"]
    assert ok(tools.vp_wait_mission(mission_id=mission_id, timeout_seconds=60))["mission"]["status"] == "completed"
    assert value("vp_tokens_total", vp_id=GENERAL, direction="input") == 40
    assert value("vp_tokens_total", vp_id=GENERAL, direction="output") == 2
    assert value("vp_cost_usd_total", vp_id=GENERAL) == 0.5
    assert value("vp_workers", vp_id=GENERAL, state="running") == 1
    assert value("vp_workers_stale", vp_id=GENERAL) == 0
    until(lambda: value("vp_keeper_up") == 1, "the keeper has registered")
    assert value("vp_events_total", vp_id="keeper", type="vp.worker_started") == 1
    assert value("vp_ledger_bytes") > 0


def test_a_vp_that_is_paused_or_drains_is_on_hold() -> None:
    missions.pause(GENERAL)
    missions.drain(CODER)
    assert value("vp_on_hold", vp_id=GENERAL) == value("vp_on_hold", vp_id=CODER) == 1
    missions.resume(GENERAL)
    assert value("vp_on_hold", vp_id=GENERAL) == 0


def test_a_vp_that_was_taken_out_of_the_file_keeps_its_counters() -> None:
    ended.mission(ended.HOUR, vp_id="vp.gone.primary")
    assert value("vp_missions_ended_total", vp_id="vp.gone.primary", outcome="completed") == 1


def test_it_reads_only_and_touches_nothing_of_the_process(ready: Home) -> None:
    before = list(REGISTRY.collect())
    changes = database.current().db.execute_sql("SELECT total_changes()").fetchone()
    exposition()
    assert database.current().db.execute_sql("SELECT total_changes()").fetchone() == changes
    assert {family.name for family in REGISTRY.collect()} == {family.name for family in before}


def test_who_asks_for_open_metrics_gets_it() -> None:
    ended.mission(ended.HOUR)
    body, content_type = exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in open_metrics(body.decode())}
    assert "vp_missions_ended" in names


def test_nothing_that_people_or_missions_write_becomes_a_label(ready: Home) -> None:
    line = 'hostile"} 1 \\ vp_keeper_up 7 # {'
    hostile = f"{line}\n{line}"
    ready.configure()
    text = (ready.path / "vp_queue.toml").read_text()
    text = text.replace('executor = "command"', f"executor = \"command\"\ntitle = '{line}'", 1)
    (ready.path / "vp_queue.toml").write_text(text)
    ok(tools.vp_dispatch_mission(vp_id=GENERAL, objective=hostile, mission_type="hostile", metadata={"x": hostile}))
    with database.write_transaction() as tx:
        fleet.pause(tx, GENERAL, hostile)
    body, _ = exposition()
    assert b"hostile" not in body
    assert b" 7" not in body
    allowed = {
        "vp_id": {GENERAL, CODER},
        "status": set(Status),
        "outcome": {*Outcome, *Status},
        "code": set(FailureCode),
    }
    allowed |= {"type": set(EventType)}
    for sample in samples():
        for label, words in allowed.items():
            assert sample.get(label, next(iter(words))) in words


def samples() -> Iterator[dict[str, str]]:
    for family in families().values():
        for sample in family.samples:
            yield sample.labels


# --- the document -------------------------------------------------------------------------------


def documented() -> dict[str, tuple[str, frozenset[str], str]]:
    rows = re.findall(
        r"^\| `(vp_\w+)` \| (\w+) \| ([^|]*)\| (.+) \|$", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE
    )
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels)), what) for name, kind, labels, what in rows}


def test_the_table_says_what_is_told() -> None:
    told = {}
    for family in families().values():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        told[name] = (family.type, frozenset(labels), family.documentation)
    assert documented() == told
    assert list(documented()) == list(told)


def test_names_follow_the_conventions() -> None:
    for family in families().values():
        assert re.fullmatch(r"vp_[a-z_]+", family.name)
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
            assert {sample.name.removeprefix(family.name) for sample in family.samples} == set(HISTOGRAMS)
