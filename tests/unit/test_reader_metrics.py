"""Metrics: sums over workers, Prometheus' format, and counters that never go back."""

import asyncio
import gzip
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from monitoring_services import program
from prometheus_client.parser import text_string_to_metric_families

from forecache.base.settings import load_settings
from forecache.serve.reader.http import routes
from forecache.serve.reader.http.app import ReaderApp
from forecache.serve.reader.http.prometheus import render
from forecache.serve.reader.shared_memory import ReaderSharedMemory
from forecache.serve.reader.worker_metrics import (
    HITS,
    LIVE,
    ROUTE,
    SLOT_BYTES,
    STALE_HITS,
    VERSION,
    WorkerMetrics,
)

BUILD = {"version": "1.2.3", "code_version": "", "python": "3.12.1"}


class Asked:
    """A call, and what it was answered."""

    query_string = ""
    arrived = 0
    status, body = 0, b""

    def __init__(self, method: str, path: str, headers: dict[str, str] | None = None) -> None:
        self.method, self.path, self.headers = method, path, headers or {}

    def respond(self, status: int, headers: object, body: bytes) -> None:
        self.status, self.body = status, body


@pytest.fixture
def runtime() -> Iterator[ReaderSharedMemory]:
    runtime = ReaderSharedMemory.create(num_slots=2, slot_bytes=SLOT_BYTES)
    yield runtime
    runtime.remove()


def samples(runtime: ReaderSharedMemory) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = render(runtime, {"churn": 61.4}, build=BUILD).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_workers_are_summed(runtime: ReaderSharedMemory) -> None:
    one, two = WorkerMetrics.claim(runtime), WorkerMetrics.claim(runtime)
    for worker in (one, two):
        worker.record_heartbeat()
    one.observe(ROUTE["one"], 200, 50_000)
    two.observe(ROUTE["one"], 200, 3_000_000)
    two.observe(ROUTE["one"], 404, 10_000)
    found = samples(runtime)
    assert found["forecache_reader_requests_total", (("route", "one"), ("status", "200"))] == 2
    assert found["forecache_reader_requests_total", (("route", "one"), ("status", "404"))] == 1
    assert found["forecache_reader_workers", ()] == 2


def test_the_histogram_is_cumulative_and_ends_with_the_count(runtime: ReaderSharedMemory) -> None:
    worker = WorkerMetrics.claim(runtime)
    for elapsed_us in (1, 7, 8, 100, 5_000, 10_000_000_000):
        worker.observe(ROUTE["many"], 200, elapsed_us * 1000)
    found = samples(runtime)
    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in found.items()
        if name == "forecache_reader_request_duration_seconds_bucket"
    }
    assert [buckets["0.000008"], buckets["0.000016"], buckets["0.000128"], buckets["0.008192"], buckets["+Inf"]] == [
        2, 3, 4, 5, 6,
    ]  # fmt: skip
    counts = list(buckets.values())
    assert counts == sorted(counts)
    assert found["forecache_reader_request_duration_seconds_count", (("route", "many"),)] == 6
    assert found["forecache_reader_request_duration_seconds_sum", (("route", "many"),)] == pytest.approx(10_000.005116)


def test_pipelines_are_merged_by_name_whatever_their_order(runtime: ReaderSharedMemory) -> None:
    one, two = WorkerMetrics.claim(runtime), WorkerMetrics.claim(runtime)
    for worker, names, version in ((one, ("churn", "spend"), 3), (two, ("spend", "churn"), 4)):
        worker.record_heartbeat()
        for name in names:
            offset = worker.pipeline_offset(name)
            worker.cells[offset + HITS] += 10 if name == "churn" else 1
            worker.cells[offset + VERSION] = version
            worker.cells[offset + LIVE] = 1
    found = samples(runtime)
    assert found["forecache_reader_hits_total", (("pipeline", "churn"),)] == 20
    assert found["forecache_reader_hits_total", (("pipeline", "spend"),)] == 2
    assert found["forecache_reader_version", (("pipeline", "churn"),)] == 3
    assert found["forecache_reader_age_seconds", (("pipeline", "churn"),)] == 61


def test_a_dead_worker_keeps_counting_and_its_gauges_end(runtime: ReaderSharedMemory) -> None:
    dead, live = WorkerMetrics.claim(runtime), WorkerMetrics.claim(runtime)
    offset = dead.pipeline_offset("churn")
    dead.cells[offset + HITS] = 5
    dead.cells[offset + VERSION] = 1
    dead.cells[offset + LIVE] = 1
    live.record_heartbeat()
    found = samples(runtime)
    assert found["forecache_reader_hits_total", (("pipeline", "churn"),)] == 5
    assert ("forecache_reader_version", (("pipeline", "churn"),)) not in found
    assert found["forecache_reader_workers", ()] == 1


