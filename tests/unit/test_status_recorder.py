"""The history is written by one worker at a time, and the page is made once for all who look at it."""

import fcntl
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from status_documents import document

from forecache.plugins.status import collect, pages
from forecache.plugins.status.collect import Collector, Recorder
from forecache.plugins.status.history import HISTORY_BYTES, STEP_S, History, ModelCounts
from forecache.plugins.status.page.render import render_page
from forecache.plugins.status.pages import StatusPages
from forecache.serve.reader.http.messages import HttpRequest
from forecache.serve.reader.shared_memory import _FLOCK, ReaderSharedMemory
from forecache.serve.reader.worker_metrics import HITS, MISSES, ROUTE, SLOT_BYTES, WorkerMetrics


class Clock:
    now = 1_790_000_000.0

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (collect, pages):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def made() -> Iterator[ReaderSharedMemory]:
    runtime = ReaderSharedMemory.create(num_slots=2, slot_bytes=SLOT_BYTES, history_bytes=HISTORY_BYTES)
    yield runtime
    runtime.remove()


class Worker:
    """A worker with a descriptor of the shared memory of its own, as its process has one."""

    def __init__(self, made: ReaderSharedMemory) -> None:
        self.runtime = ReaderSharedMemory(made.path, SLOT_BYTES)
        self.metrics = WorkerMetrics.claim(self.runtime)
        extension: Any = SimpleNamespace(model_counts=lambda: {"search": ModelCounts([0] * 24, [1, 2])})
        self.recorder = Recorder(self.runtime, [extension])

    def turn(self) -> int:
        """The number of the newest sample after a turn."""
        self.recorder.record_sample(lambda action: action())
        return History(self.runtime.history).newest

    def end(self) -> None:
        """Give up the task, as the kernel does for a process that is gone."""
        unlock = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, self.runtime.num_slots, 1, 0)
        fcntl.fcntl(self.runtime._descriptor, fcntl.F_OFD_SETLK, unlock)


def test_slots_and_history_share_the_memory_and_do_not_overlap(made: ReaderSharedMemory) -> None:
    assert made.num_slots == 2
    assert len(made.history) == HISTORY_BYTES
    made.history[:] = b"\xff" * HISTORY_BYTES
    assert not any(made.slot(1))
    assert not made.is_draining
    assert ReaderSharedMemory.create(num_slots=3, slot_bytes=SLOT_BYTES).num_slots == 3


def test_one_worker_adds_samples_until_it_ends_and_another_goes_on(made: ReaderSharedMemory, clock: Clock) -> None:
    one, two = Worker(made), Worker(made)
    for worker, status in ((one, 200), (two, 503)):
        worker.metrics.observe(ROUTE["one"], status, 80_000)
        offset = worker.metrics.pipeline_offset("churn")
        worker.metrics.cells[offset + HITS] += 3
        worker.metrics.cells[offset + MISSES] += 1
    assert [one.turn(), two.turn(), one.turn()] == [1, 1, 1]
    clock.now += STEP_S
    assert [two.turn(), one.turn(), two.turn()] == [1, 2, 2]
    one.end()
    clock.now += STEP_S
    two.metrics.observe(ROUTE["one"], 200, 80_000)
    two.metrics.cells[two.metrics.pipeline_offset("churn") + HITS] += 2
    assert two.turn() == 3
    history = History(made.history)
    assert history.series()["per_s"] == [0, 0, 0.5]
    assert history.pipeline_counts("churn", 60).counts == [2, 0]
    assert history.recent_traffic(60)[1].requests == 1


def test_requests_of_people_and_probes_are_no_traffic(made: ReaderSharedMemory, clock: Clock) -> None:
    worker = Worker(made)
    worker.turn()
    for route in ("status", "metrics", "healthz", "readyz", "openapi", "other"):
        worker.metrics.observe(ROUTE[route], 200, 1000)
    worker.metrics.observe(ROUTE["realtime"], 200, 1000)
    clock.now += STEP_S
    worker.turn()
    assert History(made.history).recent_traffic(60)[1].requests == 1


def test_requests_that_a_busy_reader_refuses_are_its_errors_and_not_those_of_clients(
    made: ReaderSharedMemory, clock: Clock
) -> None:
    worker = Worker(made)
    worker.turn()
    worker.metrics.observe(ROUTE["one"], 404, 1000)
    worker.metrics.count_refused(ROUTE["realtime"], 3)
    clock.now += STEP_S
    worker.turn()
    traffic = History(made.history).recent_traffic(60)[1]
    assert (traffic.client_errors, traffic.server_errors) == (1, 3)


def test_a_part_of_the_status_that_cannot_be_made_hides_no_other(
    made: ReaderSharedMemory, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(history: History) -> Any:
        raise ValueError("the ledger is at /srv/secret")

    parts: list[Any] = [SimpleNamespace(status=failing), SimpleNamespace(status=lambda history: ({"alerts": [1]}, []))]
    catalog: Any = SimpleNamespace(answers={}, waiting={"churn"}, failures={}, damaged=set())
    readiness: Any = SimpleNamespace(not_ready_reason=lambda: "")
    build = {"version": "1", "python": "3.12", "code_version": ""}
    found = Collector(made, catalog, readiness, parts, workers=0, build=build).document(1_790_000_000.0)
    assert (found["state"], found["alerts"], found["models"]) == ("warning", [1], [])
    assert [row["name"] for row in found["versions"]] == ["churn"]
    assert "A part of the status could not be made." in [each["what"] for each in found["attention"]]
    assert "secret" not in str(found)
    assert "the ledger is at /srv/secret" in caplog.text
    assert render_page(found)


def asked(now: float, **headers: str) -> HttpRequest:
    return HttpRequest("GET", "/status", "", headers, now)


def test_all_viewers_of_a_second_get_the_same_page_which_is_made_beside_the_event_loop(clock: Clock) -> None:
    made: list[float] = []
    collector: Any = SimpleNamespace(document=lambda now: (made.append(now), document())[1])
    status = StatusPages(collector, None)
    status.refresh_viewed(lambda action: action())
    assert made == []  # nobody looks
    first = status.html_or_json(asked(clock.now)).body
    assert status.html_or_json(asked(clock.now + 1)).body is first
    assert len(made) == 1
    for _ in range(3):
        clock.now += 1.1
        status.refresh_viewed(lambda action: action())
        assert status.html_or_json(asked(clock.now)).body is not first
    assert len(made) == 4
    assert status.html_or_json(asked(clock.now, accept="application/json")).body.startswith(b"{")
    assert status.json(asked(clock.now)).body == status.html_or_json(asked(clock.now, accept="application/json")).body
    assert len(made) == 5
    clock.now += 60  # nobody has looked for a minute
    status.refresh_viewed(lambda action: action())
    assert len(made) == 5
    status.html_or_json(asked(clock.now))
    assert len(made) == 6
