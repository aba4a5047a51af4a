"""The look-up of a published feature view by fields of a request."""

from dataclasses import dataclass

from forecache.base.table_names import check_name
from forecache.declare.checks import check_fields, check_least, check_value
from forecache.declare.features.view import FeatureView


@dataclass(frozen=True)
class Lookup:
    """A look-up into a published feature view.

    A key without a row has NaN as its features, and `Rows.found` is False for it.

    Attributes:
        view: A view with `publish`.
        key: Fields of the request or of a candidate with the view's key, in its order; (): the fields named like the
            key's columns.
        name: Its name in the transform; "": the view's name. A view may be looked up twice, by two fields.
        max_age_h: Features whose as-of date ended more hours ago count as not found; None: all that the store serves
            are found.
    """

    view: FeatureView
    key: tuple[str, ...] = ()
    name: str = ""
    max_age_h: float | None = None

    def __post_init__(self) -> None:
        owner = f"Look-up of {self.view.name!r}" if isinstance(self.view, FeatureView) else "`Lookup`"
        check_fields(owner, self)
        check_name("look-up", self.called)
        fits = len(self.by) == len(self.view.key)
        check_value(owner, "key", self.key, fits, f"Name a field for each of {', '.join(self.view.key)}.")
        check_least(owner, self, 0, "max_age_h", above=True)

    @property
    def called(self) -> str:
        return self.name or self.view.name

    @property
    def by(self) -> tuple[str, ...]:
        return self.key or self.view.key

    @property
    def columns(self) -> tuple[str, ...]:
        return self.view.served_columns


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
class Precomputed:
    """The score is a published number: of a candidate, or of the request's key."""

    of: Stored

    def __post_init__(self) -> None:
        check_fields("`Precomputed`", self)


@dataclass(frozen=True)
class OrderGiven:
    """Candidates stay in the order of the request, without a score."""


@dataclass(frozen=True)
class Default:
    """A constant, for requests without candidates."""

    value: float

    def __post_init__(self) -> None:
        check_fields("`Default`", self)


DeclaredFallback = DotProduct | Precomputed | OrderGiven | Default
