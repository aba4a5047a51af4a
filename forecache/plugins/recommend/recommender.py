"""A recommender: a list of items for every user, fitted to interactions in each nightly run."""

from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import Any, Literal

from forecache.base.errors import SettingsError
from forecache.base.output_kinds import DECLARED
from forecache.base.table_names import AS_OF, PROVENANCE_COLUMNS, check_column, check_name, check_unique
from forecache.declare.as_of import check_schedule, first_as_of, last_as_of
from forecache.declare.checks import check_fields, check_least, check_value
from forecache.declare.code.fingerprint import fingerprint
from forecache.declare.policies import Publish
from forecache.declare.schedule import Schedule
from forecache.declare.served import NightlyDeclaration, PackedLayout, PluginTable
from forecache.declare.sources.column import NUMBERS, Column, check_key_type
from forecache.declare.sources.source import AnySource, Source
from forecache.declare.summary import declaration_html


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
        return (*(source.name for source in self.sources), self.item, self.available, self.region)

    @property
    def item(self) -> str:
        return next(name for name in self.source.key if name != self.region)

    @property
    def item_type(self) -> str:
        return DECLARED.get(_column_type(self.source, self.item), "")

    @property
    def user_type(self) -> str | None:
        """The type of a user in the store; None without regions."""
        return None if self.users is None else DECLARED.get(_column_type(self.users, self.users.key[0]), "")


def _column_type(source: AnySource, name: str) -> str:
    types: dict[str, str] = {column.name: column.type for column in source.columns}
    return types.get(name, "column that it does not declare")


@dataclass(frozen=True)
class RankingGate:
    """The conditions for a recommender's new lists to replace the published ones.

    In each nightly run the model is also fitted without the last `test_days`, and ranks items for the users who have
    interactions in these days. Popularity and repeat purchase, the baselines, rank for the same users.

    Attributes:
        metric: "ndcg" (order counts), "recall" or "precision", of the first `at` places.
        test_days: Days that the model is tested on, which it is fitted without.
        floor: Least mean of the metric over users.
        margin: How much better than the better baseline the model has to be: the 95% bootstrap interval of the
            difference per user lies above it. None: the baselines are only shown.
        most_users: Most users in the test; if there are more, they are sampled by a hash.
    """

    metric: Literal["ndcg", "recall", "precision"] = "ndcg"
    at: int = 10
    test_days: int = 28
    floor: float = 0.0
    margin: float | None = 0.0
    most_users: int = 10_000

    def __post_init__(self) -> None:
        check_fields("`RankingGate`", self)
        check_least("`RankingGate`", self, 1, "at", "test_days", "most_users")
        check_least("`RankingGate`", self, 0, "floor", "margin")


