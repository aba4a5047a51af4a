"""The state of a measure over some rows, as Spark computes it; states of the same measure merge in any order.

| Aggregate | State |
| --- | --- |
| count | rows (bigint) |
| sum | whole (bigint), part (bigint): a value is its floor, and the rest in steps of 2**-32 |
| min, max | value (double) |
| last | at (bigint, microseconds), value (double) |
| distinct | values (array) |
"""

from typing import TYPE_CHECKING

from forecache.errors import InputError, chain_of
from forecache.pipeline import Where
from forecache.pipeline.column import Column as Declared
from forecache.pipeline.view import FeatureView
from forecache.pipeline.window import Measure

if TYPE_CHECKING:
    from pyspark.sql import Column

EVENTS = "events"
STEPS = 2.0**32
_LARGEST = 2.0**44
_TOO_LARGE = "forecache: a value is too large for a sum: "
_DAY_US = 86_400_000_000


def state_columns(view: FeatureView) -> dict[str, "Column"]:
    """Aggregates over rows of the view's source, by the name of the tile's column; `events` counts all rows."""
    from pyspark.sql import functions as F

    source = view.events
    columns = {column.name: column for column in source.columns}
    found = {EVENTS: F.count(F.lit(1))}
    for measure in view.measures:
        found |= _state(measure, columns, _micros(columns[source.event_time]))
    return found


def state_names(measure: Measure) -> tuple[str, ...]:
    """The columns of a tile that hold the state of a measure."""
    if measure.aggregate == "sum":
        return (f"{measure.name}_whole", f"{measure.name}_part")
    return (f"{measure.name}_at", measure.name) if measure.aggregate == "last" else (measure.name,)


def _state(measure: Measure, columns: dict[str, Declared], time: "Column") -> dict[str, "Column"]:
    from pyspark.sql import functions as F

    names, meets = state_names(measure), F.lit(True)
    for where in measure.where:
        meets = meets & meets_condition(where, columns[where.column])
    if measure.column is None:
        return {names[0]: F.count_if(meets)}
    value = counted(columns[measure.column])
    some = F.when(meets, value)
    if measure.aggregate == "count":
        return {names[0]: F.count(some)}
    if measure.aggregate == "sum":
        whole, part = fixed_point(columns[measure.column], value)
        zero = F.lit(0).cast("bigint")
        return {
            names[0]: F.coalesce(F.sum(F.when(meets, whole)), zero),
            names[1]: F.coalesce(F.sum(F.when(meets, part)), zero),
        }
    if measure.aggregate == "distinct":
        return {names[0]: F.array_sort(F.collect_set(some))}
    number = _no_negative_zero(some.cast("double"))
    if measure.aggregate == "last":
        last = F.max(F.when(number.isNotNull(), F.struct(time.alias("at"), number.alias("value"))))
        return {names[0]: last["at"], names[1]: last["value"]}
    return {names[0]: (F.min if measure.aggregate == "min" else F.max)(number)}


def meets_condition(where: Where, column: Declared) -> "Column":
    from pyspark.sql import functions as F

    value = counted(column, infinite=True)
    if where.comparison == "in":
        assert isinstance(where.value, tuple)
        return value.isin(*where.value)
    limit = F.lit(where.value)
    return {
        "==": value == limit,
        "!=": value != limit,
        "<": value < limit,
        "<=": value <= limit,
        ">": value > limit,
        ">=": value >= limit,
    }[where.comparison]


def counted(column: Declared, *, infinite: bool = False) -> "Column":
    """The column, null where its value does not count."""
    from pyspark.sql import functions as F

    value = F.col(column.name)
    if column.type != "double":
        return value
    fits = ~F.isnan(value) if infinite else ~F.isnan(value) & (F.abs(value) != float("inf"))
    return F.when(fits, value)


def fixed_point(column: Declared, value: "Column") -> tuple["Column", "Column"]:
    """Whole and part of a number that counts; a value beyond 2**44 fails the job, see `as_too_large`."""
    from pyspark.sql import functions as F

    said = F.concat(F.lit(f"{_TOO_LARGE}{column.name}="), value.cast("string"))
    fits = F.when(F.abs(value.cast("double")) >= _LARGEST, F.raise_error(said)).otherwise(value)
    if column.type != "double":
        return fits.cast("bigint"), F.lit(0).cast("bigint")
    whole = F.floor(fits)
    return whole, F.rint((value - whole.cast("double")) * STEPS).cast("bigint")


def as_too_large(error: BaseException, view: FeatureView) -> InputError | None:
    """The sentence for a job that failed with a value that no exact sum holds; None for other errors."""
    for each in chain_of(error):
        _, marker, rest = str(each).partition(_TOO_LARGE)
        if marker:
            name, _, value = rest.split()[0].strip("'\"").partition("=")
            return InputError(
                f"Feature view {view.name!r} sums the column {name!r}, which has the value {value}.",
                remedy="Sums are exact for values within 2**44: declare a `minimum` and `maximum` of that column, so "
                "that such rows are quarantined, or leave it out with `where`.",
            )
    return None


def _micros(time: Declared) -> "Column":
    from pyspark.sql import functions as F

    if time.type == "date":
        return F.unix_date(F.col(time.name)).cast("bigint") * _DAY_US
    return F.unix_micros(F.col(time.name))


def _no_negative_zero(number: "Column") -> "Column":
    """-0.0 and 0.0 are equal, so that which of them is the smallest would depend on the order of rows."""
    from pyspark.sql import functions as F

    return F.when(number == 0.0, F.lit(0.0)).otherwise(number)
