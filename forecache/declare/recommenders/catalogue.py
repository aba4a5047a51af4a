"""A recommender's catalogue: the items of a day, and the users whose lists they may be on."""

from dataclasses import dataclass

from forecache.base.errors import SettingsError
from forecache.base.output_kinds import DECLARED
from forecache.declare.checks.fields import check_fields, check_value
from forecache.declare.sources.table_source import AnySource


@dataclass(frozen=True)
class Catalogue:
    """Items that may be on a list: those of the source's state on the as-of date that are available.

    Attributes:
        source: The items: a source with `time=Snapshot()` or `Static()`, and the item as its key, or item and region if
            `region` is given.
        available: Column of `source` (boolean) that is true if an item may be on a list, such as one in stock; null
            counts as false. None: every item of the source may be on a list.
        region: Key column of `source` with the region of an item; a user's list has only items that are available in
            the user's region.
        users: The regions of users: a source with `time=Snapshot()` or `Static()`, the user as its key, and the column
            `region`. A user who is not in it, or whose region is not in the catalogue, may get items that are available
            in every region.
    """

    source: AnySource
    available: str | None = None
    region: str | None = None
    users: AnySource | None = None

    def __post_init__(self) -> None:
        check_fields("`Catalogue`", self)
        for what, source in (("source", self.source), ("users", self.users)):
            rule = "It says what there is on a day: give that source time=Snapshot() or time=Static()."
            check_value("`Catalogue`", what, source and source.name, source is None or source.time is not None, rule)
        if (self.region is None) != (self.users is None):
            raise SettingsError("`Catalogue` has region or users without the other.", remedy="Give both or none.")
        kind = None if self.available is None else _column_type(self.source, self.available)
        rule = f"In source {self.source.name!r} that is a {kind}; it has to be a boolean."
        check_value("`Catalogue`", "available", self.available, kind in (None, "boolean"), rule)
        if self.region is None or self.users is None:
            rule = "Give that source the item as its key, one column."
            check_value("`Catalogue`", "source", self.source.name, len(self.source.key) == 1, rule)
            return
        fits = len(self.source.key) == 2 and self.region in self.source.key
        rule = f"Give that source two columns as its key, the item and {self.region!r}."
        check_value("`Catalogue`", "source", self.source.name, fits, rule)
        rule = "Give that source the user as its key, one column, which is not the region."
        fits = len(self.users.key) == 1 and self.users.key[0] != self.region
        check_value("`Catalogue`", "users", self.users.name, fits, rule)
        ours, theirs = (_column_type(source, self.region) for source in (self.source, self.users))
        rule = f"In source {self.source.name!r} that is a {ours}, in {self.users.name!r} a {theirs}."
        fits = ours in DECLARED and DECLARED[ours] == DECLARED.get(theirs)
        check_value("`Catalogue`", "region", self.region, fits, rule)

    @property
    def sources(self) -> tuple[AnySource, ...]:
        return (self.source,) if self.users is None else (self.source, self.users)

    @property
    def computation_inputs(self) -> tuple[str | None, ...]:
        """The parts of the declaration that lists depend on."""
        return (*(source.name for source in self.sources), self.item, self.available, self.region)

    @property
    def item(self) -> str:
        return next(name for name in self.source.key if name != self.region)

    @property
    def item_type(self) -> str:
        """The type of an item in the store."""
        return DECLARED.get(_column_type(self.source, self.item), "")

    @property
    def user_type(self) -> str | None:
        """The type of a user in the store; None without regions."""
        return None if self.users is None else DECLARED.get(_column_type(self.users, self.users.key[0]), "")


def _column_type(source: AnySource, name: str) -> str:
    types: dict[str, str] = {column.name: column.type for column in source.columns}
    return types.get(name, "column that it does not declare")
