"""The rules, the dashboard and the alerts of deploy/monitoring against a real Prometheus, Alertmanager and reader."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path

import httpx
import pytest
from alert_receivers import Receiver, receiver
from free_ports import free_port
from monitoring_services import (
    Prometheus,
    alertmanager,
    metrics_in,
    panels,
    program,
    prometheus,
    rules,
)
from prometheus_client.parser import text_string_to_metric_families
from reader_support import RunningReader, churn_rows, eventually, running_reader, write_version
from realtime_support import write_views
from release_support import FEATURES, a_request, make_release

from forecache.lake.ledger import StageRecord, record
from forecache.metrics.glossary import all_metrics
from forecache.monitoring.table import Measurement, append_measurements
from forecache.pipeline import Log
from forecache.realtime.drift.reference import SCORE, ColumnBins, Reference
from forecache.registry.promotions import Promotion, record_promotion
from forecache.settings import Settings, load_settings
from forecache.store.layout import Layout
from forecache.store.live.rows import LiveRow
from forecache.store.live.tail_state import TailState, write_tail_state
from forecache.store.live.writer import open_live_writer
from forecache.stream_state import StreamState, write_state

pytestmark = pytest.mark.slow

SUPPORT = Path(__file__).parent.parent / "support"
NIGHT = date(2026, 11, 1)
REQUESTS = 1500
"""Of the real-time model; so many that more than 300 are counted for drift."""


@dataclass
class Watched:
    """A reader with traffic, its batch half, and who watches them."""

    reader: RunningReader
    settings: Settings
    prometheus: Prometheus
    receiver: Receiver
    batch: str


def bins() -> bytes:
    """Bins that the features of the test's requests lie outside of, so that there is drift."""
    columns = [ColumnBins(name, (1.0, 2.0), (50, 40, 10, 0), 0.0, 3.0) for name in FEATURES]
    return Reference((*columns, ColumnBins(SCORE, (0.5,), (50, 50, 0))), "a training split").to_json()


def make_batch(settings: Settings) -> None:
    """What stages, gate and monitoring leave behind."""
    rows = [
        StageRecord(stage, "churn", NIGHT, "inputs", "", -1, rows=10, seconds=1.5) for stage in ("features", "score")
    ]
    record(settings, rows)
    append_measurements(
        settings,
        [
            Measurement("churn", NIGHT, NIGHT, kind, name, reference, 1, 0.3, 100, 0.1, 0.4, value=0.7)
            for kind, name, reference in (
                ("feature", "amount", "training split"),
                ("estimate", "roc_auc", "test split"),
                ("performance", "roc_auc", "test split"),
            )
        ],
    )
    decided = {"action": "gate", "actor": "test", "reason": "", "training_table": "t", "training_version": 1}
    for number, verdict in ((1, "passed"), (2, "failed")):
        record_promotion(
            settings,
            Promotion(
                recorded_at=datetime.now(timezone.utc), pipeline="churn", from_version=None, to_version=1,
                candidate=number, verdict=verdict, **decided,
            ),
        )  # fmt: skip


def make_stream(settings: Settings) -> None:
    """What the engine of a stream and the tailer of its view's live layer leave behind."""
    now = time.time()
    state = StreamState(
        1, now - 60, now, offsets={"0": 90}, end_offsets={"0": 95}, lag_events=5, rows=90, rows_per_s=2.0, bad=1,
        repeats=1, late=1, delay_p50_s=0.4, delay_p99_s=0.9, committed_version=4, committed_at=now, release=1,
    )  # fmt: skip
    write_state(settings.home_path, "cards", state)
    layout = Layout(settings.store_path / "customer")
    with open_live_writer(layout) as live:
        live.apply(4, [(b"key", LiveRow(4, 1, b"{}"))])
        live.mark_verified(4)
    write_tail_state(layout, TailState(applied=4, verified_at=now))


