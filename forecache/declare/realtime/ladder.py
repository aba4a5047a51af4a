"""The fallbacks of a real-time model (rungs of its ladder): they answer if the model cannot answer in time."""

from dataclasses import dataclass

from forecache.base.table_names import check_name
from forecache.declare.checks.fields import check_fields, check_value


@dataclass(frozen=True)
class Stored:
    """A published value in a store, looked up by fields of the request or of a candidate.

    Attributes:
        store: Name of a published pipeline, feature view, or the vectors of a recommender.
        key: Fields with its key, in the order of the key's columns.
        field: Name of the number to read; "": the only number, or a whole vector.
    """

    store: str
    key: tuple[str, ...]
    field: str = ""

    def __post_init__(self) -> None:
        check_fields("`Stored`", self)
        check_name("store", self.store)
        check_value("`Stored`", "key", self.key, bool(self.key), "Name the fields that hold the key.")


@dataclass(frozen=True)
class DotProduct:
    """The score of a candidate is the dot product of two published vectors, such as a household's and a product's."""

    user: Stored
    item: Stored

    def __post_init__(self) -> None:
        check_fields("`DotProduct`", self)


@dataclass(frozen=True)
class LastNight:
    """The score is a published number: of a candidate, or of the request's key."""

    of: Stored

    def __post_init__(self) -> None:
        check_fields("`LastNight`", self)


@dataclass(frozen=True)
class OrderGiven:
    """Candidates stay in the order of the request, without a score."""


@dataclass(frozen=True)
class Default:
    """A constant, for requests without candidates."""

    value: float

    def __post_init__(self) -> None:
        check_fields("`Default`", self)


Rung = DotProduct | LastNight | OrderGiven | Default
