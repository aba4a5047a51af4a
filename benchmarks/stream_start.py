"""What the tiles of a stream cost at its start, from all rows and from their file, and what writing the file costs.

PYTHONPATH=. .venv/bin/python benchmarks/stream_start.py 10 1      millions of rows, millions of keys; about 5 minutes

The table has random events of today, a file for each 200,000. The last line shows how long batches of 50 events
take at 2,000 events/s, without and with the file being written.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from forecache.base.settings import Settings, load_settings
from forecache.declare import Column, FeatureView, Live, Publish, Source, Stream, Table, Topic, Window
from forecache.kit.delta.stream_tables import hour_of
from forecache.stream.engine.restore_state import rebuild_state, tile_saver
from forecache.stream.step import StreamStep
from forecache.stream.table.schema import EVENT_DAY, HOUR, KAFKA_AT, OFFSET, PARTITION, PLACE, POSITION, RECEIVED_AT
from forecache.stream.tiles.saver import COMMITS

MILLION, ROWS_A_COMMIT, BATCH, EVENTS_PER_S = 1_000_000, 200_000, 50, 2_000
NOW = datetime.now(timezone.utc)
MIDNIGHT = datetime(NOW.year, NOW.month, NOW.day, tzinfo=timezone.utc)
SOURCE = Source(
    "payments",
    columns=(Column("customer_id", "bigint"), Column("at", "timestamp"), Column("amount", "double")),
    event_time="at",
    start=NOW.date(),
)
VIEW = FeatureView(
    "customer",
    ("customer_id",),
    (SOURCE,),
    windows=(
        Window("spent_7d", "sum", 7, "amount"),
        Window("times_7d", "count", 7),
        Window("times_15m", "count", minutes=15),
    ),
    publish=Publish(),
    live=Live(),
)
STREAM = Stream("payments", Topic("payments", topic="payments", source=SOURCE), views=(VIEW,), to=(Table(),))


class Night:
    """Of yesterday, which knows no key."""

    name, as_of = "yesterday", NOW.date() - timedelta(days=1)

    def read_words(self, keys: Any) -> tuple[None, None]:
        return None, None


def main() -> None:
    """Print a line for the start from rows, the one from the file, and the batches beside the writing of the file."""
    rows, keys = (int(float(each) * MILLION) for each in (*sys.argv[1:], *("10", "1")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings(home=home)
        for position in range(rows // ROWS_A_COMMIT):
            table = events(ROWS_A_COMMIT, keys, position)
            write_deltalake(settings.table_uri(STREAM.table), table, mode="append", partition_by=[HOUR])
        print(f"{rows / MILLION:g} million rows of {keys / MILLION:g} million keys")
        print(f"start from rows:     {alone(started, home)}")
        print(f"start from the file: {alone(started, home)}")
        for number in range(COMMITS):
            table = events(EVENTS_PER_S, keys, rows // ROWS_A_COMMIT + number)
            write_deltalake(settings.table_uri(STREAM.table), table, mode="append", partition_by=[HOUR])
        print(f"the same, {COMMITS} commits of {EVENTS_PER_S:,} rows behind: {alone(started, home)}")
        size = sum(path.stat().st_size for path in Path(home).glob("streams/*/tiles/*"))
        print(f"file: {size / MILLION:.0f} MB")
        print(f"events, median, p99, most: {alone(batches, home)}")


def a_step(settings: Settings) -> StreamStep:
    return StreamStep(settings, STREAM, bases=lambda view: Night())


def started(home: str) -> str:
    """Start on the table; the file is complete afterwards."""
    settings = load_settings(home=home)
    step = a_step(settings)
    with closing(tile_saver(settings, STREAM, step.views)) as tiles:
        began, began_cpu = time.perf_counter(), time.process_time()
        rows, _ = rebuild_state(settings, STREAM, step, tiles)
        seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
        tiles.finish()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"{seconds:.1f} s ({cpu:.1f} s of CPU), {rows:,} rows read, at most {most / 1e9:.2f} GB of memory"


def batches(home: str) -> str:
    """Take in batches for a minute, each handed over at once; the file is written again and again, then not at all."""
    settings = load_settings(home=home)
    step = a_step(settings)
    said = []
    sys.setswitchinterval(0.0005)  # as the engine has it
    with closing(tile_saver(settings, STREAM, step.views)) as tiles:
        rebuild_state(settings, STREAM, step, tiles)
        keys = len(step.views[VIEW.name].entries)
        for writes in (False, True):
            seconds, busy, written, due = [], [], 0, time.perf_counter()
            for number in range(1200):
                lot = events(BATCH, keys, 10**6 + number)
                due += BATCH / EVENTS_PER_S
                time.sleep(max(0.0, due - time.perf_counter()))
                began, began_cpu = time.perf_counter(), time.thread_time()
                answered = step.answer(lot)
                tiles.note_submitted([answered.live])
                tiles.confirm_commit(lot, 10**6 + number)
                if writes:
                    tiles._commits, tiles._not_before = 10**6, 0.0
                    written += tiles._writing is not None and tiles._writing.has_ended
                    tiles.update()
                seconds.append(time.perf_counter() - began)
                busy.append(time.thread_time() - began_cpu)
            wall, cpu = (
                [f"{1e3 * each:.1f}" for each in (*np.percentile(of, (50, 99)), max(of))] for of in (seconds, busy)
            )
            how = f"the file is written {written} times" if writes else "the file is not written"
            said.append(f"{how}: {BATCH} take {', '.join(wall)} ms (CPU of the thread {', '.join(cpu)})")
    return "; ".join(said)


def events(count: int, keys: int, position: int) -> pa.Table:
    """Rows of a commit, of random keys and of moments of today so far."""
    generator = np.random.default_rng(position)
    moment = pa.timestamp("us", "UTC")
    now = pa.repeat(pa.scalar(NOW, moment), count)
    passed_us = max(1, int((NOW - MIDNIGHT).total_seconds() * 1e6))
    at = int(MIDNIGHT.timestamp() * 1e6) + generator.integers(0, passed_us, count)
    return pa.table(
        {
            POSITION: pa.repeat(position, count),
            PLACE: pa.array(range(count), pa.int32()),
            PARTITION: pa.repeat(pa.scalar(0, pa.int32()), count),
            OFFSET: pa.array(range(position * count, (position + 1) * count), pa.int64()),
            KAFKA_AT: now,
            RECEIVED_AT: now,
            HOUR: pa.repeat(hour_of(NOW), count),
            EVENT_DAY: pa.repeat(pa.scalar(date(NOW.year, NOW.month, NOW.day)), count),
            "customer_id": generator.integers(0, keys, count),
            "at": pa.array(at, moment),
            "amount": np.round(generator.exponential(30, count), 2),
        }
    )


def alone(phase: Callable[[str], Any], home: str) -> Any:
    """What a phase returns, called in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(phase, (home,))


if __name__ == "__main__":
    main()