def ask(reader: RunningReader, requests: int) -> None:
    """Reads of keys that are found and missed, and requests to the real-time model, over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", reader.port, timeout=30)
    body, headers = a_request(), {"content-type": "application/json"}
    for number in range(requests):
        connection.request("POST", "/v1/search", body, headers)
        assert connection.getresponse().read()
        if number % 5 == 0:
            connection.request("GET", "/v1/churn/00042" if number % 10 else "/v1/churn/nobody")
            connection.getresponse().read()
    many = json.dumps({"keys": ["00042", "00043"]}).encode()
    connection.request("POST", "/v1/churn", many, headers)
    assert connection.getresponse().read()
    connection.close()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    for name in ("prometheus", "prometheus-alertmanager"):
        program(name)
    settings = load_settings(home=str(tmp_path_factory.mktemp("home")), request_log_delay_s=0.2)
    write_version(settings.store_path, "churn", churn_rows(100))
    write_views(settings)
    make_release(settings, name="search", deadline_ms=5000.0, log=Log("household_id"), bins=bins())
    make_batch(settings)
    make_stream(settings)
    batch = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "forecache.cli.main", "metrics", "--listen", batch]
    environment = {
        **os.environ, "FORECACHE_HOME": str(settings.home_path), "FORECACHE_PROJECT": "watched_project",
        "PYTHONPATH": os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    exporter = subprocess.Popen(command, env=environment)
    try:
        with receiver() as taken, running_reader(settings, reader_workers=2, request_log_delay_s=0.2) as reader:
            folders = [tmp_path_factory.mktemp(name) for name in ("alertmanager", "prometheus")]
            with alertmanager(folders[0], taken.url) as alerts:
                target = f"127.0.0.1:{reader.port}"
                with prometheus(folders[1], reader=target, batch=batch, alerts=alerts) as server:
                    yield Watched(reader, settings, server, taken, batch)
    finally:
        exporter.kill()
        exporter.wait()


@pytest.fixture(scope="module")
def busy(watched: Watched) -> Watched:
    """With traffic before and during some scrapes."""
    drifted = 'forecache_drift_psi{column="score"}'
    assert eventually(lambda: bool(watched.prometheus.query("forecache_batch_exported_timestamp_seconds")), 30)

    def has_all() -> bool:
        ask(watched.reader, REQUESTS)
        return bool(watched.prometheus.query(drifted) and watched.prometheus.query(LAST_RULE))

    assert eventually(has_all, 60)
    return watched


LAST_RULE = "job:forecache_realtime_failures:ratio_rate3d"


def test_pages_of_reader_and_batch_are_clean_and_declared(busy: Watched) -> None:
    for url in (f"{busy.reader.url}/metrics", f"http://{busy.batch}/metrics"):
        page = httpx.get(url, timeout=30).text
        names = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
        assert names <= set(all_metrics())
        assert len(list(text_string_to_metric_families(page))) == len(names)
        checked = subprocess.run(
            [program("promtool"), "check", "metrics"], input=page.encode(), capture_output=True, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_prometheus_scrapes_both_halves_and_evaluates_every_rule(busy: Watched) -> None:
    targets = busy.prometheus.get("targets")["activeTargets"]
    assert {target["labels"]["job"]: target["health"] for target in targets} == {
        "forecache-reader": "up", "forecache-batch": "up",
    }  # fmt: skip
    evaluated = [rule for group in busy.prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(evaluated) == len(rules("recording")) + len(rules("alerts"))
    assert {rule["name"]: rule.get("lastError") for rule in evaluated if rule["health"] != "ok"} == {}
    for rule in rules("recording"):
        assert busy.prometheus.query(rule["record"]), rule["record"]


def test_every_query_of_every_panel_returns_data(busy: Watched) -> None:
    asked = panels()
    assert len(asked) > 50
    assert [(title, query) for title, query in asked if not busy.prometheus.query(query)] == []


def test_every_metric_that_an_alert_reads_is_there(busy: Watched) -> None:
    read = sorted({name for rule in rules("alerts") for name in metrics_in(rule["expr"])})
    assert len(read) > 25
    assert [name for name in read if not busy.prometheus.query(f"count({name})")] == []


def test_drift_is_counted_over_the_workers_at_a_small_cost(busy: Watched) -> None:
    [counted] = busy.prometheus.query("forecache_drift_window_requests")
    assert float(counted["value"][1]) >= 300
    [psi] = busy.prometheus.query('max(forecache_drift_psi{model="search"})')
    assert float(psi["value"][1]) > 0.25
    [model] = httpx.get(f"{busy.reader.url}/status.json").json()["models"]
    assert len(model["drift"]) == len(FEATURES) + 1
    assert model["drift"][0]["psi"] > 0.25
    share = (
        "forecache_drift_counting_seconds_total / on (model) sum by (model) (forecache_realtime_stage_seconds_total)"
    )
    [cost] = busy.prometheus.query(share)
    assert float(cost["value"][1]) < 0.02


def alerts_at(received: Receiver, path: str) -> set[str]:
    return {
        alert["labels"]["alertname"]
        for posted in list(received.posted)
        if posted.path == path
        for alert in posted.content["alerts"]
    }


def test_alerts_reach_the_webhooks_of_their_severity(busy: Watched) -> None:
    """The gate has refused a model, and workers are killed: one is a ticket, many are a page."""
    assert eventually(lambda: "ForecacheGateRefused" in alerts_at(busy.receiver, "/ticket"), 30)

    def scraped() -> float:
        return sum(float(each["value"][1]) for each in busy.prometheus.query("forecache_reader_worker_crashes_total"))

    for number in range(1, 7):
        os.kill(busy.reader.workers()[-1], signal.SIGKILL)
        assert eventually(lambda number=number: scraped() >= number, 20)
    assert eventually(lambda: "ForecacheWorkersRestartOften" in alerts_at(busy.receiver, "/page"), 30)
    assert "ForecacheGateRefused" not in alerts_at(busy.receiver, "/page")


def test_without_prometheus_the_reader_answers_as_before(busy: Watched) -> None:
    busy.reader.wait_until_ready(60)
    busy.prometheus.process.send_signal(signal.SIGSTOP)
    try:
        ask(busy.reader, 100)
    finally:
        busy.prometheus.process.send_signal(signal.SIGCONT)
    busy.prometheus.process.kill()
    ask(busy.reader, 100)
    assert httpx.get(f"{busy.reader.url}/metrics").status_code == 200


def test_a_textfile_is_replaced_in_one_step_and_says_the_same(busy: Watched, tmp_path: Path) -> None:
    file = tmp_path / "forecache.prom"
    command = [sys.executable, "-m", "forecache.cli.main", "metrics", "--textfile", str(file)]
    subprocess.run(command, env={**os.environ, "FORECACHE_HOME": str(busy.settings.home_path)}, check=True)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(file.read_text())
        for sample in family.samples
    }
    assert found["forecache_batch_last_rows", "score", "churn"] == 10
    assert found["forecache_gate_champion_version", "churn"] == 1
    assert found["forecache_gate_last_passed", "churn"] == 0
    assert found["forecache_store_keys", "churn"] == 100
    assert found["forecache_monitoring_value", "churn", "estimate", "roc_auc"] == 0.7
    end = datetime(2026, 11, 2, tzinfo=timezone.utc).timestamp()
    assert found["forecache_batch_newest_as_of_timestamp_seconds", "score", "churn"] == end
    assert [path.name for path in tmp_path.iterdir()] == ["forecache.prom"]


def test_streams_and_their_live_layers_are_exported(busy: Watched) -> None:
    page = httpx.get(f"http://{busy.batch}/metrics", timeout=30).text
    assert 'forecache_stream_lag_events{stream="cards",partition="0"} 5' in page
    assert 'forecache_live_verified_version{stream="cards",store="customer"} 4' in page
