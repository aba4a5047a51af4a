"""Whether a reader should get requests: the worker that is asked speaks for all that run."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from forecache.serve.reader.http.readiness import Readiness
from forecache.serve.reader.shared_memory import ReaderSharedMemory
from forecache.serve.reader.worker_metrics import DAMAGED, SLOT_BYTES, WorkerMetrics


class Worker:
    """A worker of a reader of two, with a descriptor of the shared memory of its own, as its process has one."""

    def __init__(self, made: ReaderSharedMemory) -> None:
        self.runtime = ReaderSharedMemory(made.path, SLOT_BYTES)
        self.metrics = WorkerMetrics.claim(self.runtime)
        self.catalog: Any = SimpleNamespace(
            warm=False,
            is_following=True,
            damaged=set(),
            answers={"churn": None},
            lag=SimpleNamespace(reason=""),
            partial=SimpleNamespace(find_reason=lambda: ""),
        )
        settings: Any = SimpleNamespace(reader_workers=2)
        context: Any = SimpleNamespace(
            settings=settings, runtime=self.runtime, metrics=self.metrics, catalog=self.catalog
        )
        self.readiness = Readiness(context, ())

    def turn(self, *, warm: bool = True) -> None:
        self.catalog.warm = warm
        self.readiness.note_state()


@pytest.fixture
def made() -> Iterator[ReaderSharedMemory]:
    runtime = ReaderSharedMemory.create(num_slots=4, slot_bytes=SLOT_BYTES)
    yield runtime
    runtime.remove()


def test_the_first_worker_waits_until_every_other_has_started_and_has_read_its_versions(
    made: ReaderSharedMemory,
) -> None:
    one = Worker(made)
    one.turn()
    assert one.readiness.not_ready_reason() == "1 of 2 workers of the reader have started."
    two = Worker(made)
    assert "still reading" in one.readiness.not_ready_reason()
    two.turn()
    assert one.readiness.not_ready_reason() == two.readiness.not_ready_reason() == ""


def test_what_one_worker_has_found_is_said_by_the_others_until_it_has_gone(made: ReaderSharedMemory) -> None:
    one, two = Worker(made), Worker(made)
    one.turn()
    two.turn()
    two.catalog.damaged.add("churn")
    two.metrics.cells[two.metrics.pipeline_offset("churn") + DAMAGED] = 1
    two.turn()
    assert one.readiness.not_ready_reason().startswith("The published version of churn is damaged")
    two.catalog.damaged.clear()
    two.catalog.answers.clear()
    two.turn()
    assert one.readiness.not_ready_reason() == "No pipeline has a published version that can be read."
    two.catalog.answers["churn"] = None
    two.turn()
    assert one.readiness.not_ready_reason() == ""


def test_a_worker_that_replaces_another_takes_nobody_out_until_it_knows_better(made: ReaderSharedMemory) -> None:
    one, two = Worker(made), Worker(made)
    one.turn()
    two.turn()
    assert one.readiness.not_ready_reason() == ""
    three = Worker(made)
    assert "still reading" in three.readiness.not_ready_reason()
    assert one.readiness.not_ready_reason() == ""
    three.catalog.answers.clear()
    three.turn()
    assert "No pipeline" in one.readiness.not_ready_reason()


def test_the_reader_drains_as_a_whole(made: ReaderSharedMemory) -> None:
    one, two = Worker(made), Worker(made)
    one.turn()
    two.turn()
    made.start_draining()
    assert "draining" in one.readiness.not_ready_reason()


def test_the_first_worker_waits_for_a_live_layer_and_later_lag_takes_nobody_out(made: ReaderSharedMemory) -> None:
    one, two = Worker(made), Worker(made)
    one.catalog.lag.reason = two.catalog.lag.reason = "The live layer of churn is behind."
    one.turn()
    two.turn()
    assert one.readiness.not_ready_reason() == "The live layer of churn is behind."
    one.catalog.lag.reason = ""
    one.turn()
    assert one.readiness.not_ready_reason() == "A worker of the reader waits until a live layer is near its stream."
    two.catalog.lag.reason = ""
    two.turn()
    assert one.readiness.not_ready_reason() == two.readiness.not_ready_reason() == ""
    one.catalog.lag.reason = "The live layer of churn is behind."
    one.turn()
    assert one.readiness.not_ready_reason() == two.readiness.not_ready_reason() == ""


def test_a_worker_that_cannot_look_for_new_versions_is_not_ready(made: ReaderSharedMemory) -> None:
    one, two = Worker(made), Worker(made)
    one.turn()
    two.turn()
    two.catalog.is_following = False
    two.turn()
    assert one.readiness.not_ready_reason() == two.readiness.not_ready_reason()
    assert "cannot look for new versions" in one.readiness.not_ready_reason()
    two.catalog.is_following = True
    two.turn()
    assert one.readiness.not_ready_reason() == two.readiness.not_ready_reason() == ""
