"""The vectors of a recommender whose score is a dot product: one table of users and one of items, published packed."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from forecache.pipeline.code.fingerprint import fingerprint
from forecache.pipeline.policies import Publish
from forecache.pipeline.recommenders.recommender import Recommender
from forecache.pipeline.recommenders.second_table import SecondTable
from forecache.pipeline.recommenders.similar import SimilarItems, similar_items_of
from forecache.pipeline.served import Packed

VECTOR = "vector"


@dataclass(frozen=True)
class Vectors(SecondTable):
    """The vector of each user, or of each item: the column `vector`, float32.

    Only vectors of the same as-of date can be compared: each fit has its own axes.
    """

    of: Literal["user", "item"]

    @property
    def name(self) -> str:
        return f"{self.recommender.name}_{self.of}_vectors"

    @property
    def key(self) -> tuple[str, ...]:
        return (self.recommender.user if self.of == "user" else self.recommender.item,)

    @property
    def key_type(self) -> str:
        return self.recommender.key_type if self.of == "user" else self.recommender.item_type

    @property
    def output_columns(self) -> tuple[str, ...]:
        return (VECTOR,)

    @property
    def served_fields(self) -> tuple[str, ...]:
        return self.output_columns

    @property
    def publish(self) -> Publish:
        """As for the lists, but without `max_psi`: vectors of two dates differ because their axes do."""
        return replace(self.recommender.publish, fields=None, max_psi=None)

    @cached_property
    def packed(self) -> Packed:
        declared = self.recommender
        columns = (declared.user, declared.item, declared.weight)
        return Packed(
            {VECTOR: declared.model.vector_size}, fingerprint(of=self.of, model=declared.model, columns=columns)
        )

    @property
    def description(self) -> str:
        return f"The vector of each {self.of}, by the model of {self.recommender.name}."


def vectors_of(recommender: Recommender) -> tuple[Vectors, ...]:
    """The tables of vectors, the users' first; () if none is declared."""
    return (Vectors(recommender, "user"), Vectors(recommender, "item")) if recommender.vectors else ()


def second_tables_of(recommender: Recommender) -> tuple[SimilarItems | Vectors, ...]:
    """All tables that a run writes beside the lists of users, in the order in which they are committed."""
    similar = similar_items_of(recommender)
    return (*vectors_of(recommender), *((similar,) if similar is not None else ()))
