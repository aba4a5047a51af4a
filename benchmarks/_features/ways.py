"""The same windows three ways: from day tiles, as a free function over all events, and by Spark's window functions."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa

from forecache.base.settings import Settings
from forecache.declare import AS_OF, Column, Feature, Features, FeatureView, Source, Window
from forecache.kit.delta.partitions import take_snapshot
from forecache.kit.delta.tables import append_rows, commit_partitions, read_table
from forecache.kit.delta.writers import write_frame
from forecache.lake.features import build_view
from forecache.lake.ingest.ingested_files import IngestedFile, record_files

START = date(2026, 1, 1)
LENGTHS = (1, 7, 30)
SALES = Source(
    "sales",
    (Column("customer", "bigint"), Column("day", "date"), Column("amount", "double"), Column("article", "int")),
    "day",
    start=START,
)
WINDOWS = tuple(
    window
    for days in LENGTHS
    for window in (
        Window(f"count_{days}d", "count", days),
        Window(f"amount_{days}d", "sum", days, "amount"),
        Window(f"mean_{days}d", "mean", days, "amount"),
        Window(f"least_{days}d", "min", days, "amount"),
        Window(f"most_{days}d", "max", days, "amount"),
        Window(f"articles_{days}d", "distinct", days, "article"),
    )
)
NAMES = tuple(window.name for window in WINDOWS)
TILES = FeatureView("tiles", ("customer",), (SALES,), windows=WINDOWS)


def land(settings: Settings, *, events: int, days: int, seed: int = 1) -> None:
    """Events of `events / 25` customers over some days, in the raw table as ingestion leaves it.

    Amounts are quarters, so that sums of doubles are the same in any order.
    """
    rng = np.random.default_rng(seed)
    for number in range(days):
        rows, day = events // days, START + timedelta(days=number)
        table = pa.table(
            {
                "customer": rng.integers(0, max(1, events // 25), rows),
                "day": pa.array([day] * rows, pa.date32()),
                "amount": rng.integers(1, 4000, rows) / 4.0,
                "article": rng.integers(0, 500, rows).astype(np.int32),
                "event_day": pa.array([day] * rows, pa.date32()),
            }
        )
        version = append_rows(settings, SALES.raw_table, table, partition_by=["event_day"])
        now = datetime.now(timezone.utc)
        file = IngestedFile(
            SALES.name, f"{day}.csv", day, 0, now, "", rows, rows, 0, None, version, now, "benchmark", "benchmark"
        )
        record_files(settings, [file])


def free_function(events: Mapping[str, Any]) -> Any:
    """All windows from one pass over the events, each repeated for every night."""
    from pyspark.sql import functions as F

    age = F.datediff(AS_OF, "event_day")
    made = []
    for days in LENGTHS:
        amount, article = F.when(age < days, F.col("amount")), F.when(age < days, F.col("article"))
        made += [
            F.count(amount).alias(f"count_{days}d"),
            F.coalesce(F.sum(amount), F.lit(0.0)).alias(f"amount_{days}d"),
            F.avg(amount).alias(f"mean_{days}d"),
            F.min(amount).alias(f"least_{days}d"),
            F.max(amount).alias(f"most_{days}d"),
            F.size(F.collect_set(article)).alias(f"articles_{days}d"),
        ]
    return events["sales"].where(age < max(LENGTHS)).groupBy("customer", AS_OF).agg(*made)


FREE = FeatureView("free", ("customer",), (SALES,), Features(columns=tuple(map(Feature, NAMES)), compute=free_function))


def window_functions(spark: Any, settings: Settings, nights: Sequence[date]) -> Any:
    """The features by range windows over the events and a row for each customer and night between them."""
    from pyspark.sql import Window as Over
    from pyspark.sql import functions as F

    first, last = min(nights) - timedelta(days=max(LENGTHS) - 1), max(nights)
    events = read_table(spark, settings, SALES.raw_table).where(F.col("event_day").between(first, last))
    events = events.select("customer", F.unix_date("event_day").alias("at"), "amount", "article")
    nights_frame = spark.createDataFrame([(night,) for night in nights], "as_of date")
    spine = events.select("customer").distinct().crossJoin(nights_frame)
    spine = spine.select("customer", F.unix_date(AS_OF).alias("at"), AS_OF)
    rows, made = events.unionByName(spine, allowMissingColumns=True), {}
    for days in LENGTHS:
        over = Over.partitionBy("customer").orderBy("at").rangeBetween(-(days - 1), 0)
        made[f"count_{days}d"] = F.count("amount").over(over)
        made[f"amount_{days}d"] = F.coalesce(F.sum("amount").over(over), F.lit(0.0))
        made[f"mean_{days}d"] = F.avg("amount").over(over)
        made[f"least_{days}d"] = F.min("amount").over(over)
        made[f"most_{days}d"] = F.max("amount").over(over)
        made[f"articles_{days}d"] = F.size(F.collect_set("article").over(over))
    computed = rows.withColumns(made).where(F.col(AS_OF).isNotNull() & (F.col(f"count_{max(LENGTHS)}d") > 0))
    return computed.select("customer", AS_OF, *(F.col(name).cast("float").alias(name) for name in NAMES))


def by_window_functions(spark: Any, settings: Settings, nights: Sequence[date]) -> None:
    frame = window_functions(spark, settings, nights)
    written = write_frame(frame, settings, "features_windows", partition_by=AS_OF)
    seen = take_snapshot(settings, "features_windows", AS_OF)
    commit_partitions(written, settings, "features_windows", column=AS_OF, values=nights, seen=seen)


def at_once(view: FeatureView) -> Callable[[Any, Settings, Sequence[date]], None]:
    def build(spark: Any, settings: Settings, nights: Sequence[date]) -> None:
        build_view(settings, view, nights)

    return build


WAYS: dict[str, tuple[Callable[[Any, Settings, Sequence[date]], None], str]] = {
    "day tiles": (at_once(TILES), TILES.feature_table),
    "a free function": (at_once(FREE), FREE.feature_table),
    "Spark's window functions": (by_window_functions, "features_windows"),
}
