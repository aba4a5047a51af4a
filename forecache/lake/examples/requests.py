"""Past requests from the declared function, with the types that the transform takes, each with its split by day."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from forecache.base.errors import InputError
from forecache.base.settings import Settings
from forecache.base.table_names import EVENT_TIMESTAMP, POSITION, REQUEST_ID
from forecache.declare import AS_OF, Realtime, RequestField
from forecache.declare.realtime.examples import LOG
from forecache.lake.contracts import function_name
from forecache.lake.examples.logged_answers import logged_answer_rows
from forecache.lake.sources.point_in_time import horizon_rows
from forecache.lake.sources.tables.pins import Pins
from forecache.lake.training_sets.training_splits import SPLITS

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

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
    spark: "SparkSession",
    settings: Settings,
    realtime: Realtime,
    days: Mapping[str, Sequence[date]],
    *,
    pins: Pins | None = None,
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
        lacking = (realtime.start + _DAY - _last_to_train_on(realtime, night)).days
        raise InputError(
            f"Real-time model {realtime.name!r} cannot train on the night {night}: its data starts on "
            f"{realtime.start}.",
            remedy=f"Train on {night + timedelta(days=lacking)} or later, or give validation and test fewer days.",
        )
    return {split: days[split] for split in SPLITS}


def span_of(days: Mapping[str, Sequence[date]]) -> tuple[date, date]:
    """First and last day of all splits."""
    return days[SPLITS[0]][0], days[SPLITS[-1]][-1]


def _last_to_train_on(realtime: Realtime, night: date) -> date:
    examples = realtime.trained_examples
    return night - timedelta(days=examples.test_days + examples.validation_days + 3 * examples.horizon_days)


def _date_range(first: date, last: date) -> tuple[date, ...]:
    return tuple(first + timedelta(days=number) for number in range((last - first).days + 1))
