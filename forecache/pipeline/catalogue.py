"""A recommender's catalogue: the items that there are on a day, and which of them may be on a list."""

from dataclasses import dataclass

from forecache.key_types import DECLARED
from forecache.pipeline.checking import check_fields, check_value
from forecache.pipeline.source import Source


@dataclass(frozen=True)
class Catalogue:
    """Items that may be on a list: those of the source's state on the as-of date, as far as they are available.

    Attributes:
        source: With `time=Snapshot()` or `Static()`, and the item as its key.
        available: Its column (boolean) of whether an item may be on a list, such as that it is in stock; an empty cell
            counts as no. None: every item of the source may be.
    """

    source: Source
    available: str | None = None

    def __post_init__(self) -> None:
        check_fields("`Catalogue`", self)
        rule = "It says what there is on a day: give that source time=Snapshot() or time=Static()."
        check_value("`Catalogue`", "source", self.source.name, self.source.time is not None, rule)
        rule = "Give that source the item as its key, one column."
        check_value("`Catalogue`", "source", self.source.name, len(self.source.key) == 1, rule)
        types = {column.name: column.type for column in self.source.columns}
        kind = None if self.available is None else types.get(self.available, "column that it does not declare")
        rule = f"In source {self.source.name!r} that is a {kind}; it has to be a boolean."
        check_value("`Catalogue`", "available", self.available, kind in (None, "boolean"), rule)

    @property
    def item(self) -> str:
        return self.source.key[0]

    @property
    def item_type(self) -> str:
        """As the store names it."""
        return next(DECLARED.get(column.type, "") for column in self.source.columns if column.name == self.item)
