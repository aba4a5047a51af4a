"""Windows: features declared as aggregates, which batch, stream and read-time merge compute to the same bit."""

from dataclasses import dataclass
from datetime import date
from typing import Literal

from forecache.base.errors import SettingsError
from forecache.base.table_names import check_column
from forecache.declare.checks import check_fields, check_known, check_least, check_value
from forecache.declare.code.fingerprint import fingerprint
from forecache.declare.sources.column import NUMBERS, Column
from forecache.kit.windows.plan import DAY_MINUTES

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
    """A condition on a column, such as `Where("amount", ">=", 100)`. Null and NaN meet no condition.

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
    """An aggregate of a column over the rows that meet all conditions; windows of several lengths share it.

    Fingerprints have the name and module of this class and of `LastMinutes` and `Where` in them.
    """

    aggregate: Aggregate
    column: str | None
    where: tuple[Where, ...]

    @property
    def name(self) -> str:
        """Prefix of the tile columns that have its state."""
        conditions = f"_{fingerprint(where=self.where)[:8]}" if self.where else ""
        return f"{self.aggregate}_{self.column or 'rows'}{conditions}"


@dataclass(frozen=True)
class LastMinutes(Measure):
    minutes: int  # 1 to 1,440

    @property
    def name(self) -> str:
        return f"{super().name}_last_{self.minutes}m"


@dataclass(frozen=True)
class Window:
    """A feature: an aggregate over the rows of the last days, the as-of date included, or of the last minutes.

    Values that are null, NaN or infinite do not count. If no value counts, a sum is 0.0, a count and a distinct count
    are 0, and other aggregates are null. Sums and means are exact in steps of 2**-32 and do not depend on the order of
    rows; values to be summed lie within 2**44.

    Attributes:
        name: Name of the feature.
        aggregate: "last" is the value at the latest event time (the largest, if several events have that time);
            "distinct" is the exact number of different values.
        days: Length in days; 1 is the as-of date alone.
        minutes: Length in minutes instead of days, for a live view: at most 1,440, and a multiple of its
            `tile_minutes`. In a nightly run, the minutes before the midnight that ends the as-of date.
        column: The aggregated column; None: rows are counted.
        where: Conditions that a row has to meet, all of them.
        log: As in `Feature`.
        delay_days: The window ends so many days before the as-of date, for columns that are known later, as labels are.
    """

    name: str
    aggregate: Aggregate
    days: int | None = None
    column: str | None = None
    where: tuple[Where, ...] = ()
    description: str = ""
    log: bool = False
    minutes: int | None = None
    delay_days: int = 0

    def __post_init__(self) -> None:
        owner = f"Window {self.name!r}"
        check_fields(owner, self)
        check_column("A window", self.name)
        check_least(owner, self, 1, "days", "minutes")
        check_least(owner, self, 0, "delay_days")
        if (self.days is None) == (self.minutes is None):
            which = "neither days nor minutes" if self.days is None else "both days and minutes"
            raise SettingsError(f"{owner} has {which}.", remedy="Give one of the two.")
        if self.minutes is not None:
            rule = "A window in minutes is at most a day: give days."
            check_value(owner, "minutes", self.minutes, self.minutes <= DAY_MINUTES, rule)
            rule = "A window in minutes is of today: leave it out."
            check_value(owner, "delay_days", self.delay_days, self.delay_days == 0, rule)
            rule = "It is over days: tiles of minutes do not add up to it."
            check_value(owner, "aggregate", self.aggregate, self.aggregate != "distinct", rule)
        rule = 'Name one; only "count" goes without.'
        check_value(owner, "column", self.column, self.column is not None or self.aggregate == "count", rule)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The measures that a daily tile needs for it: for a mean, the sum and the count."""
        if self.minutes is None:
            return self.whole_measures
        return tuple(LastMinutes(m.aggregate, m.column, m.where, self.minutes) for m in self.whole_measures)

    @property
    def whole_measures(self) -> tuple[Measure, ...]:
        """Its measures over all rows of a tile, whatever the tile's length."""
        if self.aggregate != "mean":
            return (Measure(self.aggregate, self.column, self.where),)
        return (Measure("sum", self.column, self.where), Measure("count", self.column, self.where))

    @property
    def num_days(self) -> int:
        """Number of daily tiles that its value is merged from."""
        return self.days or 1

    @property
    def reach_days(self) -> int:
        """Days from its begin to the end of the as-of date; a window in minutes may begin the day before."""
        return (self.days or 2) + self.delay_days

    @property
    def computation_inputs(self) -> tuple[object, ...]:
        known = (self.name, self.aggregate, self.days, self.column, self.where)
        return known if self.minutes is None and not self.delay_days else (*known, self.minutes, self.delay_days)

    @property
    def default_description(self) -> str:
        length = f"{self.days} days" if self.minutes is None else f"{self.minutes} minutes"
        what = f"{self.aggregate} of {self.column or 'rows'} in the last {length}"
        what += f", up to {self.delay_days} days before" if self.delay_days else ""
        conditions = " and ".join(f"{each.column} {each.comparison} {each.value!r}" for each in self.where)
        return what + (f" where {conditions}" if conditions else "")

    def check_columns(self, owner: str, columns: dict[str, Column]) -> None:
        """Refuse columns that the source lacks or the aggregate does not take, and conditions of another type."""
        use = f"{owner} has the window {self.name!r} over the column"
        names = [*([] if self.column is None else [self.column]), *(where.column for where in self.where)]
        check_known(use, names, columns, ", which its source lacks")
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
