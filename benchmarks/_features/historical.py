"""A table of keys and times given features, by Forecache and by Feast: `HOME NIGHTS DAYS ROWS`, JSON as its last line.

Both read a Parquet table of nights that is there. To Feast a night is known at the midnight that ends it, for a day.
"""

import json
import subprocess
import sys
import time
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from _features.ways import NAMES, START, TILES
from forecache.base.settings import load_settings
from forecache.kit.delta.tables import open_table
from forecache.lake.features import build_view
from forecache.plugins.historical_features.historical import historical_features

ROOT = Path(__file__).resolve().parents[2]
FEAST = ROOT / ".tools" / "feast" / "bin" / "python"
ROUNDS = 3


def main() -> None:
    home, (num_nights, days, rows) = Path(sys.argv[1]), map(int, sys.argv[2:])
    from forecache.kit.spark.session import spark_session

    settings = load_settings(home=home, spark_master="local[2]")
    spark = spark_session(settings)
    last = START + timedelta(days=days - 1)
    nights = [last - timedelta(days=n) for n in reversed(range(num_nights))]
    build_view(settings, TILES, nights)
    features = open_table(settings, TILES.feature_table).to_pyarrow_table()
    known_at = pc.add(features["as_of"].cast(pa.timestamp("us", "UTC")), pa.scalar(timedelta(days=1)))
    repository = home / "feast"
    repository.mkdir()
    pq.write_table(
        features.select(["customer", *NAMES]).append_column("event_timestamp", known_at),
        repository / "features.parquet",
    )
    pq.write_table(spine(rows, features["customer"], nights), repository / "spine.parquet")
    seconds, found = [], pa.table({})
    for _ in range(ROUNDS):
        started = time.perf_counter()
        asked = spark.read.parquet(str(repository / "spine.parquet"))
        found = historical_features(spark, settings, [TILES], asked).toArrow()
        seconds.append(time.perf_counter() - started)
    command = [FEAST, Path(__file__).parent / "feast_side.py", repository, str(ROUNDS), *NAMES]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    theirs = pq.read_table(repository / "found.parquet")
    left_out = require_equal(found, theirs)
    answered = found.num_rows - found[NAMES[0]].null_count
    told = {"rows": found.num_rows, "answered": answered, "feature_rows": features.num_rows, "seconds": seconds}
    told["left_out_by_feast"] = left_out
    print(json.dumps({**told, "feast_seconds": json.loads(done.stdout.splitlines()[-1])}))


def spine(rows: int, customers: pa.ChunkedArray, nights: list[date]) -> pa.Table:
    """Rows of known and of a few unknown customers, at times for which one of the nights is known; some at midnight."""
    rng = np.random.default_rng(2)
    keys = customers.to_numpy()[rng.integers(0, len(customers), rows)]
    keys[::50] = -1
    first = np.datetime64(nights[0] + timedelta(days=1), "us").astype(np.int64)
    day_us = 86_400_000_000
    times = first + rng.integers(0, len(nights) * day_us, rows)
    times[1::10] -= times[1::10] % day_us
    moments = pa.array(times, pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    asked = pa.table({"customer": keys, "event_timestamp": moments}).group_by(["customer", "event_timestamp"])
    each = asked.aggregate([])  # Feast leaves out repeated rows
    return each.append_column("row", pa.array(np.arange(len(each))))


def require_equal(ours: pa.Table, theirs: pa.Table) -> int:
    """Both have the same bits in every feature; returns the rows that Feast leaves out.

    Feast's file store leaves out a row whose key has features, but none as new as asked for: here it has nulls.
    """
    theirs = theirs.sort_by("row")
    is_theirs = pc.is_in(ours["row"], theirs["row"].combine_chunks())
    left_out, ours = ours.filter(pc.invert(is_theirs)), ours.filter(is_theirs).sort_by("row")
    for name in ("row", *NAMES):
        mine, other = (table[name].combine_chunks() for table in (ours, theirs))
        if name != "row":
            other = other.cast(pa.float32())
            other = pc.if_else(pc.is_nan(other), None, other)
            if left_out[name].null_count < len(left_out):
                raise AssertionError(f"Feast leaves out rows that have {name}")
        if not mine.equals(other):
            raise AssertionError(f"{name} differs from Feast's")
    return len(left_out)


if __name__ == "__main__":
    main()
