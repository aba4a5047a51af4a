"""The second tables of a recommender, which its run writes and nobody declares: similar items, and vectors."""

from dataclasses import dataclass
from datetime import date

from forecache.pipeline.names import PREDICTIONS
from forecache.pipeline.policies import Publish
from forecache.pipeline.recommenders.recommender import Recommender
from forecache.pipeline.schedules.schedule import Schedule
from forecache.pipeline.sources.table_source import AnySource


@dataclass(frozen=True)
class SecondTable:
    """A table beside the lists of users, with the same as-of dates; it is published and served like any other.

    Attributes:
        recommender: The recommender whose run writes it.
    """

    recommender: Recommender

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def prediction_table(self) -> str:
        """Delta table: key, as_of (date, partition), `output_columns`, PROVENANCE_COLUMNS."""
        return PREDICTIONS + self.name

    @property
    def served_table(self) -> str:
        return self.prediction_table

    @property
    def all_sources(self) -> tuple[AnySource, ...]:
        return self.recommender.all_sources

    @property
    def schedule(self) -> Schedule:
        return self.recommender.schedule

    @property
    def publish(self) -> Publish:
        return self.recommender.publish

    @property
    def publishing(self) -> Publish:
        return self.publish

    @property
    def start(self) -> date:
        return self.recommender.start

    @property
    def end(self) -> date | None:
        return self.recommender.end

    @property
    def owner(self) -> str:
        return self.recommender.owner
