"""What it costs a stream to know which events were there before: time at the start and of each batch, memory, disk.

PYTHONPATH=. .venv/bin/python benchmarks/known_ids.py 20      millions of ids; about 4 minutes and 1 GB of disk

The table has random ids of today. Batches of 50 events come at 2,000 events/s for a minute; each is committed at once.
"""

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from forecache.base.settings import load_settings
from forecache.declare import Column, FeatureView, Live, Publish, Source, Stream, Table, Topic, Window
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.stream_tables import hour_of
from forecache.kit.delta.tables import open_table
from forecache.stream.dedup.deduplicator import Deduplicator
from forecache.stream.engine.restore_state import load_ids, open_rows
from forecache.stream.table.schema import HOUR, OFFSET, PARTITION, PLACE, POSITION, RECEIVED_AT

MILLION, BATCH, BATCHES, EVENTS_PER_S = 1_000_000, 50, 2_400, 2_000
NOW = datetime.now(timezone.utc)
SOURCE = Source(
    "payments",
    columns=(Column("payment_id", "bigint"), Column("at", "timestamp")),
    event_time="at",
    unique=("payment_id",),
    start=NOW.date(),
)
VIEW = FeatureView(
    "payment", ("payment_id",), (SOURCE,), windows=(Window("times", "count", 2),), publish=Publish(), live=Live()
)
STREAM = Stream("payments", Topic("payments", topic="payments", source=SOURCE), views=(VIEW,), to=(Table(),))


def main() -> None:
    """Print a line for the start without files, the start with them, and the batches."""
    millions = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as home:
        for position in range(millions):
            rows = events(MILLION, seed=position, position=position)
            write_deltalake(load_settings(home=home).table_uri(STREAM.table), rows, mode="append", partition_by=[HOUR])
        print(f"{millions} million ids")
        print(f"start without files: {alone(started, home)}")
        print(f"start with files: {alone(started, home)}")
        size = sum(path.stat().st_size for path in Path(home).glob("streams/*/ids/*"))
        print(f"disk: {size / millions / MILLION:.1f} bytes an id")
        print(f"batches: {alone(batches, home)}")


def started(home: str) -> str:
    """Start on the table; files are complete and merged afterwards."""
    settings = load_settings(home=home)
    open_dataset(open_table(settings, STREAM.table))
    before = anonymous_bytes()
    with closing(Deduplicator(("payment_id",), 2)) as known:
        began = time.perf_counter()
        rows = load_ids(settings, STREAM, known, open_rows(settings, STREAM))
        seconds, held = time.perf_counter() - began, anonymous_bytes() - before
        while known.is_merging:
            time.sleep(0.1)
        merged = time.perf_counter() - began
    return f"{seconds:.2f} s, {rows:,} rows read, {held / MILLION:.0f} MB of memory more, merged after {merged:.1f} s"


def batches(home: str) -> str:
    """Ask for new events, and have them committed."""
    with closing(Deduplicator(("payment_id",), 2)) as known:
        settings = load_settings(home=home)
        load_ids(settings, STREAM, known, open_rows(settings, STREAM))
        lots = [events(BATCH, seed=10**6 + number, position=10**6 + number) for number in range(BATCHES)]
        before, seconds, busy, due = anonymous_bytes(), [], [], time.perf_counter()
        for number, lot in enumerate(lots):
            due += BATCH / EVENTS_PER_S
            time.sleep(max(0.0, due - time.perf_counter()))
            began, began_cpu = time.perf_counter(), time.thread_time()
            known.find_new(lot)
            known.confirm_commit(lot, 10**6 + number)
            seconds.append(time.perf_counter() - began)
            busy.append(time.thread_time() - began_cpu)
        held = anonymous_bytes() - before
        began = time.perf_counter()
        assert not any(known.find_new(lot) for lot in lots[:1000])
        again = (time.perf_counter() - began) / 1000
    wall, cpu = ([f"{1e6 * each:.0f} us" for each in (*np.percentile(of, (50, 99)), max(of))] for of in (seconds, busy))
    return (
        f"{BATCH} new events take {wall[0]}, p99 {wall[1]}, most {wall[2]} (CPU of the thread {', '.join(cpu)}); "
        f"{BATCH} repeats {1e6 * again:.0f} us; {held / MILLION:.0f} MB of memory more for {BATCH * BATCHES:,} new ids"
    )


def events(count: int, *, seed: int, position: int) -> pa.Table:
    """Rows of a commit with random ids."""
    ids = np.random.default_rng(seed).integers(0, 1 << 62, count)
    now = pa.scalar(NOW, pa.timestamp("us", "UTC"))
    return pa.table(
        {
            POSITION: pa.repeat(position, count),
            PLACE: pa.array(range(count), pa.int32()),
            PARTITION: pa.repeat(pa.scalar(0, pa.int32()), count),
            OFFSET: pa.array(range(position * count, (position + 1) * count), pa.int64()),
            RECEIVED_AT: pa.repeat(now, count),
            HOUR: pa.repeat(hour_of(NOW), count),
            "payment_id": ids,
            "at": pa.repeat(now, count),
        }
    )


def anonymous_bytes() -> int:
    """Memory of this process that is no page of a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def alone(phase: Callable[[str], Any], home: str) -> Any:
    """What a phase returns, called in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(phase, (home,))


if __name__ == "__main__":
    main()