@dataclass(frozen=True)
class Recommender(NightlyDeclaration):
    """Recommendations for every user of a source of interactions.

    Attributes:
        name: Part of the names of the table, jobs, the store and the reader's route.
        source: Interactions as landing files: one row for each time that a user took an item.
        user: Column of the source with the user, the key of an answer.
        item: Column of the source with the item.
        weight: Column of the source with the weight of an interaction, such as a quantity, with a minimum of 0 or more;
            None: each counts 1.
        model: From `forecache.plugins.recommend`, such as `Ease(l2=300)`.
        k: Items on a list.
        history_days: Days of interactions that are read, for the model and for exclusions; None: all.
        exclude_days: Items that a user took in so many last days are not recommended to the user; 0: all may be; None:
            no item that the user ever took.
        group: A column of the source, such as a category, of which `most_of_group` limits the items on a list. An
            item's group is the latest one; an item without a group is not limited.
        most_of_group: Most items of one group on a list; needs `group`.
        catalogue: The items of a date that may be on a list; None: all items that users took.
        similar_items: Number of similar items for each item, as lists in a second table that is published under
            `<name>_items`; None: no such table.
        vectors: True: the vectors of users and of items are two more tables, published packed under
            `<name>_user_vectors` and `<name>_item_vectors`; the model's score has to be a dot product (`Als`,
            `TwoTowers`).
        gate: The conditions for publishing new lists.
        publish: What is served, when an answer is stale, and when a new version is refused.
        schedule: When it runs, and which days are its as-of dates; it is fitted in every run.
        seed: Seed of all random numbers.
    """

    kind = "recommender"
    plugin = stage = "recommend"
    packed = None

    name: str
    source: Source
    user: str
    item: str
    model: Any
    weight: str | None = None
    k: int = 50
    history_days: int | None = None
    exclude_days: int | None = 0
    group: str | None = None
    most_of_group: int | None = None
    catalogue: Catalogue | None = None
    similar_items: int | None = None
    vectors: bool = False
    gate: RankingGate = field(default_factory=RankingGate)
    publish: Publish = field(default_factory=Publish)
    schedule: Schedule = field(default_factory=Schedule)
    seed: int = 7
    description: str = ""
    owner: str = ""

    def __post_init__(self) -> None:
        owner = f"Recommender {self.name!r}"
        check_fields(owner, self)
        check_name("recommender", self.name)
        check_column("A recommender", self.user)
        check_least(owner, self, 1, "k", "history_days", "most_of_group", "similar_items")
        check_least(owner, self, 0, "exclude_days", "seed")
        check_value(owner, "k", self.k, self.k <= 1000, "A list has at most 1,000 items.")
        rule = f"It judges the first {self.gate.at} places: give at least as many."
        check_value(owner, "k", self.k, self.k >= self.gate.at, rule)
        rule = "It is a model of forecache.plugins.recommend, such as Ease()."
        fits = callable(getattr(self.model, "fit", None)) and not isinstance(self.model, type)
        check_value(owner, "model", self.model, fits, rule)
        self._check_second_tables(owner)
        if (self.group is None) != (self.most_of_group is None):
            raise SettingsError(f"{owner} has group or most_of_group without the other.", remedy="Give both or none.")
        check_unique("column", owner, [self.user, AS_OF, *self.output_columns, *PROVENANCE_COLUMNS])
        if not self.source.event_time:
            raise SettingsError(
                f"{owner} learns from source {self.source.name!r}, which has no event time.",
                remedy="Interactions are events.",
            )
        for name in (self.user, self.item):
            check_key_type(owner, name, self._column(name).type)
        self._check_catalogue(owner)
        self._check_roles(owner)
        self._check_days(owner)
        check_schedule(owner, self.schedule, self.all_sources, self.publish)
        for what, column, types in (("weight", self.weight, NUMBERS), ("group", self.group, DECLARED)):
            kind = column and self._column(column).type
            rule = f"That column is a {kind}; a weight is a number, a group a text or a whole number."
            check_value(owner, what, column, kind is None or kind in types, rule)
        self.publish.check_served_fields(owner, self.output_columns)

    _repr_html_ = declaration_html

    def _check_second_tables(self, owner: str) -> None:
        fits = self.similar_items is None or self.similar_items <= 1000
        check_value(owner, "similar_items", self.similar_items, fits, "A list has at most 1,000 items.")
        if self.similar_items is not None:
            check_name("recommender", f"{self.name}_items")
            check_unique("column", owner, [self.item, AS_OF, *self.output_columns, *PROVENANCE_COLUMNS])
        if self.vectors:
            check_name("recommender", f"{self.name}_item_vectors")
            rule = "Its score is no dot product of two vectors: take Als() or TwoTowers(), or leave out `vectors`."
            fits = getattr(self.model, "vector_size", None) is not None
            check_value(owner, "model", type(self.model).__name__, fits, rule)
            check_unique("column", owner, [self.user, self.item, AS_OF, "vector", *PROVENANCE_COLUMNS])

    def _check_catalogue(self, owner: str) -> None:
        if self.catalogue is None:
            return
        for what, kind, source, found in (
            ("items", self.item_type, self.catalogue.source, self.catalogue.item_type),
            ("users", self.key_type, self.catalogue.users, self.catalogue.user_type),
        ):
            if source is not None and found != DECLARED[kind]:
                raise SettingsError(
                    f"{owner} has {what} of type {kind}, and source {source.name!r} of its catalogue has a key of "
                    "another type.",
                    remedy="Declare both columns with the same type.",
                )

    def _check_roles(self, owner: str) -> None:
        """Refuse columns in which one landed row could make every later run fail."""
        roles = [self.user, self.item, self.source.event_time, self.weight, self.group]
        check_unique("column", owner, [name for name in roles if name is not None])
        for what, name in (("user", self.user), ("item", self.item), ("weight", self.weight)):
            fits = name is None or self._column(name).required
            check_value(owner, what, name, fits, "That column may be null: declare it as required.")
        least = None if self.weight is None else self._column(self.weight).minimum
        fits = self.weight is None or (least is not None and least >= 0)
        check_value(owner, "weight", self.weight, fits, "Declare a minimum of 0 or more for that column.")

    def _check_days(self, owner: str) -> None:
        if self.history_days is None:
            return
        rule = f"The gate does not show the last {self.gate.test_days} of them to the model: give more than that."
        check_value(owner, "history_days", self.history_days, self.history_days > self.gate.test_days, rule)
        rule = f"What was taken longer ago than history_days={self.history_days} is not read."
        fits = self.exclude_days is not None and self.exclude_days <= self.history_days
        check_value(owner, "exclude_days", self.exclude_days, fits, rule)

    def _column(self, name: str) -> Column:
        for column in self.source.columns:
            if column.name == name:
                return column
        raise SettingsError(
            f"Recommender {self.name!r} has the column {name!r}, which source {self.source.name!r} does not declare.",
            remedy=f"Its columns are {', '.join(column.name for column in self.source.columns)}.",
        )

    @property
    def key(self) -> tuple[str, ...]:
        return (self.user,)

    @property
    def key_type(self) -> str:
        return self._column(self.user).type

    @property
    def item_type(self) -> str:
        return self._column(self.item).type

    @property
    def all_sources(self) -> tuple[AnySource, ...]:
        return (self.source,) if self.catalogue is None else (self.source, *self.catalogue.sources)

    @property
    def output_columns(self) -> tuple[str, ...]:
        return ("items",)

    @property
    def start(self) -> date:
        return first_as_of(self.schedule, self.all_sources)

    @property
    def end(self) -> date | None:
        return last_as_of(self.schedule, self.all_sources)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that the lists depend on besides the interactions."""
        return fingerprint(
            columns=(self.user, self.item, self.weight, self.group),
            model=self.model,
            catalogue=self.catalogue and self.catalogue.computation_inputs,
            lists=(self.k, self.similar_items, self.history_days, self.exclude_days, self.most_of_group, self.seed),
            vectors=self.vectors,
            gate=self.gate,
        )

    @cached_property
    def tables(self) -> tuple[PluginTable, ...]:
        """All tables of its run: its own, and in the order in which they are committed, the second ones."""
        return (self, *self.second_tables)

    @cached_property
    def second_tables(self) -> tuple["SecondTable", ...]:
        """The tables that nobody declares, in the order in which they are committed: vectors, and similar items."""
        similar = () if self.similar_items is None else (_similar_items(self),)
        return (*(_vectors(self, of) for of in ("user", "item") if self.vectors), *similar)


@dataclass(frozen=True)
class SecondTable(PluginTable):
    """A table beside the lists of users, with the same as-of dates; it is published and served like any other."""

    maker: Recommender
    name: str
    of: Literal["user", "item"]
    output_columns: tuple[str, ...]
    publish: Publish
    description: str
    # Given if its rows are vectors, not lists. Only vectors of the same as-of date can be compared: each fit has its
    # own axes.
    packed: PackedLayout | None = None

    @property
    def key(self) -> tuple[str, ...]:
        return (self.maker.user if self.of == "user" else self.maker.item,)

    @property
    def key_type(self) -> str:
        return self.maker.key_type if self.of == "user" else self.maker.item_type

    @property
    def all_sources(self) -> tuple[AnySource, ...]:
        return self.maker.all_sources

    @property
    def schedule(self) -> Schedule:
        return self.maker.schedule

    @property
    def start(self) -> date:
        return self.maker.start

    @property
    def end(self) -> date | None:
        return self.maker.end

    @property
    def owner(self) -> str:
        return self.maker.owner


def _similar_items(recommender: Recommender) -> SecondTable:
    about = f"Items that belong to each item, by the model of {recommender.name}."
    columns = recommender.output_columns
    return SecondTable(recommender, f"{recommender.name}_items", "item", columns, recommender.publish, about)


def _vectors(recommender: Recommender, of: Literal["user", "item"]) -> SecondTable:
    """The vector of each user, or of each item: the column `vector`, float32."""
    columns = (recommender.user, recommender.item, recommender.weight)
    contract = fingerprint(of=of, model=recommender.model, columns=columns)
    return SecondTable(
        recommender,
        f"{recommender.name}_{of}_vectors",
        of,
        ("vector",),
        # Vectors of two dates differ because their axes do.
        replace(recommender.publish, fields=None, max_psi=None),
        f"The vector of each {of}, by the model of {recommender.name}.",
        PackedLayout({"vector": recommender.model.vector_size}, contract),
    )
