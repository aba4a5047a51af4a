"""Past requests from the declared function or from logged answers, with the types that the transform takes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from forecache.base.errors import InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.base.table_names import EVENT_TIMESTAMP, POSITION, REQUEST_ID, REQUEST_LOG
from forecache.declare import AS_OF, Candidates, Realtime, RequestField
from forecache.declare.realtime.examples import LOG
from forecache.declare.realtime.request_rows import RowsBuilder, order_of, read_logged_request, scores_of
from forecache.kit.delta.errors import REFUSED
from forecache.kit.delta.log import active_files
from forecache.kit.delta.tables import open_table, read_table
from forecache.lake.contracts import function_name
from forecache.lake.labelled_rows import SPLITS
from forecache.lake.sources import Pins, horizon_rows

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyspark.sql import Column, DataFrame, SparkSession


SHOWN, SCORE, ANSWERED_BY, RELEASE, VARIANT = "shown", "score", "answered_by", "release", "variant"
_READ = (
    REQUEST_ID, "arrived_at", "request", "items", RELEASE, VARIANT, "scores", "score_dtype", ANSWERED_BY,
    "item_answered_by", "ranking",
    "fallback_reason",
)  # fmt: skip
_SEEN_BY_NOBODY = "shadow"
_UNCHECKED = ("default", "order_given")
"""Fallbacks that answer without checking more of a request than the names of its candidates."""


def logged_answer_rows(
    spark: "SparkSession", settings: Settings, realtime: Realtime, first: date, last: date
) -> "DataFrame":
    """The logged answers to requests that arrived from `first` to `last`, a row for each candidate; see `Examples`.

    If a client retried a request under the same id, only the last answer is returned. Shadow answers are left out, as
    nobody saw them. So are requests that do not fit the declaration if they were answered without being checked, as a
    client may send anything.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    _require_log(settings, realtime)
    log = read_table(spark, settings, _log_table(realtime))
    rows = log.where(F.col("day").between(first, last) & (F.col(VARIANT) != _SEEN_BY_NOBODY))
    newest = Window.partitionBy(REQUEST_ID).orderBy(F.col("arrived_at").desc(), F.col(RELEASE).desc())
    once = rows.withColumn("forecache_newest", F.row_number().over(newest)).where("forecache_newest = 1")
    fields = ", ".join(f"`{field.name}` {field.type}" for field in realtime.all_fields)
    how = f"{SHOWN} int, {SCORE} double, {ANSWERED_BY} string, {RELEASE} bigint, {VARIANT} string"
    called: Any = AnswerExpander(realtime.name, realtime.request, realtime.candidates, RowsBuilder(realtime))
    return once.select(*_READ).mapInArrow(
        called, f"{REQUEST_ID} string, {EVENT_TIMESTAMP} timestamp, {POSITION} int, {fields}, {how}"
    )


def logged_state(settings: Settings, realtime: Realtime, first: date, last: date) -> str:
    """A text that changes if rows of these days are added or removed, but not if files are merged."""
    rows: Counter[str] = Counter()
    for file in active_files(_require_log(settings, realtime)):
        rows[str(file.partition["day"])] += int(file.statistics["numRecords"])
    days = [day for day in sorted(rows) if first.isoformat() <= day <= last.isoformat()]
    return ",".join(f"{day}:{rows[day]}" for day in days)


def _log_table(realtime: Realtime) -> str:
    return REQUEST_LOG + realtime.name


def _require_log(settings: Settings, realtime: Realtime) -> "DeltaTable":
    try:
        return open_table(settings, _log_table(realtime))
    except NotFoundError:
        raise NotFoundError(
            f"Real-time model {realtime.name!r} learns from its log, and nothing of it has been logged in this lake.",
            remedy=f"Release a first model that learned from other examples, serve it, and see `forecache log "
            f"show {realtime.name}`.",
        ) from None


