"""A clock that was ahead and is set right: what a reader says of the time afterwards is of now."""

from collections.abc import Iterator
from datetime import datetime, timezone
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
from reader_support import churn_rows, write_version
from realtime_support import write_views
from release_support import make_release

from forecache.base.settings import Settings, load_settings
from forecache.declare.realtime.lookups import Default, Precomputed, Stored
from forecache.kit.http import http1 as heads
from forecache.plugins.status.history import HISTORY_BYTES, History, ReaderTraffic
from forecache.realtime.answer.fallbacks import fallback_answer, open_fallbacks
from forecache.realtime.lookups import ViewLookups, ViewUnavailable
from forecache.realtime.release.folder import open_releases, read_release
from forecache.realtime.request.request_answer import ParsedRequest
from forecache.serve.reader import shared_memory, worker_metrics
from forecache.serve.reader.http import app as app_module
from forecache.serve.reader.http.app import ReaderApp
from forecache.serve.reader.shared_memory import ReaderSharedMemory
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.reader.worker_metrics import BUCKETS, SLOT_BYTES, WorkerMetrics
from forecache.serve.store import open_store
from forecache.serve.store.manifest import StalePolicy
from forecache.stream.engine import engine as figures_module
from forecache.stream.engine.engine import StreamFigures

AS_OF = "2026-06-30"
NOW = datetime(2026, 7, 1, 8, tzinfo=timezone.utc).timestamp()
AHEAD = NOW + 3 * 86400
AGE_S = 8 * 3600
REFUSES = StalePolicy(36.0, "refuse")


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (app_module, heads):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=str(tmp_path / "home"))


@pytest.fixture
def runtime() -> Iterator[ReaderSharedMemory]:
    runtime = ReaderSharedMemory.create(num_slots=2, slot_bytes=SLOT_BYTES)
    yield runtime
    runtime.remove()


class Asked:
    """A call, and what it was answered."""

    query_string = ""
    arrived = 0

    def __init__(self, method: str, path: str, body: bytes = b"") -> None:
        self.method, self.path, self.headers = method, path, {}
        self._body = body
        self.status, self.answer = 0, {}

    def whole_body(self, most_bytes: int, memory: object) -> bytes:
        return self._body

    def respond(self, status: int, headers: object, body: bytes) -> None:
        self.status, self.answer = status, orjson.loads(body)


