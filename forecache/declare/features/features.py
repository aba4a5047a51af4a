"""Features and a label that are computed from rows of sources, by a function or by SQL."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from forecache.base.errors import SettingsError
from forecache.base.table_names import check_column, check_unique
from forecache.declare.checks import check_fields, check_least, check_value
from forecache.declare.expectations import Expectation
from forecache.declare.sources.source import AnySource
from forecache.declare.sql.statement import check_one_computation

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


FeatureType = Literal["number", "integer", "category", "text", "vector"]
_MOST_CATEGORIES = 100_000
_LARGEST = 16_384


@dataclass(frozen=True)
class Feature:
    """A feature. A model takes a float32 matrix; null is unknown, and the model imputes it.

    Attributes:
        log: Apply log1p before scaling, inside the model; of a number or an integer.
        type: What the feature function returns, and what is in the table:
            "number": a number, float32.
            "integer": a whole number, exact in the table (bigint); a model sees the nearest float32, which is exact up
            to 16,777,216.
            "category": a text, a whole number, a date or a boolean, kept as a text; a model sees a code.
            "text": a text, which `embed` makes a vector of when the features are built; the table has the vector.
            "vector": an array of `size` numbers, float32; a model sees each as a column, in order.
        categories: The values of a category that a model knows; None: those of the training split, in order.
        max_categories: Most values of a category that training may learn; with more of them, training is refused.
        size: Numbers in the vector of a text or a vector.
        embed: For a text, `embed(texts)` from a list of n texts, none of them null, to numbers [n, size]. None: words
            are hashed into `size` buckets, ignoring their case, and counted.
    """

    name: str
    description: str = ""
    log: bool = False
    type: FeatureType = "number"
    categories: tuple[str, ...] | None = None
    max_categories: int = 1000
    size: int | None = None
    embed: Callable[[list[str]], Any] | None = None

    def __post_init__(self) -> None:
        owner = f"Feature {self.name!r}"
        check_fields(owner, self)
        check_column("A feature", self.name)
        numeric, wide, a = self.type in ("number", "integer"), self.type in ("text", "vector"), f"A {self.type}"
        check_value(owner, "log", self.log, numeric or not self.log, f"{a} is not scaled; leave it out.")
        fits = self.categories is None or (self.type == "category" and bool(self.categories))
        check_value(owner, "categories", self.categories, fits, "A category has one or more, or None to learn them.")
        check_unique("category", owner, self.categories or ())
        fits = all(self.categories or ())
        check_value(owner, "categories", self.categories, fits, "An empty text is a null; leave it out.")
        check_least(owner, self, 1, "max_categories")
        fits = self.max_categories <= _MOST_CATEGORIES
        check_value(owner, "max_categories", self.max_categories, fits, f"At most {_MOST_CATEGORIES:,}.")
        rule = f"{a} has a size from 1 to {_LARGEST:,}." if wide else f"{a} has none; leave it out."
        fits = self.size is not None and 1 <= self.size <= _LARGEST if wide else self.size is None
        check_value(owner, "size", self.size, fits, rule)
        check_value(owner, "embed", self.embed, self.embed is None or self.type == "text", "Only a text is embedded.")

    @property
    def spark_type(self) -> str:
        return {"number": "float", "integer": "bigint", "category": "string"}.get(self.type, "array<float>")

    @property
    def own_names(self) -> tuple[str, ...]:
        """Its name, and for a vector the names of its columns in a model's matrix."""
        return (self.name, *(f"{self.name}_{i}" for i in range(self.size or 0)))

    @property
    def is_numeric(self) -> bool:
        """True for a single number, which can be a baseline, be cut into quarters, or be scaled."""
        return self.type in ("number", "integer")

    @property
    def computation_inputs(self) -> Any:
        """The parts of the declaration, besides the feature function, that the values in the table depend on."""
        return self.name if self.type == "number" else (self.name, self.type, self.size, self.embed)

    @property
    def training_inputs(self) -> Any:
        """The parts of the declaration, besides the values in the table, that a trained model depends on."""
        known = (self.categories, self.max_categories) if self.type == "category" else ()
        return (self.name, self.log) if self.type == "number" else (self.name, self.log, self.type, *known)


_AS_THEY_ARE: Mapping[str, tuple[str, ...]] = {
    "number": ("int", "bigint", "double", "boolean"),
    "integer": ("int", "bigint", "boolean"),
    "category": ("string", "int", "bigint", "boolean", "date"),
    "text": ("string",),
    "vector": (),
}
"""By the type of a feature, the types of source columns that it can have without a function."""


