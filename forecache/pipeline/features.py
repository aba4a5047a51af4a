"""What a model learns from and what it learns to predict: functions from events to features and to a label."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from forecache.pipeline.checking import check_fields, check_least, check_value
from forecache.pipeline.expectations import Expectation
from forecache.pipeline.names import check_column

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@dataclass(frozen=True)
class Feature:
    """A float32 feature. `log` applies log1p before scaling, inside the model. Null is unknown; the model imputes."""

    name: str
    description: str = ""
    log: bool = False

    def __post_init__(self) -> None:
        check_fields(f"Feature {self.name!r}", self)
        check_column("A feature", self.name)


@dataclass(frozen=True)
class Features:
    """How features come from events.

    `compute` gets `{source name: events}`; each frame has the source's columns, `event_day` and `as_of`, and holds,
    for every as-of date asked for, only events up to that date: it cannot see the future. It returns one row per
    (key columns, `as_of`) with every declared feature. It must group by `as_of` so that many nights run as one job.
    """

    compute: Callable[[Mapping[str, "DataFrame"]], "DataFrame"]
    columns: tuple[Feature, ...]
    expectations: tuple[Expectation, ...] = ()

    def __post_init__(self) -> None:
        check_fields("`Features`", self)
        check_value("`Features`", "columns", self.columns, bool(self.columns), "Declare at least one feature.")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.columns)


@dataclass(frozen=True)
class Label:
    """What happened in the `horizon_days` after the as-of date.

    `compute` gets the entities (key columns, `as_of`) and `{source name: events}`, each frame with `as_of` and only
    events in (as_of, as_of + horizon_days]. It returns key columns, `as_of` and `name` as a number: 0.0 or 1.0 where
    kind is "binary". Each entity has at most one row, and a row has a value: an entity whose outcome is not known is
    left out, and is no part of the training set.
    """

    name: str
    kind: Literal["binary", "regression"]
    horizon_days: int
    compute: Callable[["DataFrame", Mapping[str, "DataFrame"]], "DataFrame"]

    def __post_init__(self) -> None:
        check_fields(f"Label {self.name!r}", self)
        check_column("A label", self.name)
        check_least(f"Label {self.name!r}", self, 1, "horizon_days")
