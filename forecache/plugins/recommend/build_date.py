"""Building one as-of date of a recommender: judge the model, fit it, and commit its lists."""

import time
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial

from forecache.base.errors import InputError
from forecache.base.results import Progress
from forecache.base.settings import Settings
from forecache.declare import AS_OF, Recommender
from forecache.declare.recommenders.second_tables import SimilarItems, Vectors, second_tables_of
from forecache.kit.delta.partitions import TableSnapshot, find_committed_partitions, take_snapshot
from forecache.lake.sources.tables.pins import Pins
from forecache.lake.stage import StageOutcome
from forecache.plugins.recommend.catalogue import available_items
from forecache.plugins.recommend.evaluation.gate import first_test_day, judge
from forecache.plugins.recommend.filters import Filters
from forecache.plugins.recommend.interactions import Interactions
from forecache.plugins.recommend.lists import lists_of
from forecache.plugins.recommend.models import Fitted
from forecache.plugins.recommend.read_interactions import read_interactions
from forecache.plugins.recommend.similar import ItemLists, item_lists_of
from forecache.plugins.recommend.vectors import VectorRows, vector_rows
from forecache.plugins.recommend.write import write_lists


@dataclass(frozen=True)
class PendingDate:
    """An as-of date whose lists are to be written.

    Attributes:
        source_version: Delta version of the interactions.
        inputs: Text that identifies everything the lists depend on.
    """

    day: date
    source_version: int
    inputs: str


@dataclass(frozen=True)
class RecommenderTables:
    """The tables of a recommender, with their state at the start of a run.

    The further tables are committed first: if the users' lists of an as-of date were written from some inputs, so were
    the further tables.

    Attributes:
        seen_second: State of the further tables by name.
    """

    settings: Settings
    recommender: Recommender
    seen: TableSnapshot
    seen_second: dict[str, TableSnapshot]
    pins: Pins

    @classmethod
    def open(cls, settings: Settings, recommender: Recommender, pins: Pins) -> "RecommenderTables":
        second = {
            each.name: take_snapshot(settings, each.prediction_table, AS_OF) for each in second_tables_of(recommender)
        }
        return cls(settings, recommender, take_snapshot(settings, recommender.prediction_table, AS_OF), second, pins)

    def find_done(self, stale: dict[date, str]) -> dict[date, StageOutcome]:
        """As-of dates that a killed run has committed and not recorded."""
        table = self.recommender.prediction_table
        written = find_committed_partitions(self.settings, table, column=AS_OF, inputs=stale)
        for second in second_tables_of(self.recommender):
            found = find_committed_partitions(self.settings, second.prediction_table, column=AS_OF, inputs=stale)
            written = {night: writer for night, writer in written.items() if night in found}
        return {
            n: StageOutcome(writer.rows, table=table, delta_version=writer.version) for n, writer in written.items()
        }

    def build(self, night: PendingDate, *, run_id: str, progress: Progress) -> StageOutcome:
        """Judge, fit, rank and commit.

        Raises:
            InputError: The interactions cannot be learned from.
            CheckError: The gate refuses the model.
            ConflictError: Another run wrote the date from other inputs meanwhile.
        """
        recommender = self.recommender
        progress(f"reading the interactions up to {night.day}", 0.0)
        interactions, groups = read_interactions(self.settings, recommender, night.day)
        progress(f"judging the model of {recommender.name}", 0.1)
        eve = first_test_day(recommender, night.day) - timedelta(days=1)
        before = available_items(self.settings, recommender, eve, pins=self.pins)
        verdict = judge(recommender, interactions, night.day, groups, before)
        progress(f"fitting {recommender.name} to {len(interactions):,} interactions", 0.4)
        started = time.perf_counter()
        fitted = recommender.model.fit(interactions, seed=recommender.seed)
        fit_s, started = time.perf_counter() - started, time.perf_counter()
        write = partial(
            write_lists,
            self.settings,
            night=night.day,
            source_version=night.source_version,
            inputs=night.inputs,
            run_id=run_id,
            progress=progress,
        )
        available = available_items(self.settings, recommender, night.day, pins=self.pins)
        there = Filters() if available is None else available.filters(fitted.item_keys, interactions.user_keys)
        num_items = fitted.num_items
        if not there.reachable(num_items).any():
            raise InputError(
                f"None of the {num_items:,} items that users of {recommender.name} took is available on {night.day}.",
                remedy="Check the catalogue, and that its items are named as those of the interactions.",
            )
        for second in second_tables_of(recommender):
            write(second, _rows_of(second, fitted, interactions, there), seen=self.seen_second[second.name])
        lists = lists_of(recommender, fitted, interactions, night.day, groups, available)
        version = write(recommender, lists, seen=self.seen)
        figures = {
            **verdict,
            **self.pins.details(recommender.all_sources),
            "items": fitted.num_items,
            "interactions": len(interactions),
            "source_table": recommender.source.raw_table,
            "source_version": night.source_version,
            "fit_s": round(fit_s, 2),
            "rank_s": round(time.perf_counter() - started, 2),
        }
        return StageOutcome(interactions.num_users, figures, recommender.prediction_table, version)


def _rows_of(
    table: SimilarItems | Vectors, fitted: Fitted, interactions: Interactions, there: Filters
) -> ItemLists | VectorRows:
    if isinstance(table, Vectors):
        return vector_rows(table, fitted, interactions)
    return item_lists_of(fitted, interactions, table.k, filters=there)
