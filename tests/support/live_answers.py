"""Answers of a model that looks up a live view, while a stream goes on: step, commits, tailer, engine and log are real.

Only Kafka and HTTP are left out. The view is that of `live_view_sample`, its night is of yesterday.
"""

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any, cast

import numpy as np
import pyarrow as pa
from live_view_sample import EPOCH, PAYMENTS, VIEW, Payment, random_payments, table_of
from logged_answers import Path, write_log
from ranking_code import live
from release_support import make_release
from tailing import follow
from view_tables import write_features

from forecache.base.settings import Settings
from forecache.declare import Candidates, RequestField, Stream, Topic
from forecache.declare.features.live import build_merge_plan
from forecache.declare.realtime.examples import Log
from forecache.kit.delta.log import open_if_exists
from forecache.realtime.answer.engine import AnswerEngine
from forecache.realtime.answer.served_release import serve_release
from forecache.realtime.deadline import RequestClock
from forecache.realtime.log.answer_log import AnswerLog
from forecache.realtime.log.record import unpack_answer
from forecache.realtime.metrics import ModelCells
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.format import LookupContract
from forecache.realtime.release.load import load_release
from forecache.realtime.request.request_answer import StageTimes
from forecache.serve.reader.versions.live_answers import answers_of
from forecache.serve.reader.versions.live_layers import LiveLayers
from forecache.serve.store import open_store, publish
from forecache.stream.engine.pending_rows import PendingRows
from forecache.stream.live_layers import write_layers
from forecache.stream.step import StepResult, StreamStep
from forecache.stream.table.schema import KAFKA_AT, MESSAGES, OFFSET, PARTITION, RECEIVED_AT
from forecache.stream.table.writer import CommitBatch, StreamWriter
from forecache.stream.tail.tailer import Tailer

CARDS, KNOWN = 12, 8
STREAM = Stream("cards", Topic("payments", "card-payments", PAYMENTS), views=(VIEW,))
FEATURES = tuple(f"{of}_{name}" for of in ("own", "other") for name in VIEW.served_columns)
_MEMBERS = ("payment", "card", "amount", "pieces", "fraud")


def night_of(now: datetime) -> date:
    """A night after which some hours of events have come, whatever the hour is."""
    return (now - timedelta(hours=6)).date() - timedelta(days=1)


def write_night(settings: Settings, night: date, *, seed: int = 1) -> None:
    """A night of the view: some numbers for some of the cards, as no answer is compared with what is true."""
    rng, plan = np.random.default_rng(seed), build_merge_plan(VIEW)
    columns: dict[str, Any] = {"card": pa.array(range(KNOWN), pa.int64())}
    columns["as_of"] = pa.array([night] * KNOWN, pa.date32())
    for name in VIEW.feature_names:
        columns[name] = pa.array(rng.normal(size=KNOWN).round(3), pa.float64())
    for column in plan.base_columns:
        if column.name == "state_last_day":
            columns[column.name] = pa.array([(night - EPOCH).days - n for n in range(KNOWN)], pa.int64())
        elif column.is_float:
            columns[column.name] = pa.array(rng.normal(size=KNOWN), pa.float64())
        else:
            columns[column.name] = pa.array(rng.integers(0, 1000, KNOWN), pa.int64())
    write_features(settings, pa.table(columns), night=night, view=VIEW.name)
    publish(settings, VIEW, night=night)


def release_of(settings: Settings) -> None:
    contracts = tuple(
        LookupContract(called, VIEW.name, (field,), VIEW.served_columns, VIEW.packed.contract, live=True)
        for called, field in (("own", "card"), ("other", "rival"))
    )
    make_release(
        settings, features=FEATURES, transform=live.both, request=(RequestField("card", "bigint"),),
        candidates=Candidates((RequestField("rival", "bigint"),)), lookups=contracts,
        warmup=[b'{"card":1,"candidates":[{"rival":2}]}'], created_at="2026-01-01T00:00:00Z", log=Log("card"),
    )  # fmt: skip


