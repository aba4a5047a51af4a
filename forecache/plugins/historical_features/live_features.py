"""Features of a live view as of each row's timestamp: the state of the last as-of date, merged with later events.

A row sees the events strictly before its timestamp. The merge is the same as in serving.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.declare import AS_OF, FeatureView
from forecache.declare.features.live import build_merge_plan
from forecache.kit.delta.tables import read_table
from forecache.kit.windows.fold import EventStates, event_states, fold
from forecache.kit.windows.plan import DAY_US, MergePlan
from forecache.kit.windows.states import column_words, number_keys
from forecache.lake.sources import Pins
from forecache.plugins.historical_features.night_features import load_night_features

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_DAY, _BUCKET, _BASE, _AT, _SEEN = (
    "forecache_day",
    "forecache_bucket",
    "forecache_base",
    "forecache_at",
    "forecache_seen",
)
_KEY = "forecache_key_"
_TASKS_A_CORE = 4
_EPOCH = date(1970, 1, 1)


def live_features(
    spark: "SparkSession",
    settings: Settings,
    view: FeatureView,
    rows: "DataFrame",
    *,
    by: Sequence[str],
    timestamp: str,
    column: str,
    pins: Pins | None = None,
    progress: Progress = no_progress,
) -> "DataFrame":
    """Add a column with the features at each row's timestamp: an array of float in the order of the look-up's columns,
    NaN for a null feature; null if the key had no event in the days that count, or the timestamp is null.

    `by` are the columns that hold the view's key.
    """
    from pyspark.sql import functions as F

    plan, names = build_merge_plan(view), rows.columns
    at = F.unix_micros(F.col(f"`{timestamp}`").cast("timestamp"))
    day = F.floor(at / F.lit(DAY_US)).cast("int")
    dated = rows.withColumns({_AT: at, _DAY: day})
    days = sorted(row[0] for row in dated.select(_DAY).distinct().collect() if row[0] is not None)
    days = [day for day in days if _EPOCH + timedelta(days=day) >= view.start]
    if not days:
        return rows.withColumn(column, F.lit(None).cast("array<float>"))
    last = view.end and (view.end - _EPOCH).days
    nights = sorted({_EPOCH + timedelta(days=min(day - 1, last or day)) for day in days})
    nights = [night for night in nights if night >= view.start]
    seen = F.col(_DAY) - 1
    if last:
        seen = F.when(seen > F.lit(last), F.lit(last)).otherwise(seen)
    keys = [f"{_KEY}{place}" for place in range(len(view.key))]
    asked = dated.withColumns({key: F.col(f"`{name}`") for name, key in zip(by, keys, strict=True)}).withColumn(
        _SEEN, seen
    )
    if nights:
        wanted = asked.select(
            *(F.col(key).alias(name) for name, key in zip(view.key, keys, strict=True)),
            F.date_add(F.lit(_EPOCH), F.col(_SEEN)).alias(AS_OF),
        )
        known = load_night_features(
            spark, settings, view, nights, asked=wanted, states=True, pins=pins, progress=progress
        ).select(
            *(F.col(name).alias(f"{key}_known") for name, key in zip(view.key, keys, strict=True)),
            F.datediff(AS_OF, F.lit(_EPOCH)).alias(f"{_SEEN}_known"),
            F.struct(*(F.col(each.name) for each in plan.base_columns)).alias(_BASE),
        )
        same = [asked[key] == known[f"{key}_known"] for key in keys]
        asked = asked.join(known, [asked[_SEEN] == known[f"{_SEEN}_known"], *same], "left").select(
            *asked.columns, _BASE
        )
    else:
        kinds = ", ".join(f"`{c.name}`: {'double' if c.is_float else 'bigint'}" for c in plan.base_columns)
        asked = asked.withColumn(_BASE, F.lit(None).cast(f"struct<{kinds}>"))
    events = _events(spark, settings, view, plan, days)
    num_buckets = _TASKS_A_CORE * spark.sparkContext.defaultParallelism
    moments = _LiveFeatureMerger(plan, tuple(names), tuple(keys), column)

    # Spark counts the arguments of the function, and would count `self`.
    def merge_group(rows: pa.Table, events: pa.Table) -> pa.Table:
        return moments.features(rows, events)

    fields = [f"`{field.name}` {field.dataType.simpleString()}" for field in rows.schema]
    return (
        asked.withColumn(_BUCKET, _bucket_column(keys, num_buckets))
        .groupBy(_BUCKET)
        .cogroup(events.withColumn(_BUCKET, _bucket_column(view.key, num_buckets)).groupBy(_BUCKET))
        .applyInArrow(merge_group, ", ".join([*fields, f"`{column}` array<float>"]))
    )


def _bucket_column(keys: Sequence[str], num_buckets: int) -> "Column":
    """The bucket of a key, by the texts of its columns, which are the same for numbers of any width."""
    from pyspark.sql import functions as F

    return F.pmod(F.xxhash64(*(F.col(f"`{key}`").cast("string") for key in keys)), F.lit(num_buckets))


def _events(
    spark: "SparkSession", settings: Settings, view: FeatureView, plan: MergePlan, days: Sequence[int]
) -> "DataFrame":
    """The events of some days, and if there are windows in minutes also those of the previous days."""
    from pyspark.sql import functions as F

    wanted = {day - back for day in days for back in ((0, 1) if plan.minutes_us else (0,))}
    dates = [_EPOCH + timedelta(days=day) for day in sorted(wanted)]
    raw = read_table(spark, settings, view.event_source.raw_table).where(F.col("event_day").isin(dates))
    return raw.select(*(f"`{name}`" for name in plan.reads))


@dataclass(frozen=True)
class _LiveFeatureMerger:
    """Computes the features of rows from the events of the same keys, in a Spark worker."""

    plan: MergePlan
    columns: tuple[str, ...]  # to keep
    keys: tuple[str, ...]  # columns of the rows with the key
    column: str

    def features(self, rows: pa.Table, events: pa.Table) -> pa.Table:
        features, found = self._features(rows, events)
        kept = rows.select(list(self.columns))
        if not rows.num_rows:
            return kept.append_column(self.column, pa.array([], pa.list_(pa.float32())))
        offsets = np.concatenate([[0], np.cumsum(np.where(found, len(self.plan.features), 0))]).astype(np.int32)
        lists = pa.ListArray.from_arrays(
            pa.array(offsets), pa.array(features[found].reshape(-1)), mask=pa.array(~found)
        )
        return kept.append_column(self.column, lists)

    def _features(self, rows: pa.Table, events: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        plan = self.plan
        features = np.full((rows.num_rows, len(plan.features)), np.nan, np.float32)
        found = np.zeros(rows.num_rows, np.bool_)
        asks = _is_valid(rows, [*self.keys, _AT])
        events = events.filter(pa.array(_is_valid(events, [*plan.key, plan.time])))
        codes, event_codes = _codes(rows, self.keys, events, plan.key)
        at = rows[_AT].combine_chunks().fill_null(0).to_numpy()
        seen = rows[_SEEN].combine_chunks().fill_null(0).to_numpy().astype(np.int64)
        event_at = events[plan.time].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
        states = event_states(plan, events)
        base, known = _night_states(plan, rows[_BASE].combine_chunks())
        for day in np.unique(at[asks] // DAY_US).tolist():
            chosen = np.flatnonzero(asks & (at // DAY_US == day))
            its, places, code_of = np.unique(codes[chosen], return_index=True, return_inverse=True)
            begin, end = day * DAY_US - plan.minutes_us, (day + 1) * DAY_US
            some = np.flatnonzero(np.isin(event_codes, its) & (event_at >= begin) & (event_at < end))
            moments = np.concatenate([at[chosen], event_at[some]])
            # Rows sort before events of the same time, which they do not see.
            order = np.argsort(moments, kind="stable")
            is_event = np.arange(len(moments)) >= len(chosen)
            nothing = np.zeros(len(chosen), np.intp)
            taken = EventStates(
                _append_after_zeros(nothing, states.day[some]), _append_after_zeros(nothing, states.minute[some])
            )
            folded = fold(
                plan,
                np.concatenate([code_of, np.searchsorted(its, event_codes[some])])[order],
                moments[order],
                taken.take(order),
                [None] * len(its),
                base[chosen[places]],
                known[chosen[places]],
                _EPOCH + timedelta(days=int(seen[chosen[0]])),
                counts=is_event[order],
            )
            back = np.empty(len(order), np.intp)
            back[order] = np.arange(len(order))
            features[chosen], found[chosen] = folded.features[back[: len(chosen)]], folded.found[back[: len(chosen)]]
        return features, found


def _append_after_zeros(nothing: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Append words to a row of zeros for each row that has no event of its own."""
    return np.concatenate([np.zeros((len(nothing), words.shape[1]), np.int64), words])


def _is_valid(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    return np.logical_and.reduce([np.asarray(table[name].combine_chunks().is_valid()) for name in names])


def _codes(
    rows: pa.Table, keys: Sequence[str], events: pa.Table, event_keys: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Equal numbers for equal keys of rows and of events, whatever their types; int64 [rows], int64 [events]."""
    pairs = zip(keys, event_keys, strict=True)
    columns = [pa.concat_arrays([_text(rows[name]), _text(events[other])]) for name, other in pairs]
    codes, _ = number_keys(pa.table(columns, names=list(keys)), keys)
    return codes[: rows.num_rows], codes[rows.num_rows :]


def _text(column: pa.ChunkedArray) -> pa.Array:
    """Texts as in the bucket; "" for null, whose row is left out later."""
    return column.combine_chunks().cast(pa.string()).fill_null("")


def _night_states(plan: MergePlan, column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The states of an as-of date, int64 [n, columns], and the mask of the rows that have one."""
    base = np.empty((len(column), len(plan.base_columns)), np.int64)
    for place, values in enumerate(column.flatten()):
        base[:, place] = column_words(values)
    return base, np.asarray(column.is_valid())
