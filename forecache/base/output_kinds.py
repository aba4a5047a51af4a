"""The kinds of outputs, and the types of columns: of outputs in Arrow, Delta and Spark, of keys in the store.

They are defined only here. The module runs inside Spark's Python workers: it imports only pyarrow, inside functions.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa


Kind = Literal["number", "classes", "quantiles", "vector", "text", "boolean", "structs"]

VALUE_TYPES = ("boolean", "int", "bigint", "float", "double", "string", "binary", "timestamp")
"""Types of single values, as Spark and Delta call them; see `arrow_type`."""

JUDGED = ("number", "classes", "quantiles")
"""Kinds whose drift is judged: numbers and quantiles in bins, classes by their names."""


@dataclass(frozen=True)
class OutputSpec:
    """An output in plain values, for workers and for a model's metadata."""

    name: str
    kind: Kind = "number"
    minimum: float | None = None  # of a number, of quantiles, or of every value of a vector; so is `maximum`
    maximum: float | None = None
    classes: tuple[str, ...] = ()  # in the order of the model's probabilities; empty until a model is known
    top: int | None = None  # how many of a row's largest probabilities are stored; None: all; 0: no such column
    levels: tuple[float, ...] = ()  # of the quantiles, ascending
    width: int = 0  # number of values of a vector
    fields: tuple[tuple[str, str], ...] = ()  # name and type of each field of a structure

    @property
    def arrow_fields(self) -> "tuple[pa.Field, ...]":
        """The output's columns of a prediction table, in order."""
        import pyarrow as pa

        kinds = {
            "number": [pa.float64()],
            "quantiles": [pa.float64()] * len(self.levels),
            "classes": [pa.string(), _list_of(pa.struct([("class", pa.string()), ("probability", pa.float64())]))],
            "vector": [_list_of(pa.float32())],
            "text": [pa.string()],
            "boolean": [pa.bool_()],
            "structs": [_list_of(pa.struct([(name, arrow_type(kind)) for name, kind in self.fields]))],
        }
        return tuple(pa.field(name, kind) for name, kind in zip(self.columns, kinds[self.kind], strict=False))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the output's columns of a prediction table."""
        if self.kind == "quantiles":
            return tuple(quantile_column(self.name, level) for level in self.levels)
        if self.kind == "classes" and self.top != 0:
            return (self.name, probabilities_column(self.name))
        return (self.name,)

    @property
    def numbers(self) -> tuple[str, ...]:
        """The columns with one number a row, to which bounds, segments and bins apply."""
        return self.columns if self.kind in ("number", "quantiles") else ()

    @property
    def judged_column(self) -> str:
        """The column whose distribution represents the output; for quantiles the one nearest to the median."""
        if self.kind != "quantiles":
            return self.name
        return self.columns[min(range(len(self.levels)), key=lambda i: (abs(self.levels[i] - 0.5), i))]

    @property
    def values(self) -> int | None:
        """Count of the numbers that a model returns a row; None if it is not fixed."""
        fixed = {"number": 1, "quantiles": len(self.levels), "vector": self.width, "classes": len(self.classes)}
        return fixed.get(self.kind)

    @property
    def is_array(self) -> bool:
        """True if a model returns several numbers a row under the output's name."""
        return self.kind in ("quantiles", "vector", "classes")


def arrow_type(name: str) -> "pa.DataType":
    """The Arrow type of one of `VALUE_TYPES`."""
    import pyarrow as pa

    types = (pa.bool_(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.binary())
    return dict(zip(VALUE_TYPES, (*types, pa.timestamp("us", tz="UTC")), strict=True))[name]


def spark_name(kind: "pa.DataType") -> str:
    """The name that Spark and Delta use for an Arrow type of a prediction table."""
    import pyarrow as pa

    if pa.types.is_list(kind):
        return f"array<{spark_name(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{member.name}: {spark_name(member.type)}' for member in kind)}>"
    return next(name for name in VALUE_TYPES if arrow_type(name) == kind)


def _list_of(item: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa

    return pa.list_(pa.field("element", item))


def probabilities_column(name: str) -> str:
    """The column with the probabilities of an output of classes: list<struct<class, probability>>, largest first."""
    return f"{name}_probabilities"


def quantile_column(name: str, level: float) -> str:
    """The column of a quantile: `spend_q10` of 0.1, `spend_q2_5` of 0.025."""
    return f"{name}_q{f'{100 * level:.10g}'.replace('.', '_')}"


KEY_TYPES = ("string", "int", "uuid", "date")
"""A key column's type as the store names it."""

DECLARED = {"string": "string", "int": "int", "bigint": "int", "date": "date"}
"""The store's type by the declared type of a column that can be a key.

Doubles cannot: they have several texts; nor can booleans, which have only two values.
"""

ALLOWED = "Keys are strings, integers, dates, or UUIDs as 16 bytes."


def key_type_of_arrow(kind: "pa.DataType") -> str | None:
    """The store's type for an Arrow type; None for one that cannot be a key."""
    import pyarrow as pa

    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
        return "int"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "uuid"
    return "date" if pa.types.is_date(kind) else None
