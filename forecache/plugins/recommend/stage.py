"""The nightly stage of a recommender: fit, judge, rank for every user, and write the lists, each as-of date once."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pyarrow as pa

from forecache.base.errors import CheckError, ForecacheError, InputError, NotYetError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.declare import AS_OF
from forecache.declare.as_of import require_as_of
from forecache.kit.delta.commit import Target
from forecache.kit.delta.files import new_path, place_of, write_file
from forecache.kit.delta.partitions import TableSnapshot, find_committed_partitions, replace_partitions, take_snapshot
from forecache.kit.delta.tables import table_version
from forecache.kit.delta.writers import new_folder
from forecache.lake.ingest.ingested_files import ingested_files, last_raw_version
from forecache.lake.provenance import PROVENANCE_FIELDS
from forecache.lake.sources import Pins, require_delivered, source_state
from forecache.lake.stage_runner import Stage, StageOutcome, adopt_partitions, hold_table_lock
from forecache.plugins.recommend.evaluation.gate import first_test_day, judge
from forecache.plugins.recommend.filters import Filters, available_items
from forecache.plugins.recommend.interactions import Interactions, read_interactions
from forecache.plugins.recommend.lists import STAGE, ItemLists, Lists, VectorRows, item_lists_of, lists_of, vector_rows
from forecache.plugins.recommend.models import Fitted
from forecache.plugins.recommend.recommender import Recommender, SecondTable

_ROWS_AT_ONCE = 8192

Rows = Lists | ItemLists | VectorRows


def write_lists(
    settings: Settings,
    served: Recommender | SecondTable,
    rows: Rows,
    night: date,
    *,
    source_version: int,
    seen: TableSnapshot,
    inputs: str,
    run_id: str = "",
    progress: Progress = no_progress,
) -> int:
    """Replace the partition of an as-of date by rows, made while they are written; returns the table's version.

    Lists that another run committed from the same `inputs` since the table was `seen` are taken over.
    """
    from deltalake import Schema

    table = served.prediction_table
    # Keys of users and items have the types that they have in the interactions.
    columns = [(served.key[0], rows.keys.type), (AS_OF, pa.date32()), (served.output_columns[0], rows.value_type)]
    schema = pa.schema([*columns, *PROVENANCE_FIELDS])
    stamp = {
        "model_name": served.maker.name,
        "model_version": int(f"{night:%Y%m%d}"),
        "feature_version": source_version,
        "scored_at": datetime.now(timezone.utc),
        "run_id": run_id,
    }

    what = served.output_columns[0] if served.packed else "list"

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


@dataclass(frozen=True)
class RecommenderTables:
    """The tables of a recommender, with their state at the start of a run.

    The further tables are committed first: if the users' lists of an as-of date were written from some inputs, so were
    the further tables.
    """

    settings: Settings
    recommender: Recommender
    seen: dict[str, TableSnapshot]  # by name
    pins: Pins

    @classmethod
    def open(cls, settings: Settings, recommender: Recommender, pins: Pins) -> "RecommenderTables":
        seen = {each.name: take_snapshot(settings, each.prediction_table, AS_OF) for each in recommender.tables}
        return cls(settings, recommender, seen, pins)

    def find_done(self, stale: dict[date, str]) -> dict[date, StageOutcome]:
        """As-of dates that a killed run has committed and not recorded."""
        table = self.recommender.prediction_table
        written, *others = (
            find_committed_partitions(self.settings, each.prediction_table, column=AS_OF, inputs=stale)
            for each in self.recommender.tables
        )
        return {
            night: StageOutcome(writer.rows, table=table, delta_version=writer.version)
            for night, writer in written.items()
            if all(night in found for found in others)
        }

    def build(self, night: date, *, source_version: int, inputs: str, run_id: str, progress: Progress) -> StageOutcome:
        """Judge, fit, rank and commit; raises InputError if nothing can be learned, CheckError if the gate refuses."""
        recommender = self.recommender
        progress(f"reading the interactions up to {night}", 0.0)
        interactions, groups = read_interactions(self.settings, recommender, night)
        progress(f"judging the model of {recommender.name}", 0.1)
        eve = first_test_day(recommender, night) - timedelta(days=1)
        before = available_items(self.settings, recommender, eve, pins=self.pins)
        verdict = judge(recommender, interactions, night, groups, before)
        progress(f"fitting {recommender.name} to {len(interactions):,} interactions", 0.4)
        started = time.perf_counter()
        fitted = recommender.model.fit(interactions, seed=recommender.seed)
        fit_s, started = time.perf_counter() - started, time.perf_counter()
        write = partial(
            write_lists,
            self.settings,
            night=night,
            source_version=source_version,
            inputs=inputs,
            run_id=run_id,
            progress=progress,
        )
        available = available_items(self.settings, recommender, night, pins=self.pins)
        there = Filters() if available is None else available.filters(fitted.item_keys, interactions.user_keys)
        num_items = fitted.num_items
        if not there.reachable(num_items).any():
            raise InputError(
                f"None of the {num_items:,} items that users of {recommender.name} took is available on {night}.",
                remedy="Check the catalogue, and that its items are named as those of the interactions.",
            )
        for second in recommender.second_tables:
            write(second, _rows_of(second, fitted, interactions, there), seen=self.seen[second.name])
        lists = lists_of(recommender, fitted, interactions, night, groups, available)
        version = write(recommender, lists, seen=self.seen[recommender.name])
        figures = {
            **verdict,
            **self.pins.details(recommender.all_sources),
            "items": fitted.num_items,
            "interactions": len(interactions),
            "source_table": recommender.source.raw_table,
            "source_version": source_version,
            "fit_s": round(fit_s, 2),
            "rank_s": round(time.perf_counter() - started, 2),
        }
        return StageOutcome(interactions.num_users, figures, recommender.prediction_table, version)


def _rows_of(table: SecondTable, fitted: Fitted, interactions: Interactions, there: Filters) -> ItemLists | VectorRows:
    if table.packed:
        return vector_rows(table, fitted, interactions)
    assert table.maker.similar_items is not None
    return item_lists_of(fitted, interactions, table.maker.similar_items, filters=there)


def recommend(
    settings: Settings,
    recommender: Recommender,
    nights: Sequence[date],
    *,
    run_id: str = "",
    progress: Progress = no_progress,
    rebuild: bool = False,
) -> StageResult:
    """Write the lists of the as-of dates whose interactions or declaration changed since; a refused one stops no other.

    The result has rows (users) over all dates; `details` has `built` (dates written), `refused` (reason by date),
    `rows_by_night`, and `nights` by date with the gate's figures, the number of items and the times of the steps. If
    all dates are refused, the error of the first is raised.
    """
    stage = Stage(settings, STAGE, recommender.name, run_id)
    source, table = recommender.source, recommender.prediction_table
    refused: dict[date, ForecacheError] = {}
    with hold_table_lock(settings, table, run_id, progress):
        require_as_of(recommender, nights)
        pins = Pins(settings)
        tables = RecommenderTables.open(settings, recommender, pins)
        files = ingested_files(settings, source)
        inputs: dict[date, str] = {}
        versions: dict[date, int] = {}
        for night in nights:
            try:
                for each in recommender.all_sources:
                    require_delivered(settings, each, [night], pins=pins)
            except (InputError, NotYetError) as error:
                refused[night] = error
                continue
            versions[night] = last_raw_version(settings, source, night, files=files)
            inputs[night] = _inputs(settings, recommender, night, pins)

        def work(some: Sequence[date]) -> dict[date, StageOutcome]:
            [day] = some
            try:
                done = tables.build(
                    day, source_version=versions[day], inputs=inputs[day], run_id=run_id, progress=progress
                )
            except (CheckError, InputError) as error:
                refused[day] = error
                return {}
            return {day: done}

        def find(stale: Mapping[date, str]) -> dict[date, StageOutcome]:
            theirs: dict[date, Mapping[str, Any]] = {}
            for each in reversed(recommender.tables):  # its own table last, as in a run
                seen, of_table = tables.seen[each.name], each.prediction_table
                theirs = adopt_partitions(stage, of_table, stale, column=AS_OF, seen=seen, progress=progress)
            own = {**pins.details(recommender.all_sources), "source_table": source.raw_table}
            return {
                night: replace(done, details={**theirs.get(night, {}), **own, "source_version": versions[night]})
                for night, done in tables.find_done(dict(stale)).items()
            }

        records, pending = stage.run_nights(inputs, work, at_once=1, rebuild=rebuild, find=find)
    if refused and not records:
        first = refused[min(refused)]
        if len(refused) == 1:
            raise first
        raise type(first)(f"All {_format_refusals(recommender.name, refused, len(refused))}")
    built = [night for night in pending if night not in refused]
    return stage.result(
        sum(row.rows for row in records.values()),
        nights=sorted(records),
        table=table,
        version=table_version(settings, table),
        skipped=not built,
        details={
            "built": [night.isoformat() for night in built],
            "refused": {night.isoformat(): str(refused[night]) for night in sorted(refused)},
            "rows_by_night": {night.isoformat(): records[night].rows for night in sorted(records)},
            "nights": {night.isoformat(): dict(records[night].details) for night in sorted(records)},
        },
    )


def _inputs(settings: Settings, recommender: Recommender, night: date, pins: Pins) -> str:
    """Inputs of a date's lists: states of the sources, the declaration, and the catalogue on the gate's eve."""
    eve = first_test_day(recommender, night) - timedelta(days=1)
    states = [source_state(settings, each, [night], pins=pins)[night] for each in recommender.all_sources]
    before = recommender.catalogue.sources if recommender.catalogue is not None else ()
    states += [f"before:{source_state(settings, each, [eve], pins=pins)[eve]}" for each in before]
    return f"{' '.join(states)} declared={recommender.fingerprint}"


def refused_dates(result: StageResult) -> str:
    """A sentence with each date that a run refused and the reason; "" if it refused none."""
    refused: Mapping[str, str] = result.details["refused"]
    if not refused:
        return ""
    return f"{len(refused)} of {_format_refusals(result.subject, refused, len(refused) + len(result.nights))}"


def _format_refusals(name: str, refused: Mapping[Any, Any], num_dates: int) -> str:
    reasons = " ".join(f"{night}: {refused[night]}" for night in sorted(refused))
    return f"{num_dates} dates of {name} were refused. {reasons}"
