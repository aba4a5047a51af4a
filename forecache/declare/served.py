"""The interface of declarations that are published, for publishing and the nightly job."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, ClassVar, Protocol

from forecache.base.errors import InputError
from forecache.base.table_names import PREDICTIONS
from forecache.declare.policies import Publish
from forecache.declare.schedule import Schedule
from forecache.declare.sources.source import AnySource, Source


@dataclass(frozen=True)
class PackedLayout:
    """The layout of rows that are published as packed float32 numbers and read as a matrix."""

    sizes: Mapping[str, int]  # number of values of each field that is a vector; every other field is one number
    contract: str  # hash of the columns and their definitions; a model compares it with that of its training
    # The columns of 8 bytes that a live view publishes after the numbers, see
    # `forecache.kit.windows.plan.MergePlan.base_columns`.
    states: tuple[str, ...] = ()


class Served(Protocol):
    """A declaration whose rows are published: a `Pipeline`, a `FeatureView`, or one that a plug-in adds.

    Attributes:
        all_sources: The sources of its rows, each once; they are ingested before a nightly run.
        schedule: When it runs, and which days are its as-of dates.
        publish: None if the rows are not published; `publishing` then raises InputError.
        served_table: Delta table that is published: key, as_of (date, partition), the served fields and others.
        packed: The layout of packed rows; None: rows are JSON objects.
        start: First as-of date.
        end: Last as-of date; None if the sources have no end.
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
    def packed(self) -> PackedLayout | None: ...
    @property
    def start(self) -> date: ...
    @property
    def end(self) -> date | None: ...
    @property
    def description(self) -> str: ...
    @property
    def owner(self) -> str: ...


def require_published(pipeline: Served) -> None:
    _ = pipeline.publishing


def not_published_error(name: str) -> InputError:
    """The error for the store of a pipeline that declares `publish=None`."""
    return InputError(
        f"Pipeline {name!r} is not published: it is declared with publish=None.",
        remedy=f"Its predictions are in the table predictions_{name}: `forecache query` reads it.",
    )


def max_age_h(pipeline: Served) -> float:
    """Hours after the end of an as-of date from which an answer is stale: as declared, or by the schedule."""
    declared = pipeline.publishing.max_age_h
    return pipeline.schedule.max_age_h if declared is None else declared


if TYPE_CHECKING:
    _Served = Served
else:  # a dataclass would take the properties of the protocol for defaults of its fields
    _Served = object


class PluginDeclaration:
    """A declaration whose class a plug-in has; `Project.declared(kind)` has those of a kind."""

    kind: ClassVar[str]
    """The word for it in names and messages, such as "recommender"."""

    if TYPE_CHECKING:

        @property
        def name(self) -> str: ...
        @property
        def all_sources(self) -> tuple[AnySource, ...]: ...
        @property
        def description(self) -> str: ...
        @property
        def owner(self) -> str: ...


class FollowUp(PluginDeclaration):
    """A job of its own that follows what another declaration has published, such as a mailing."""

    if TYPE_CHECKING:

        @property
        def pipeline(self) -> Served: ...

    @property
    def landed_sources(self) -> tuple[Source, ...]:
        """Its sources with landing files, which are ingested with those of `pipeline`."""
        return tuple(source for source in self.all_sources if isinstance(source, Source))


class PluginTable(_Served):
    """A published table that the nightly run of a plug-in's declaration writes."""

    if TYPE_CHECKING:

        @property
        def maker(self) -> "NightlyDeclaration": ...
        @property
        def key_type(self) -> str: ...
        @property
        def output_columns(self) -> tuple[str, ...]: ...
        @property
        def publish(self) -> Publish: ...

    @property
    def served_fields(self) -> tuple[str, ...]:
        return self.publish.fields or self.output_columns

    @property
    def prediction_table(self) -> str:
        """Delta table: key, as_of (date, partition), `output_columns`, PROVENANCE_COLUMNS."""
        return PREDICTIONS + self.name

    @property
    def served_table(self) -> str:
        return self.prediction_table

    @property
    def publishing(self) -> Publish:
        return self.publish


class NightlyDeclaration(PluginDeclaration, PluginTable):
    """A declaration with a nightly run, which writes its own table and maybe others, such as a recommender."""

    plugin: ClassVar[str]
    """Its plug-in, which has the hooks `<stage>`, the run, and `refused_dates`, a sentence about what a run refused."""
    stage: ClassVar[str]
    """The run's stage in the ledger."""

    if TYPE_CHECKING:

        @property
        def fingerprint(self) -> str: ...

    @property
    def maker(self) -> "NightlyDeclaration":
        return self

    @property
    def tables(self) -> tuple[PluginTable, ...]:
        """All tables of its run, its own first."""
        return (self,)
