"""The lists from item to item of a recommender: its second prediction table, published and served as any other."""

from dataclasses import dataclass

from forecache.pipeline.recommenders.recommender import Recommender
from forecache.pipeline.recommenders.second_table import SecondTable


@dataclass(frozen=True)
class SimilarItems(SecondTable):
    """Similar items of each item: lists of (item, score, reason).

    Attributes:
        k: Items on a list.
    """

    k: int
    packed = None

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
    def output_columns(self) -> tuple[str, ...]:
        return self.recommender.output_columns

    @property
    def served_fields(self) -> tuple[str, ...]:
        return self.recommender.served_fields

    @property
    def description(self) -> str:
        return f"Items that belong to each item, by the model of {self.recommender.name}."


def similar_items_of(recommender: Recommender) -> SimilarItems | None:
    """The table of similar items; None if none is declared."""
    if recommender.similar_items is None:
        return None
    return SimilarItems(recommender, recommender.similar_items)