def payments(now: datetime, count: int = 120, *, seed: int = 1) -> list[Payment]:
    """Payments of the night's day and of the next, in no order; a quarter of the last hour, none in the future."""
    at_us, rng = int(now.timestamp() * 1e6), random.Random(seed)
    made = random_payments(rng, night_of(now), 2, 4 * count, cards=CARDS, ordered=False)
    past = [each for each in made if each.at_us < at_us - 3_700_000_000][: count - count // 4]
    recent = [replace(each, at_us=at_us - rng.randrange(1_000_000, 3_600_000_000)) for each in made[-(count // 4) :]]
    rng.shuffle(together := past + recent)
    return together


class Streaming:
    """The stream of card payments, by hand: `take` answers messages, `commit` commits what was taken."""

    def __init__(self, settings: Settings, *, partitions: int = 2) -> None:
        self.settings = settings
        write_layers(settings, STREAM)
        self.writer, self.step = StreamWriter(settings, STREAM), StreamStep(settings, STREAM)
        self.next = {partition: self.writer.offsets.get(partition, 0) for partition in range(partitions)}
        self.pending: PendingRows | None = None
        self._taken: list[StepResult] = []
        self.number = 0

    def show_pending(self) -> None:
        self.pending = PendingRows(self.settings, STREAM, self.writer)

    def take(self, some: Sequence[Payment]) -> None:
        for partition in self.next:
            its = [each for place, each in enumerate(some) if place % len(self.next) == partition]
            if not its:
                continue
            answered = self.step.run(self._messages(its, partition))
            assert answered.rows.num_rows == len(its), answered.bad.to_pylist()
            self._taken.append(answered)
            if self.pending is not None:
                self.pending.put(self.number, answered, dict(self.next))

    def commit(self) -> int:
        rows = pa.concat_tables([each.rows for each in self._taken])
        version = self.writer.write(CommitBatch(rows, self._taken[0].bad.slice(0, 0), dict(self.next)))
        if self.pending is not None:
            self.pending.confirm(self.number, version)
        self.number += 1
        self._taken.clear()
        return version

    def tail(self) -> None:
        """Bring the live layer up to the table."""
        with Tailer(self.settings) as tailer:
            follow(tailer)
        if self.pending is not None:
            self.pending.sweep()

    def close(self) -> None:
        if self.pending is not None:
            self.pending.close()

    def _messages(self, some: Sequence[Payment], partition: int) -> pa.Table:
        first, n, now = self.next[partition], len(some), datetime.now(timezone.utc)
        self.next[partition] += n
        values = []
        for row in table_of(some).to_pylist():
            values.append(json.dumps({**{name: row[name] for name in _MEMBERS}, "at": row["at"].isoformat()}).encode())
        columns = {
            PARTITION: [partition] * n, OFFSET: range(first, first + n), KAFKA_AT: [now] * n, RECEIVED_AT: [now] * n,
            "value": values,
        }  # fmt: skip
        return pa.table([pa.array(columns[field.name], field.type) for field in MESSAGES], schema=MESSAGES)


@contextmanager
def live_stream(settings: Settings, now: datetime) -> Iterator[Streaming]:
    """A stream beside last night's state and a release that answers from both."""
    write_night(settings, night_of(now))
    release_of(settings)
    found = Streaming(settings)
    try:
        yield found
    finally:
        found.close()


class _Collected:
    """Stands for the spool: keeps the bytes of each answer."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.counters = self

    def add(self, content: Any) -> None:
        assert isinstance(content, bytes), f"the answer was not logged: {content}"
        self.answers.append(content)

    def set_sending(self, is_sending: bool) -> None:
        """Nobody dies in between."""


class LiveAnswering:
    """Answers requests by the release, the served version and the live layer, and logs them as a reader does.

    Attributes:
        packed: The bytes of the answers that `logged` returned last.
    """

    packed: list[bytes]

    def __init__(self, settings: Settings) -> None:
        self.settings, self._layers, self._channel = settings, LiveLayers(), _Collected()
        folder = open_releases(settings, "ranking")
        self.loaded = load_release(folder, max(folder.numbers()))
        store = open_store(settings, VIEW.name)
        self.answers = answers_of(store.snapshot(), self._layers.open_layer(store))
        versions = {VIEW.name: self.answers}
        self.served = serve_release(self.loaded, Path(self.loaded), versions, cast(ModelCells, None))
        self.engine = AnswerEngine(versions)
        self.log = AnswerLog(self.loaded.release, cast(Any, self._channel))

    def ask(self, count: int, *, rivals: int, seed: int = 0) -> None:
        self._layers.open_layer(open_store(self.settings, VIEW.name))
        rng = random.Random(seed)
        for _ in range(count):
            from time import perf_counter_ns

            candidates = [{"rival": rng.randrange(CARDS + 1)} for _ in range(rivals)]
            body = {"card": rng.randrange(CARDS + 1), "candidates": candidates}
            parsed = self.served.parser.parse(json.dumps(body).encode())
            self.log.assign_id(parsed)
            began = perf_counter_ns()
            clock = RequestClock(began, began + 10**12, 10**6)
            answered = self.engine.answer_now(self.served, parsed, clock, StageTimes())
            answered.elapsed = perf_counter_ns() - began
            assert answered.fallback_reason == ""
            self.log.add(parsed, answered, clock)

    def logged(self) -> list[dict[str, Any]]:
        """The rows of all answers so far, as the committer makes them; forgets them."""
        found, self.packed = [], list(self._channel.answers)
        for content in self.packed:
            row = unpack_answer(memoryview(content))
            at = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=row["arrived_at"])
            held = {key: bytes(value) if isinstance(value, memoryview) else value for key, value in row.items()}
            found.append({**held, "arrived_at": at, "day": at.date(), "replica": "here#0"})
        self._channel.answers.clear()
        return found

    def write_down(self) -> int:
        rows = self.logged()
        write_log(self.settings, rows)
        return len(rows)

    def close(self) -> None:
        self._layers.close()
        self.answers.snapshot.close()
        self.loaded.close()


def rows_in_table(settings: Settings) -> list[dict[str, Any]]:
    delta = open_if_exists(settings, STREAM.table)
    rows = [] if delta is None else delta.to_pyarrow_table().to_pylist()
    return sorted(rows, key=lambda row: (row["position"], row["place"]))
