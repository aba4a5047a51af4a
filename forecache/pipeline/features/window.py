"""Windows: features declared as data, which batch, stream and read-time merge can each compute to the same bit."""

from dataclasses import dataclass
from datetime import date
from typing import Literal

from forecache.errors import SettingsError
from forecache.pipeline.checks.checking import check_fields, check_least, check_value
from forecache.pipeline.code.fingerprint import fingerprint
from forecache.pipeline.names import check_column
from forecache.pipeline.sources.column import NUMBERS, Column

Aggregate = Literal["sum", "count", "mean", "min", "max", "last", "distinct"]
_COUNTED = ("string", "int", "bigint", "date", "boolean")
_VALUES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "int": (int,),
    "bigint": (int,),
    "double": (int, float),
    "boolean": (bool,),
    "date": (date,),
}


@dataclass(frozen=True)
class Where:
    """A condition on a column, such as `Where("amount", ">=", 100)`. A value that is null or NaN meets none.

    Attributes:
        value: Of the column's type; a tuple of such values for "in".
    """

    column: str
    comparison: Literal["==", "!=", "<", "<=", ">", ">=", "in"]
    value: str | int | float | bool | date | tuple[str | int | float | bool | date, ...]

    def __post_init__(self) -> None:
        owner = f"Where {self.column!r}"
        check_fields(owner, self)
        is_many = isinstance(self.value, tuple)
        rule = 'It is a tuple of one value or more for "in", and one value otherwise.'
        fits = bool(self.value) if is_many and self.comparison == "in" else not is_many and self.comparison != "in"
        check_value(owner, "value", self.value, fits, rule)


@dataclass(frozen=True)
class Measure:
    """What windows of several lengths share: an aggregate of a column, of the rows that meet all conditions."""

    aggregate: Aggregate
    column: str | None
    where: tuple[Where, ...]

    @property
    def name(self) -> str:
        """What the columns of a tile that hold its state begin with."""
        conditions = f"_{fingerprint(where=self.where)[:8]}" if self.where else ""
        return f"{self.aggregate}_{self.column or 'rows'}{conditions}"


@dataclass(frozen=True)
class Window:
    """A feature: an aggregate over the rows of the last days, the as-of date included.

    Values that are null, NaN or infinite do not count. Without a value that counts, a sum is 0.0, a count and a
    distinct count are 0, and the others are null. Sums, and with them means, are exact in steps of 2**-32 and do not
    depend on the order of rows; values to be summed lie within 2**44.

    Attributes:
        name: Of the feature.
        aggregate: "last" is the value at the latest event time, the largest of several; "distinct" the exact number of
            different values.
        days: 1 is the as-of date alone.
        column: What is aggregated; None: rows are counted.
        where: Conditions that a row has to meet, all of them.
        log: As in `Feature`.
    """

    name: str
    aggregate: Aggregate
    days: int
    column: str | None = None
    where: tuple[Where, ...] = ()
    description: str = ""
    log: bool = False

    def __post_init__(self) -> None:
        owner = f"Window {self.name!r}"
        check_fields(owner, self)
        check_column("A window", self.name)
        check_least(owner, self, 1, "days")
        rule = 'Name one; only "count" goes without.'
        check_value(owner, "column", self.column, self.column is not None or self.aggregate == "count", rule)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What a tile has to hold for it: of a mean the sum and the count, never the mean."""
        if self.aggregate != "mean":
            return (Measure(self.aggregate, self.column, self.where),)
        return (Measure("sum", self.column, self.where), Measure("count", self.column, self.where))

    @property
    def words(self) -> str:
        """What Dagster's UI says of it where it has no description."""
        what = f"{self.aggregate} of {self.column or 'rows'} in the last {self.days} days"
        conditions = " and ".join(f"{each.column} {each.comparison} {each.value!r}" for each in self.where)
        return what + (f" where {conditions}" if conditions else "")

    def check_columns(self, owner: str, columns: dict[str, Column]) -> None:
        """Refuse a column that the source lacks or that the aggregate does not take, and values of another type.

        Raises:
            SettingsError: With window, column and remedy.
        """
        for name in (self.column, *(where.column for where in self.where)):
            if name is not None and name not in columns:
                raise SettingsError(
                    f"{owner} has the window {self.name!r} over the column {name!r}, which its source lacks.",
                    remedy=f"Its columns are {', '.join(columns)}.",
                )
        takes = {"count": None, "distinct": _COUNTED}.get(self.aggregate, NUMBERS)
        kind = columns[self.column].type if self.column else None
        if kind is not None and takes is not None and kind not in takes:
            raise SettingsError(
                f"{owner} has the window {self.name!r}, the {self.aggregate} of {self.column!r}, which is a {kind}.",
                remedy=f"It takes {', '.join(takes[:-1])} or {takes[-1]}.",
            )
        for where in self.where:
            of_type = _VALUES.get(columns[where.column].type, ())
            values = where.value if isinstance(where.value, tuple) else (where.value,)
            if not all(isinstance(v, of_type) and (bool in of_type or type(v) is not bool) for v in values):
                raise SettingsError(
                    f"{owner} compares {where.column!r}, a {columns[where.column].type}, with {where.value!r} in the "
                    f"window {self.name!r}.",
                    remedy="Give a value of the column's type; times are not compared.",
                )
