"""Functions from rows of sources to features and to a label."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from forecache.base.errors import SettingsError
from forecache.base.table_names import check_column
from forecache.declare.checks.fields import check_fields, check_least, check_value
from forecache.declare.expectations import Expectation
from forecache.declare.features.feature import Feature
from forecache.declare.sources.table_source import AnySource

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


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
    """The features of a pipeline or view, computed from sources by a function.

    Without `compute` they are columns of the only source as they are, such as an existing feature table: a snapshot
    with the pipeline's key, or rows without time with that key.

    `compute` gets `{source name: rows}`; each frame has the source's columns, `event_day` and `as_of`, and holds, for
    every requested as-of date, only what was known on it: events up to that date, the last state at or before it, or
    the rows without time. It returns one row per (key columns, `as_of`) with every declared feature. It must group by
    `as_of`, so that many as-of dates run as one job.
    """

    columns: tuple[Feature, ...]
    compute: Callable[[Mapping[str, "DataFrame"]], "DataFrame"] | None = None
    expectations: tuple[Expectation, ...] = ()

    def __post_init__(self) -> None:
        check_fields("`Features`", self)
        check_value("`Features`", "columns", self.columns, bool(self.columns), "Declare at least one feature.")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.columns)


@dataclass(frozen=True)
class Label:
    """The label: what happened in the `horizon_days` after the as-of date.

    `compute` gets the entities (key columns, `as_of`) and `{source name: rows}`, each frame with `as_of` and only
    events and states in (as_of, as_of + horizon_days], or the rows without time. It returns key columns, `as_of` and
    `name`: 0.0 or 1.0 if kind is "binary", a number if it is "regression", a text or a whole number if it is
    "multiclass", and for a "ranking" (of a real-time model) the relevance of a candidate, a whole number from 0 to 30.
    Each entity has at most one row, without null: an entity whose outcome is not known is left out, and so is not in
    the training set.

    Attributes:
        weight: A further column that `compute` returns, a number above 0: the weight of a row in training and in the
            gate's metrics; "": all rows count the same.
    """

    name: str
    kind: Literal["binary", "regression", "multiclass", "ranking"]
    horizon_days: int
    compute: Callable[["DataFrame", Mapping[str, "DataFrame"]], "DataFrame"]
    weight: str = ""

    def __post_init__(self) -> None:
        check_fields(f"Label {self.name!r}", self)
        check_column("A label", self.name)
        if self.weight:
            check_column("A label's weight", self.weight)
        check_least(f"Label {self.name!r}", self, 1, "horizon_days")

    @property
    def columns(self) -> tuple[str, ...]:
        """The label's columns of a training set: the label, and its weight if it has one."""
        return (self.name, self.weight) if self.weight else (self.name,)


def check_features_without_function(
    owner: str, features: Features, key: Sequence[str], sources: Sequence[AnySource]
) -> None:
    """Refuse features without a function that are not fitting columns of one source with the pipeline's key."""
    if features.compute is not None:
        return
    remedy = "Give the features a function, `compute`."
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