@dataclass(frozen=True)
class Features:
    """The features of a pipeline or view, computed from sources by a function or by SQL.

    Without both they are columns of the only source as they are, such as an existing feature table: a snapshot with the
    pipeline's key, or rows without time with that key.

    `compute` gets `{source name: rows}`; each frame has the source's columns, `event_day` and `as_of`, and holds, for
    every requested as-of date, only what was known on it: events up to that date, the last state at or before it, or
    the rows without time. It returns one row per (key columns, `as_of`) with every declared feature. It must group by
    `as_of`, so that many as-of dates run as one job.

    `sql` is one SELECT in DuckDB's dialect with the same columns, in which each source is a table of its name with the
    same rows; for each as-of date it sees those of that date alone, as if it were the only one. Which functions it may
    have is in the guide on features: DuckDB and Spark give equal bits.
    """

    columns: tuple[Feature, ...]
    compute: Callable[[Mapping[str, "DataFrame"]], "DataFrame"] | None = None
    expectations: tuple[Expectation, ...] = ()
    sql: str = ""

    def __post_init__(self) -> None:
        check_fields("`Features`", self)
        check_one_computation("`Features`", self.compute, self.sql, needed=False)
        check_value("`Features`", "columns", self.columns, bool(self.columns), "Declare at least one feature.")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.columns)

    @property
    def computation(self) -> Any:
        """The function or the SQL; None for columns of a source as they are."""
        return self.compute or self.sql or None


@dataclass(frozen=True)
class Label:
    """The label: what happened in the `horizon_days` after the as-of date.

    `compute` gets the entities (key columns, `as_of`) and `{source name: rows}`, each frame with `as_of` and only
    events and states in (as_of, as_of + horizon_days], or the rows without time. It returns key columns, `as_of` and
    `name`: 0.0 or 1.0 if kind is "binary", a number if it is "regression", a text or a whole number if it is
    "multiclass", and for a "ranking" (of a real-time model) the relevance of a candidate, a whole number from 0 to 30.
    Each entity has at most one row, without null: an entity whose outcome is not known is left out, and so is not in
    the training set.

    `sql` is one SELECT in DuckDB's dialect with the same columns, in which each source is a table of its name, and the
    entities are the table `entities`; see `Features`.

    Attributes:
        weight: A further column that `compute` or `sql` returns, a number above 0: the weight of a row in training and
            in the gate's metrics; "": all rows count the same.
    """

    name: str
    kind: Literal["binary", "regression", "multiclass", "ranking"]
    horizon_days: int
    compute: Callable[["DataFrame", Mapping[str, "DataFrame"]], "DataFrame"] | None = None
    weight: str = ""
    sql: str = ""

    def __post_init__(self) -> None:
        check_fields(f"Label {self.name!r}", self)
        check_one_computation(f"Label {self.name!r}", self.compute, self.sql)
        check_column("A label", self.name)
        if self.weight:
            check_column("A label's weight", self.weight)
        check_least(f"Label {self.name!r}", self, 1, "horizon_days")

    @property
    def columns(self) -> tuple[str, ...]:
        """The label's columns of a training set: the label, and its weight if it has one."""
        return (self.name, self.weight) if self.weight else (self.name,)

    @property
    def computation(self) -> Any:
        """The function or the SQL."""
        return self.compute or self.sql


def check_features_without_function(
    owner: str, features: Features, key: Sequence[str], sources: Sequence[AnySource]
) -> None:
    """Refuse features without a function that are not fitting columns of one source with the pipeline's key."""
    if features.computation is not None:
        return
    remedy = "Give the features a function, `compute`, or `sql`."
    if len(sources) != 1:
        raise SettingsError(f"{owner} has features without a function and {len(sources)} sources.", remedy=remedy)
    source = sources[0]
    if source.time is None or set(source.key) != set(key):
        what = "events" if source.time is None else f"the key {', '.join(source.key) or 'none'}"
        raise SettingsError(
            f"{owner} has features without a function from source {source.name!r}, which has {what}.",
            remedy=f"Declare it as a snapshot with the key {', '.join(key)}, or give the features a function.",
        )
    types: dict[str, str] = {column.name: column.type for column in source.columns}
    for feature in features.columns:
        name = feature.name
        if types.get(name) not in _AS_THEY_ARE[feature.type]:
            found = f"is a {types[name]} there" if name in types else "it does not declare"
            raise SettingsError(
                f"{owner} has the feature {name!r} from source {source.name!r}, which {found}.",
                remedy=f"A {feature.type} is {' or '.join(_AS_THEY_ARE[feature.type]) or 'no column as it is'} there; "
                "name such a column of the source, declare another type, or give the features a function.",
            )
