"""Building one as-of date of a recommender: judge the model, fit it, and commit its lists."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from functools import partial

import pyarrow as pa

from forecache.base.errors import InputError
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.declare import AS_OF, Recommender
from forecache.declare.recommenders.second_tables import SimilarItems, Vectors, second_tables_of
from forecache.kit.delta.commit import Target
from forecache.kit.delta.files import new_path, place_of, write_file
from forecache.kit.delta.partitions import TableSnapshot, find_committed_partitions, replace_partitions, take_snapshot
from forecache.kit.delta.writers import new_folder
from forecache.lake.provenance import PROVENANCE_FIELDS
from forecache.lake.sources import Pins
from forecache.lake.stage import StageOutcome
from forecache.plugins.recommend.catalogue import available_items
from forecache.plugins.recommend.evaluation.gate import first_test_day, judge
from forecache.plugins.recommend.filters import Filters
from forecache.plugins.recommend.interactions import Interactions
from forecache.plugins.recommend.lists import Lists, lists_of
from forecache.plugins.recommend.models import Fitted
from forecache.plugins.recommend.read_interactions import read_interactions
from forecache.plugins.recommend.similar import ItemLists, item_lists_of
from forecache.plugins.recommend.vectors import VectorRows, vector_rows

_ROWS_AT_ONCE = 8192

Rows = Lists | ItemLists | VectorRows


def write_lists(
    settings: Settings,
    served: Recommender | SimilarItems | Vectors,
    rows: Rows,
    night: date,
    *,
    source_version: int,
    seen: TableSnapshot,
    inputs: str,
    run_id: str = "",
    progress: Progress = no_progress,
) -> int:
    """Replace the partition of an as-of date by rows, which are made while they are written.

    Args:
        source_version: Delta version of the interactions.
        seen: State of the table before the work.
        inputs: Text that identifies everything the lists depend on; lists that another run committed meanwhile from the
            same inputs are taken over.

    Returns:
        The table's Delta version.

    Raises:
        ConflictError: Another run wrote the date from other inputs meanwhile.
    """
    from deltalake import Schema

    table = served.prediction_table
    schema = table_schema(served, rows)
    stamp = {
        "model_name": (served if isinstance(served, Recommender) else served.recommender).name,
        "model_version": int(f"{night:%Y%m%d}"),
        "feature_version": source_version,
        "scored_at": datetime.now(timezone.utc),
        "run_id": run_id,
    }

    what = served.output_columns[0] if isinstance(served, Vectors) else "list"

    def tables() -> Iterator[pa.Table]:
        done = 0
        for keys, values in rows.parts(_ROWS_AT_ONCE):
            done += len(keys)
            progress(f"{what}s of {done:,} {served.key[0]}s", 0.5 + 0.5 * done / len(rows.keys))
            same = [pa.repeat(pa.scalar(value, schema.field(name).type), len(keys)) for name, value in stamp.items()]
            names = [*served.key, *served.output_columns, *stamp]
            yield pa.Table.from_arrays([keys, values, *same], names=names)

    path = new_path(new_folder(), {AS_OF: night})
    stored = schema.remove(schema.get_field_index(AS_OF))
    file = write_file(place_of(settings, table).open(), path, stored, tables())
    committed = replace_partitions(
        Target(settings, table, Schema.from_arrow(schema), (AS_OF,), change_feed=True),
        [file],
        column=AS_OF,
        values=[night],
        seen=seen,
        inputs={night: inputs},
        note={"forecache": f"recommend {served.name} {night}", "run_id": run_id},
    )
    return committed.versions[night]


def table_schema(served: Recommender | SimilarItems | Vectors, rows: Rows) -> pa.Schema:
    """Columns of the prediction table; keys of users and items have the types that they have in the interactions."""
    return pa.schema(
        [
            (served.key[0], rows.keys.type),
            (AS_OF, pa.date32()),
            (served.output_columns[0], rows.value_type),
            *PROVENANCE_FIELDS,
        ]
    )


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