@dataclass(frozen=True)
class AnswerExpander:
    """Expands records of a request log to rows, in Spark's workers."""

    name: str
    request: tuple[RequestField, ...]
    candidates: Candidates | None
    builder: RowsBuilder

    @property
    def lookups(self) -> tuple[()]:
        return ()

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for record in batch.to_pylist():
                if (rows := self._expand_record(record)) is not None:
                    yield rows

    def _expand_record(self, record: dict[str, Any]) -> pa.RecordBatch | None:
        import orjson

        try:
            columns = self.builder.build_columns(*read_logged_request(orjson.loads(record["request"]), self))
            if columns.length != record["items"]:
                raise InputError(f"It had {record['items']} rows, and {columns.length} by today's declaration.")
        except (InputError, KeyError, ValueError, AttributeError) as error:
            if record["fallback_reason"] and not record["item_answered_by"] and record[ANSWERED_BY] in _UNCHECKED:
                return None
            raise ValueError(
                f"{REFUSED} The logged request {record[REQUEST_ID]!r} of {self.name!r}, which release "
                f"{record[RELEASE]} answered, does not fit today's declaration: {error} Give new fields a default, or "
                "learn from later days alone."
            ) from None
        length = columns.length
        fields = [*self.request, *(self.candidates.fields if self.candidates else ())]
        values = [_repeat_value(columns.values[field.name], length) for field in fields]
        scores = scores_of(record)
        shown = np.empty(length, np.int32)
        shown[order_of(record)] = np.arange(1, length + 1, dtype=np.int32)
        arrays = [
            pa.array([record[REQUEST_ID]] * length, pa.string()),
            pa.array([record["arrived_at"]] * length, pa.timestamp("us", tz="UTC")),
            pa.array(np.arange(length, dtype=np.int32)),
            *(_to_array(field, column) for field, column in zip(fields, values, strict=True)),
            pa.array(shown),
            pa.nulls(length, pa.float64()) if scores is None else pa.array(scores.astype(np.float64), from_pandas=True),
            pa.array(record["item_answered_by"] or [record[ANSWERED_BY]] * length, pa.string()),
            pa.array([record[RELEASE]] * length, pa.int64()),
            pa.array([record[VARIANT]] * length, pa.string()),
        ]
        names = [
            REQUEST_ID,
            EVENT_TIMESTAMP,
            POSITION,
            *(f.name for f in fields),
            SHOWN,
            SCORE,
            ANSWERED_BY,
            RELEASE,
            VARIANT,
        ]
        return pa.RecordBatch.from_arrays(arrays, names=names)


def _repeat_value(column: np.ndarray, length: int) -> np.ndarray:
    return np.repeat(column, length) if len(column) == 1 and length != 1 else column


def _to_array(field: RequestField, column: np.ndarray) -> pa.Array:
    if field.type == "timestamp":
        return pa.array(column, pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))
    return pa.array(column)


_WHOLE = ("tinyint", "smallint", "int", "bigint")
_NUMBERS = (*_WHOLE, "float", "double", "boolean", "decimal")
_TAKES: Mapping[str, tuple[str, ...]] = {
    "bigint": _WHOLE,
    "double": (*_WHOLE, "float", "double", "decimal"),
    "boolean": ("boolean",),
    "string": ("string",),
    "timestamp": ("timestamp", "timestamp_ntz"),
    "date": ("date",),
}
"""By type of a request field, the Spark types that are accepted for its column."""
_DAY = timedelta(days=1)


