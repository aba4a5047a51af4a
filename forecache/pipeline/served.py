"""What every declaration that is published has, whatever makes its rows: what publishing and the nightly job need."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import ClassVar, Protocol

from forecache.pipeline.policies import Publish
from forecache.pipeline.schedules.schedule import Schedule
from forecache.pipeline.sources.table_source import AnySource


@dataclass(frozen=True)
class Packed:
    """Rows that are published as packed float32 numbers, which are read as a matrix.

    Attributes:
        sizes: Of each field that is a vector, how many numbers it has; the other fields are one number each.
        contract: Hash of what the numbers mean, by which a model knows the features that it was trained with.
        states: Of a live view, the columns of 8 bytes that are published behind the numbers, see
            `forecache.windows.plan.Plan.base_columns`.
    """

    sizes: Mapping[str, int]
    contract: str
    states: tuple[str, ...] = ()


class Predictions:
    """What all declarations of predictions have in common: their table is what is published, as JSON."""

    packed: ClassVar[None] = None

    @property
    def prediction_table(self) -> str:
        raise NotImplementedError

    @property
    def served_table(self) -> str:
        return self.prediction_table


class Served(Protocol):
    """A declaration whose rows are published: a `Pipeline`, a `Recommender`, or a `FeatureView`.

    Attributes:
        all_sources: What its rows come from, each once: they are ingested before a night.
        schedule: When it runs, and which days are its as-of dates.
        publish: None where the rows are not published; `publishing` raises InputError then.
        served_table: Delta table that is published: key, as_of (date, partition), the served fields and others.
        packed: How rows are packed; None: they are JSON objects.
        start: First as-of date.
        end: Last one; None while the sources go on.
    """

    @property
    def name(self) -> str: ...
    @property
    def key(self) -> tuple[str, ...]: ...
    @property
    def all_sources(self) -> tuple[AnySource, ...]: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def publish(self) -> Publish | None: ...
    @property
    def publishing(self) -> Publish: ...
    @property
    def served_fields(self) -> tuple[str, ...]: ...
    @property
    def served_table(self) -> str: ...
    @property
    def packed(self) -> Packed | None: ...
    @property
    def start(self) -> date: ...
    @property
    def end(self) -> date | None: ...
    @property
    def description(self) -> str: ...
    @property
    def owner(self) -> str: ...
