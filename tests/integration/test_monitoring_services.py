"""The rules, the dashboard and the alerts of deploy/monitoring against a real Prometheus, Alertmanager and reader."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import httpx
import pytest
from alert_receivers import Receiver, receiver
from dashboard_picture import draw
from dashboard_queries import PICTURES, Shown, section
from free_ports import free_port
from monitoring_services import (
    DASHBOARD,
    Prometheus,
    alertmanager,
    metrics_in,
    panels,
    program,
    prometheus,
    rules,
)
from prometheus_client.parser import text_string_to_metric_families
from reader_support import RunningReader, churn_rows, running_reader, write_version
from realtime_support import write_views
from release_support import FEATURES, make_release
from waiting import eventually
from watched_reader import ask, bins, make_batch, make_stream

from forecache.base.settings import Settings, load_settings
from forecache.declare import Log
from forecache.kit.metrics.metric import METRICS

pytestmark = pytest.mark.slow

SUPPORT = Path(__file__).parent.parent / "support"
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


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    for name in ("prometheus", "prometheus-alertmanager"):
        program(name)
    settings = load_settings(home=str(tmp_path_factory.mktemp("home")), request_log_delay_s=0.2)
    write_version(settings.store_path, "churn", churn_rows(100))
    write_views(settings)
    make_release(settings, name="search", deadline_ms=60_000.0, log=Log("household_id"), bins=bins())
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
    assert eventually(lambda: bool(watched.prometheus.query("forecache_batch_exported_timestamp_seconds")))

    def has_all() -> bool:
        ask(watched.reader, REQUESTS)
        return bool(watched.prometheus.query(drifted) and watched.prometheus.query(LAST_RULE))

    assert eventually(has_all)
    return watched


LAST_RULE = "job:forecache_realtime_failures:ratio_rate3d"


def test_pages_of_reader_and_batch_are_clean_and_declared(busy: Watched) -> None:
    for url in (f"{busy.reader.url}/metrics", f"http://{busy.batch}/metrics"):
        page = httpx.get(url, timeout=30).text
        names = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))
        assert names <= set(METRICS)
        assert len(list(text_string_to_metric_families(page))) == len(names)
        checked = subprocess.run(
            [program("promtool"), "check", "metrics"], input=page.encode(), capture_output=True, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_prometheus_scrapes_both_halves_and_evaluates_every_rule(busy: Watched) -> None:
    def are_up() -> bool:  # a scrape of a machine that stands still fails, and the next one does not
        targets = busy.prometheus.get("targets")["activeTargets"]
        health = {target["labels"]["job"]: target["health"] for target in targets}
        return health == {"forecache-reader": "up", "forecache-batch": "up"}

    assert eventually(are_up)
    evaluated = [rule for group in busy.prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(evaluated) == len(rules("recording")) + len(rules("alerts"))
    assert {rule["name"]: rule.get("lastError") for rule in evaluated if rule["health"] != "ok"} == {}
    for rule in rules("recording"):
        assert busy.prometheus.query(rule["record"]), rule["record"]


def require_data(watched: Watched, queries: Mapping[str, str]) -> None:
    """Each query has returned data once: a series is missing after a scrape that failed, until the next one."""
    left = dict(queries)

    def are_answered() -> bool:
        for query in [query for query in left if watched.prometheus.query(query)]:
            del left[query]
        return not left

    assert eventually(are_answered), left


def test_every_query_of_every_panel_returns_data(busy: Watched) -> None:
    asked = panels()
    assert len(asked) > 50
    require_data(busy, {query: title for title, query in asked})


@pytest.mark.parametrize(("name", "first", "last"), PICTURES)
def test_the_panels_can_be_drawn_and_none_is_without_data(busy: Watched, name: str, first: str, last: str) -> None:
    now = time.time()
    drawn = draw(section(DASHBOARD["panels"], first, last), busy.prometheus, Shown(now - 60, now, 1.0), [(now, "blue")])
    assert drawn[0].startswith(b"\x89PNG")
    assert drawn[1] == []


def test_every_metric_that_an_alert_reads_is_there(busy: Watched) -> None:
    read = sorted({name for rule in rules("alerts") for name in metrics_in(rule["expr"])})
    assert len(read) > 25
    require_data(busy, {f"count({name})": name for name in read})


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

    def is_small() -> bool:
        ask(
            busy.reader, 300
        )  # of many requests, since a busy machine may keep one from the processor while it is counted
        [cost] = busy.prometheus.query(share)
        return float(cost["value"][1]) < 0.02

    assert eventually(is_small)


def alerts_at(received: Receiver, path: str) -> set[str]:
    return {
        alert["labels"]["alertname"]
        for posted in list(received.posted)
        if posted.path == path
        for alert in posted.content["alerts"]
    }


def test_alerts_reach_the_webhooks_of_their_severity(busy: Watched) -> None:
    """The gate has refused a model, and workers are killed: one is a ticket, many are a page."""
    assert eventually(lambda: "ForecacheGateRefused" in alerts_at(busy.receiver, "/ticket"))

    def scraped() -> float:
        return sum(float(each["value"][1]) for each in busy.prometheus.query("forecache_reader_worker_crashes_total"))

    for number in range(1, 7):
        os.kill(busy.reader.workers()[-1], signal.SIGKILL)
        assert eventually(lambda number=number: scraped() >= number)
    assert eventually(lambda: "ForecacheWorkersRestartOften" in alerts_at(busy.receiver, "/page"))
    assert "ForecacheGateRefused" not in alerts_at(busy.receiver, "/page")


def test_without_prometheus_the_reader_answers_as_before(busy: Watched) -> None:
    busy.reader.wait_until_ready()
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
    assert found["forecache_monitoring_value", "estimate", "roc_auc", "churn"] == 0.7
    end = datetime(2026, 11, 2, tzinfo=timezone.utc).timestamp()
    assert found["forecache_batch_newest_as_of_timestamp_seconds", "score", "churn"] == end
    assert [path.name for path in tmp_path.iterdir()] == ["forecache.prom"]


def test_streams_and_their_live_layers_are_exported(busy: Watched) -> None:
    page = httpx.get(f"http://{busy.batch}/metrics", timeout=30).text
    assert 'forecache_stream_lag_events{partition="0",stream="cards"} 5' in page
    assert 'forecache_live_verified_version{store="customer",stream="cards"} 4' in page
    assert 'forecache_live_comparison_seconds{store="customer",stream="cards"} 0.5' in page