def request_rows(
    spark: "SparkSession", settings: Settings, realtime: Realtime, days: Mapping[str, Sequence[date]], pins: Pins
) -> "DataFrame":
    """`request_id`, `event_timestamp`, `position` (int), `as_of` (the day of the request), `split`, the fields in their
    types, the label and its weight (double), of the requests made on the days of the splits; see `request_days`.
    """
    from pyspark.sql import functions as F

    examples, (first, last) = realtime.trained_examples, span_of(days)
    before = first - timedelta(days=examples.history_days + 1)
    until = (last - before).days + examples.horizon_days
    rows = horizon_rows(spark, settings, examples.sources, [before], until, pins=pins)
    given = {name: frame.drop(AS_OF) for name, frame in rows.items()}
    if examples.from_log:
        given[LOG] = logged_answer_rows(spark, settings, realtime, first, last)
    computed = examples.compute(given, first, last)
    if realtime.candidates is None and POSITION not in computed.columns:
        computed = computed.withColumn(POSITION, F.lit(0))
    _require_types(realtime, dict(computed.dtypes))
    day = F.to_date(F.col(EVENT_TIMESTAMP).cast("timestamp"))
    split = F.coalesce(*(F.when(day.isin(list(days[name])), F.lit(name)) for name in SPLITS))
    typed = computed.select(
        REQUEST_ID,
        F.col(EVENT_TIMESTAMP).cast("timestamp").alias(EVENT_TIMESTAMP),
        F.col(POSITION).cast("int").alias(POSITION),
        day.alias(AS_OF),
        split.alias("split"),
        *(_field_column(field) for field in realtime.all_fields),
        *(F.col(name).cast("double").alias(name) for name in examples.columns),
    )
    # Rows without a time stay until they are refused: if they were dropped, a request would lack some candidates.
    return typed.where(F.col("split").isNotNull() | F.col(EVENT_TIMESTAMP).isNull())


def _field_column(field: RequestField) -> "Column":
    """The column of a field in its type, with its default in place of null, as in serving."""
    from pyspark.sql import functions as F

    column = F.col(field.name).cast(field.type)
    if field.default is not None:
        column = F.coalesce(column, F.lit(field.default).cast(field.type))
    return column.alias(field.name)


def _require_types(realtime: Realtime, types: Mapping[str, str]) -> None:
    examples = realtime.trained_examples
    wanted: dict[str, tuple[str, ...]] = {
        REQUEST_ID: ("string",),
        EVENT_TIMESTAMP: _TAKES["timestamp"],
        POSITION: _WHOLE,
        **{field.name: _TAKES[field.type] for field in realtime.all_fields},
        **dict.fromkeys(examples.columns, _NUMBERS),
    }
    for name, kinds in wanted.items():
        found: Any = types.get(name)
        if found is None:
            raise InputError(
                f"The examples of {realtime.name!r} lack the column {name!r}.",
                remedy=f"Return it from {function_name(examples.compute)}.",
            )
        if found.partition("(")[0] not in kinds:
            raise InputError(
                f"The column {name!r} of the examples of {realtime.name!r} is a {found}.",
                remedy=f"Return {' or '.join(kinds)} from {function_name(examples.compute)}: cast it.",
            )


def request_days(realtime: Realtime, night: date) -> dict[str, tuple[date, ...]]:
    """The days of each split for a training night, ascending; see `forecache.declare.Examples`.

    The outcome of every request is known by the night, and of those of a split before the first request of the next.
    InputError if the data do not reach back far enough for a single day to train on.
    """
    examples = realtime.trained_examples
    gap = timedelta(days=examples.horizon_days)
    days: dict[str, tuple[date, ...]] = {}
    last = night - gap
    for split in reversed(SPLITS):
        first = last - getattr(examples, f"{split}_days") * _DAY + _DAY
        days[split] = _date_range(max(first, realtime.start + _DAY), last)
        last = first - _DAY - gap
    if not days["train"]:
        split_days = examples.test_days + examples.validation_days + 3 * examples.horizon_days
        lacking = (realtime.start + _DAY - night).days + split_days
        raise InputError(
            f"Real-time model {realtime.name!r} cannot train as of {night}: its data starts on {realtime.start}.",
            remedy=f"Train on {night + timedelta(days=lacking)} or later, or give validation and test fewer days.",
        )
    return {split: days[split] for split in SPLITS}


def span_of(days: Mapping[str, Sequence[date]]) -> tuple[date, date]:
    """First and last day of all splits."""
    return days[SPLITS[0]][0], days[SPLITS[-1]][-1]


def _date_range(first: date, last: date) -> tuple[date, ...]:
    return tuple(first + timedelta(days=number) for number in range((last - first).days + 1))