def test_a_worker_that_starts_again_goes_on_where_the_one_before_stopped(runtime: ReaderSharedMemory) -> None:
    first = WorkerMetrics.claim(runtime)
    first.cells[first.pipeline_offset("churn") + HITS] = 5
    again = WorkerMetrics(runtime.slot(0))
    again.cells[again.pipeline_offset("spend") + HITS] = 1
    again.cells[again.pipeline_offset("churn") + HITS] += 1
    found = samples(runtime)
    assert found["forecache_reader_hits_total", (("pipeline", "churn"),)] == 6


def test_stale_answers_are_counted_apart_and_among_the_hits(runtime: ReaderSharedMemory) -> None:
    worker = WorkerMetrics.claim(runtime)
    offset = worker.pipeline_offset("churn")
    worker.cells[offset + HITS] += 5
    worker.cells[offset + STALE_HITS] += 2
    found = samples(runtime)
    assert found["forecache_reader_hits_total", (("pipeline", "churn"),)] == 7
    assert found["forecache_reader_stale_answers_total", (("pipeline", "churn"),)] == 2


def test_what_a_worker_before_served_is_no_gauge_of_the_one_after(runtime: ReaderSharedMemory) -> None:
    first = WorkerMetrics(runtime.slot(0))
    offset = first.pipeline_offset("churn")
    first.cells[offset + LIVE] = 1
    again = WorkerMetrics.claim(runtime)
    again.record_heartbeat()
    assert ("forecache_reader_version", (("pipeline", "churn"),)) not in samples(runtime)


def test_the_process_and_the_build_are_said(runtime: ReaderSharedMemory) -> None:
    WorkerMetrics.claim(runtime).record_heartbeat()
    found = samples(runtime)
    assert found["forecache_reader_build_info", tuple(sorted(BUILD.items()))] == 1
    assert found["process_resident_memory_bytes", ()] > 1_000_000
    assert found["process_cpu_seconds_total", ()] > 0
    assert 3 <= found["process_open_fds", ()] < found["process_max_fds", ()]
    assert 0 < time.time() - found["process_start_time_seconds", ()] < 30 * 86400


def test_promtool_finds_nothing_to_say(runtime: ReaderSharedMemory) -> None:
    worker = WorkerMetrics.claim(runtime)
    worker.observe(ROUTE["one"], 200, 50_000)
    worker.cells[worker.pipeline_offset("churn") + HITS] += 1
    page = render(runtime, {"churn": 61.4}, build=BUILD)
    checked = subprocess.run([program("promtool"), "check", "metrics"], input=page, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_durations_have_the_names_of_opentelemetry_too(runtime: ReaderSharedMemory) -> None:
    worker = WorkerMetrics.claim(runtime)
    for route, status in (("one", 200), ("one", 404), ("many", 200), ("many", 405), ("other", 404)):
        worker.observe(ROUTE[route], status, 50_000)
    counts = {
        tuple(value for name, value in labels): count
        for (name, labels), count in samples(runtime).items()
        if name == "http_server_request_duration_seconds_count"
    }
    assert counts == {
        ("GET", "200", "/v1/{pipeline}/{key}"): 1,
        ("GET", "404", "/v1/{pipeline}/{key}"): 1,
        ("POST", "200", "/v1/{pipeline}"): 1,
        ("_OTHER", "405", "/v1/{pipeline}"): 1,
        ("_OTHER", "404", ""): 1,
    }


def test_the_age_of_a_feature_view_is_its_freshness_too(runtime: ReaderSharedMemory) -> None:
    page = render(runtime, {"churn": 61.4, "household": 7.0}, build=BUILD, views=["household"]).decode()
    assert 'forecache_reader_age_seconds{pipeline="household"} 7.0\n' in page
    assert 'forecache_feature_freshness_seconds{feature_view="household"} 7.0\n' in page
    assert 'feature_view="churn"' not in page


def test_a_worker_answers_others_while_it_renders_its_metrics(
    runtime: ReaderSharedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    def render_slowly(*args: object, **kwargs: object) -> bytes:
        assert goes_on.wait(60)
        return b"forecache_reader_workers 1.0\n" * 100

    monkeypatch.setattr(routes, "render", render_slowly)
    app = ReaderApp(load_settings(home=str(tmp_path)), runtime)

    async def ask() -> None:
        scrape: Any = Asked("GET", "/metrics", headers={"accept-encoding": "gzip"})
        other: Any = Asked("GET", "/healthz")
        scraping = asyncio.ensure_future(app.handle(scrape))
        await asyncio.sleep(0)
        app.handle(other)
        assert (scrape.status, other.status) == (0, 200)
        goes_on.set()
        await scraping
        assert (scrape.status, gzip.decompress(scrape.body)) == (200, b"forecache_reader_workers 1.0\n" * 100)

    asyncio.run(ask())
    app.close()


def test_metrics_that_cannot_be_rendered_are_a_problem(
    runtime: ReaderSharedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> bytes:
        raise RuntimeError("broken")

    monkeypatch.setattr(routes, "render", fail)
    app = ReaderApp(load_settings(home=str(tmp_path)), runtime)
    scrape: Any = Asked("GET", "/metrics")

    async def ask() -> None:
        await app.handle(scrape)

    asyncio.run(ask())
    app.close()
    assert (scrape.status, b"defect" in scrape.body) == (500, True)
