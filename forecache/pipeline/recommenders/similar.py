"""The lists from item to item of a recommender: its second prediction table, published and served as any other."""

from dataclasses import dataclass
from datetime import date

from forecache.pipeline.names import PREDICTIONS
from forecache.pipeline.policies import Publish
from forecache.pipeline.recommenders.recommender import Recommender
from forecache.pipeline.schedules.schedule import Schedule
from forecache.pipeline.served import Predictions
from forecache.pipeline.sources.table_source import AnySource


@dataclass(frozen=True)
class SimilarItems(Predictions):
    """What belongs to each item; `similar_items_of` makes it, nobody declares it.

    Attributes:
        recommender: Whose run makes the lists.
        k: Items on a list.
    """

    recommender: Recommender
    k: int

    @property
    def name(self) -> str:
        return f"{self.recommender.name}_items"

    @property
    def key(self) -> tuple[str, ...]:
        return (self.recommender.item,)

    @property
    def key_type(self) -> str:
        return self.recommender.item_type

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
        return self.recommender.publish

    @property
    def output_columns(self) -> tuple[str, ...]:
        return self.recommender.output_columns

    @property
    def served_fields(self) -> tuple[str, ...]:
        return self.recommender.served_fields

    @property
    def prediction_table(self) -> str:
        """Delta table: item, as_of (date, partition), items (list of item, score, reason), PROVENANCE_COLUMNS."""
        return PREDICTIONS + self.name

    @property
    def start(self) -> date:
        return self.recommender.start

    @property
    def end(self) -> date | None:
        return self.recommender.end

    @property
    def description(self) -> str:
        return f"Items that belong to each item, by the model of {self.recommender.name}."

    @property
    def owner(self) -> str:
        return self.recommender.owner


def similar_items_of(recommender: Recommender) -> SimilarItems | None:
    """The lists from item to item, None where the declaration asks for none."""
    if recommender.similar_items is None:
        return None
    return SimilarItems(recommender, recommender.similar_items)