QUESTIONS = {
    "one key": ("GET", "/v1/churn/00007", b"", lambda found: found),
    "many keys": ("POST", "/v1/churn", b'{"keys":["00007"]}', lambda found: found),
    "the store": ("GET", "/v1/churn", b"", lambda found: found),
    "all stores": ("GET", "/v1", b"", lambda found: found["pipelines"][0]),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_ages_of_the_future_end_with_it(
    question: str, settings: Settings, runtime: ReaderSharedMemory, clock: Clock
) -> None:
    write_version(settings.store_path, "churn", churn_rows(10), as_of=AS_OF, policy=StalePolicy(36.0, "flag"))
    app = ReaderApp(settings, runtime)
    app.catalog._follower.install("churn", VersionAnswers(open_store(settings, "churn").snapshot()))
    method, path, body, part = QUESTIONS[question]
    seen = []
    for clock.now in (NOW, AHEAD, NOW, NOW - 7200):
        call: Any = Asked(method, path, body)
        app.handle(call)
        found = part(call.answer)
        seen.append((call.status, found["age_s"], found["stale"]))
    app.close()
    assert seen == [
        (200, AGE_S, False),
        (200, AGE_S + 3 * 86400, True),
        (200, AGE_S, False),
        (200, AGE_S - 7200, False),
    ]


def test_what_was_refused_for_its_age_is_answered_again(
    settings: Settings, runtime: ReaderSharedMemory, clock: Clock
) -> None:
    write_version(settings.store_path, "churn", churn_rows(10), as_of=AS_OF, policy=REFUSES)
    app = ReaderApp(settings, runtime)
    app.catalog._follower.install("churn", VersionAnswers(open_store(settings, "churn").snapshot()))
    seen = []
    for clock.now in (NOW, AHEAD, NOW):
        calls: list[Any] = [Asked("GET", "/v1/churn/00007"), Asked("POST", "/v1/churn", b'{"keys":["00007"]}')]
        for call in calls:
            app.handle(call)
        seen.append([call.status for call in calls])
    app.close()
    assert seen == [[200, 200], [503, 503], [200, 200]]


def test_the_date_of_responses_goes_back(clock: Clock) -> None:
    for clock.now in (NOW, AHEAD, NOW, -5.5):
        head = heads.response_head(200, (), 0, closes=False, old=False)
        assert f"date: {formatdate(clock.now, usegmt=True)}\r\n".encode() in head


def test_look_ups_of_a_view_that_was_too_old_are_made_again(settings: Settings) -> None:
    write_views(settings, as_of=AS_OF, policy=REFUSES)
    make_release(settings)
    served = {name: VersionAnswers(open_store(settings, name).snapshot()) for name in ("household", "product")}
    release = read_release(open_releases(settings, "ranking"), 1)
    lookups = ViewLookups(release.lookups, served, refuses=True)
    columns = {"household_id": np.array([1]), "product_id": np.array(["a"], object)}
    request = ParsedRequest(1, columns, ["a"], b"")
    before = lookups.read(request, NOW).views["household"].tolist()
    with pytest.raises(ViewUnavailable):
        lookups.read(request, AHEAD)
    assert lookups.read(request, NOW).views["household"].tolist() == before


def test_a_fallback_whose_store_was_too_old_answers_again(settings: Settings) -> None:
    write_version(settings.store_path, "churn", churn_rows(10), as_of=AS_OF, policy=REFUSES)
    served = {"churn": VersionAnswers(open_store(settings, "churn").snapshot())}
    fallbacks = open_fallbacks((Precomputed(Stored("churn", ("user",), "churn_probability")), Default(0.0)))
    request = ParsedRequest(1, {"user": np.array(["00007"], object)}, [], b"")
    found = [fallback_answer(request, fallbacks, served, now).answered_by for now in (NOW, AHEAD, NOW)]
    assert found == ["precomputed", "default", "precomputed"]


@pytest.mark.parametrize("now", [-1e9, NOW])
def test_a_heartbeat_is_of_no_date(now: float, runtime: ReaderSharedMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 1970 as well; and one of a clock that was ahead does not keep a worker alive that has ended."""
    worker, ended = WorkerMetrics.claim(runtime), WorkerMetrics.claim(runtime)
    elapsed = [5000.0]
    clock = SimpleNamespace(time=lambda: now, monotonic=lambda: elapsed[0])
    for module in (worker_metrics, shared_memory):
        monkeypatch.setattr(module, "time", clock)
    ended.record_heartbeat()
    elapsed[0] += 60
    worker.record_heartbeat()
    assert (worker.is_alive, ended.is_alive) == (True, False)
    runtime.count_crash()
    assert runtime.last_crash == int(now)


def test_a_slot_that_nobody_has_had_is_not_alive(runtime: ReaderSharedMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_metrics, "time", SimpleNamespace(monotonic=lambda: 1.0))  # the machine has just started
    assert not WorkerMetrics(runtime.slot(0)).is_alive


def test_rates_of_the_status_are_of_the_seconds_that_passed() -> None:
    history = History(memoryview(bytearray(HISTORY_BYTES)))
    for step, at in enumerate((NOW, AHEAD, NOW, -5.5)):
        history.add_sample(at, ReaderTraffic(100 * step, 0, 0, [0] * BUCKETS), {}, {}, clock_s=2.0 * step)
    assert history.series()["per_s"] == [0, 50, 50, 50]
    assert history.series()["at_s"] == [NOW, AHEAD, NOW, -5.5]
    assert history.recent_traffic(60)[0] == 6.0


def test_rates_of_a_stream_are_of_its_last_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(wall=AHEAD, elapsed=0.0)
    fake = SimpleNamespace(time=lambda: clock.wall, monotonic=lambda: clock.elapsed)
    monkeypatch.setattr(figures_module, "time", fake)
    figures = StreamFigures(tmp_path, "clicks", engine="arrow", freshness="seconds")
    for clock.elapsed, clock.wall in ((100.0, AHEAD), (300.0, NOW)):
        figures.count_commit(1, {}, np.full(600, clock.wall * 1e6))
    figures.write(now=True)
    assert figures.state.rows_per_s == 10.0
