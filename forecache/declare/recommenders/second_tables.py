"""The second tables of a recommender, which its run writes and nobody declares: similar items, and vectors."""

from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Literal

from forecache.base.table_names import PREDICTIONS
from forecache.declare.code.fingerprint import fingerprint
from forecache.declare.policies import Publish
from forecache.declare.recommenders.recommender import Recommender
from forecache.declare.schedules.schedule import Schedule
from forecache.declare.served import PackedLayout
from forecache.declare.sources.table_source import AnySource


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
    def packed(self) -> PackedLayout:
        declared = self.recommender
        columns = (declared.user, declared.item, declared.weight)
        return PackedLayout(
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
