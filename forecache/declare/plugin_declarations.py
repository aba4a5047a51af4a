"""Base classes of the declarations that plug-ins add, by which the rest knows them without importing their classes."""

from typing import TYPE_CHECKING, ClassVar

from forecache.base.table_names import PREDICTIONS
from forecache.declare.policies import Publish
from forecache.declare.served import Served
from forecache.declare.sources.source import AnySource, Source

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
    """What is done about what another declaration has published, in a job of its own, such as a mailing."""

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
