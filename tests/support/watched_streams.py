"""A declared stream with a view, rows of its table, and processes that stand for its engine."""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import Schema

from forecache.base.files import lock
from forecache.base.settings import Settings, load_settings
from forecache.base.steps import extract_step
from forecache.declare import Column, FeatureView, Live, Publish, Source, Stream, StreamDay, Topic, Window
from forecache.kit.delta.commit import Change, TableState, Target, commit
from forecache.kit.delta.files import new_path, place_of, write_file
from forecache.kit.delta.stream_tables import HOUR, STREAM_PROPERTIES, hour_of
from forecache.kit.delta.writers import new_folder
from forecache.plugins.table_sources.extract import extract
from forecache.stream.state import (
    Starts,
    StreamState,
    lease_name,
    read_tagged_starts,
    stream_folder,
    swap_starts,
    write_state,
)

D = [date(2026, 1, 1) + timedelta(days=number) for number in range(8)]
TOPIC = "WATCHED_TOPIC"
"""Variable with the name of the topic, for processes that read it from a broker."""
_MOMENT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("position", pa.int64()), ("place", pa.int32()), ("kafka_partition", pa.int32()), ("kafka_offset", pa.int64()),
        ("kafka_at", _MOMENT), (HOUR, pa.string()), ("event_day", pa.date32()), ("received_at", _MOMENT),
        ("payment_id", pa.int64()), ("customer_id", pa.int64()), ("amount", pa.float64()), ("paid_at", _MOMENT),
        ("feature_version", pa.string()), ("late", pa.bool_()),
    ]
)  # fmt: skip
"""Of the stream's table, as docs/how-to/streams.md has it."""


def payments(**more: Any) -> Source:
    given: dict[str, Any] = {"start": D[0], "extract": StreamDay("cards", start=D[0]), "unique": ("payment_id",)} | more
    return Source(
        "payments",
        columns=(
            Column("payment_id", "bigint"),
            Column("customer_id", "bigint"),
            Column("amount", "double"),
            Column("paid_at", "timestamp"),
        ),
        event_time="paid_at",
        **given,
    )


def cards(source: Source | None = None, **more: Any) -> Stream:
    source = source or payments()
    view = FeatureView(
        "customer",
        key=("customer_id",),
        sources=(source,),
        windows=(Window("spent_7d", "sum", days=7, column="amount"),),
        publish=Publish(),
        live=Live(),
    )
    given: dict[str, Any] = {"views": (view,), "max_lag_s": 60.0} | more
    return Stream("cards", Topic("payments", os.environ.get(TOPIC, "card-payments"), source), **given)


class StreamTable:
    """Commits rows as an engine does: one small file, whose position is the version of its commit."""

    def __init__(self, settings: Settings, name: str = "stream_cards") -> None:
        self._settings, self._name = settings, name
        self._offset = 0
        self.target = Target(
            settings, name, Schema.from_arrow(SCHEMA), (HOUR,), keep_log=False, configuration=STREAM_PROPERTIES
        )

    def commit(
        self,
        times: Sequence[datetime],
        *,
        at: datetime,
        partition: int = 0,
        base: str = "",
        first_id: int | None = None,
    ) -> int:
        """Rows of events at some times, committed at a time; the Delta version."""
        start = self._offset if first_id is None else first_id
        self._offset = start + len(times)

        def decide(state: TableState) -> Change:
            position = state.version + 1
            rows = pa.Table.from_pylist(
                [
                    {
                        "position": position, "place": place, "kafka_partition": partition,
                        "kafka_offset": start + place, "kafka_at": at, HOUR: hour_of(at), "event_day": time.date(),
                        "received_at": at, "payment_id": start + place, "customer_id": (start + place) % 3,
                        "amount": (start + place) / 7, "paid_at": time, "feature_version": base, "late": False,
                    }
                    for place, time in enumerate(times)
                ],
                SCHEMA,
            )  # fmt: skip
            path = new_path(new_folder(), {HOUR: hour_of(at)})
            written = write_file(
                place_of(self._settings, self._name).open(), path, rows.drop_columns([HOUR]).schema,
                [rows.drop_columns([HOUR])],
            )  # fmt: skip
            return Change([written], transactions={f"forecache-stream-cards-{partition}": self._offset})

        return commit(self.target, decide)


def moment(day: date, hour: float) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=timezone.utc) + timedelta(hours=hour)


def write_starts(settings: Settings, name: str, starts: Starts) -> None:
    """Replace the starts of a stream."""
    assert swap_starts(settings, name, starts, read_tagged_starts(settings, name)[1])


def extract_until(home: Path, days: Sequence[date], now: datetime, step: str) -> None:
    """Extract days of the stream, and die after a step."""

    def die(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    extract_step.on_step = die
    extract(load_settings(home=home, code_version="fixed"), payments(), days, now=now)


def engine(home: Path, name: str, *, runs_s: float) -> None:
    """What an engine does for whoever watches: it holds the lock and says its state; ended by a signal, it dies."""
    folder = stream_folder(home, name)
    folder.mkdir(parents=True, exist_ok=True)
    with lock(home / "locks" / lease_name(name), refused=lambda holder: SystemExit(5)):
        with (folder / "pids").open("a") as pids:
            pids.write(f"{os.getpid()}\n")
        ends = time.monotonic() + runs_s
        while time.monotonic() < ends:
            now = time.time()
            write_state(home, name, StreamState(pid=os.getpid(), started_at=now, written_at=now, committed_version=3))
            time.sleep(0.02)


def write_often(home: Path, told: Any, stop: Any) -> None:
    """Commit rows of the open and of a closed hour until told to stop; says how many."""
    settings = load_settings(home=home, code_version="fixed")
    table, now, rows = StreamTable(settings), datetime.now(timezone.utc), 0
    while not stop.is_set():
        table.commit([now] * 5, at=now, first_id=1_000_000 + rows)
        rows += 5
        told.value = rows


if __name__ == "__main__":
    engine(Path(os.environ["FORECACHE_HOME"]), sys.argv[-1], **json.loads(sys.argv[1]))
