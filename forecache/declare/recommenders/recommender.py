"""A recommender: a list of items for every user, fitted to interactions in each nightly run."""

from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any, Literal

from forecache.base.errors import SettingsError
from forecache.base.output_kinds import DECLARED
from forecache.base.table_names import AS_OF, PREDICTIONS, PROVENANCE_COLUMNS, check_column, check_name, check_unique
from forecache.declare.checks.fields import check_fields, check_least, check_value
from forecache.declare.code.fingerprint import fingerprint
from forecache.declare.policies import Publish
from forecache.declare.recommenders.catalogue import Catalogue
from forecache.declare.schedules.as_of import check_schedule, first_as_of, last_as_of
from forecache.declare.schedules.schedule import Schedule
from forecache.declare.served import Predictions
from forecache.declare.sources.column import NUMBERS, Column
from forecache.declare.sources.keys import check_key_type
from forecache.declare.sources.source import Source
from forecache.declare.sources.table_source import AnySource


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
class Recommender(Predictions):
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
    def served_fields(self) -> tuple[str, ...]:
        return self.publish.fields or self.output_columns

    @property
    def publishing(self) -> Publish:
        return self.publish

    @property
    def prediction_table(self) -> str:
        """Delta table: user, as_of (date, partition), items (list of item, score, reason), PROVENANCE_COLUMNS."""
        return PREDICTIONS + self.name

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
