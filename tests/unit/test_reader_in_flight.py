"""The reader's time in flight: the handlers' time and the wait in the socket before it."""

import time
from collections.abc import Iterator

import pytest

from forecache.serve.reader.http.prometheus import render
from forecache.serve.reader.shared_memory import ReaderSharedMemory
from forecache.serve.reader.worker_metrics import IN_FLIGHT, ROUTE, SLOT_BYTES, InFlightTime, WorkerMetrics

BUILD = {"version": "1.2.3", "code_version": "", "python": "3.12.1"}


@pytest.fixture
def runtime() -> Iterator[ReaderSharedMemory]:
    runtime = ReaderSharedMemory.create(num_slots=2, slot_bytes=SLOT_BYTES)
    yield runtime
    runtime.remove()


def test_each_request_counts_with_its_handler_and_its_wait_and_only_once(runtime: ReaderSharedMemory) -> None:
    worker, waited = WorkerMetrics.claim(runtime), [7_000_000]
    worker.observe(ROUTE["one"], 200, 50_000)  # by the worker that had this slot before, who has counted it
    in_flight = InFlightTime(worker, lambda: waited[0])
    worker.observe(ROUTE["one"], 200, 2_000_000)
    worker.observe(ROUTE["realtime"], 503, 6_000_000)
    waited[0] += 2_000_000
    in_flight.count_elapsed()
    assert worker.cells[IN_FLIGHT] == 8_000_000 + 2_000_000
    in_flight.count_elapsed()
    assert worker.cells[IN_FLIGHT] == 10_000_000
    assert "forecache_reader_in_flight_seconds_total 0.01\n" in render(runtime, {}, build=BUILD).decode()


def test_the_start_lasts_from_the_begin_of_the_process_until_all_are_ready(runtime: ReaderSharedMemory) -> None:
    assert "forecache_reader_start_seconds" not in render(runtime, {}, build=BUILD).decode()
    before_s = _age_s()
    runtime.note_ready()
    assert before_s - 0.05 <= runtime.start_s <= _age_s() + 0.05  # the kernel tells begins in hundredths of a second
    assert f"forecache_reader_start_seconds {round(runtime.start_s, 3)}\n" in render(runtime, {}, build=BUILD).decode()


def _age_s() -> float:
    import psutil

    begin_s = psutil.Process()._proc.create_time(monotonic=True)  # type: ignore[attr-defined]
    return time.clock_gettime(time.CLOCK_BOOTTIME) - begin_s
