"""What every declaration of predictions has, whatever makes them: what publishing and the nightly job need."""

from datetime import date
from typing import Protocol

from forecache.pipeline.policies import Publish
from forecache.pipeline.schedules.schedule import Schedule
from forecache.pipeline.sources.table_source import AnySource


class Served(Protocol):
    """A declaration whose prediction table is published: a `Pipeline` or a `Recommender`.

    Attributes:
        all_sources: What its predictions come from, each once: they are ingested before a night.
        schedule: When it runs, and which days are its as-of dates.
        publish: None where the predictions are not published; `publishing` raises InputError then.
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
    def prediction_table(self) -> str: ...
    @property
    def start(self) -> date: ...
    @property
    def end(self) -> date | None: ...
    @property
    def description(self) -> str: ...
    @property
    def owner(self) -> str: ...
