"""Incremental scoring: entities whose features did not change keep the prediction that they have.

A prediction carried forward keeps its model version, feature version, scored_at and run id: they say how that value
came about, and with equal features and model nothing about it has changed. Only `as_of` is the new night's. The
outputs are those of a full run; another model, declaration or kernel forces one.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from forecache.lake.features import partition_rows
from forecache.lake.ledger import StageRecord
from forecache.lake.tables import open_table, table_exists
from forecache.pipeline import Pipeline
from forecache.scoring.arrow_engine import BATCH_ROWS, models_folder, num_cores
from forecache.scoring.changes import Changes, State, feed_share, find_changes
from forecache.scoring.engines import Plan
from forecache.scoring.files import ROW_GROUP_ROWS, open_output
from forecache.scoring.job import model_features
from forecache.scoring.kernel import load_kernel
from forecache.scoring.night import Night, partition_files
from forecache.scoring.pieces import score_values
from forecache.scoring.rows import Stamp, layout_of, prediction_columns, prediction_rows
from forecache.scoring.staging import lake_filesystem
from forecache.settings import Settings

Mode = Literal["auto", "full", "incremental"]
# Above this share of change data, finding what changed costs more than scoring everything.
_FEED_SHARE = 0.3


@dataclass(frozen=True)
class Base:
    """Predictions that may be carried forward: of which features they are, in which partition they lie."""

    state: State
    rows: int


def find_base(
    settings: Settings,
    pipeline: Pipeline,
    table: str,
    night: Night,
    before: Mapping[date | None, StageRecord],
    *,
    mode: Mode,
) -> Base | None:
    """Predictions of the same model, declaration and kernel that a night can start from, None for a full run.

    In mode "auto" only the night's own earlier predictions count, and only where the feature table's log says that
    little has changed; in mode "incremental" also those of the latest earlier night.
    """
    if mode == "full" or not table_exists(settings, table):
        return None
    usable = {
        day: record
        for day, record in before.items()
        if day is not None and day <= night.night and _same_but_features(record, night)
    }
    if night.night in usable:
        base = _base(settings, table, usable[night.night], night.night)
        if base is not None and base.state.version < night.feature_version:
            target = State(night.night, night.feature_version)
            if mode == "incremental" or feed_share(settings, pipeline, base.state, target) <= _FEED_SHARE:
                return base
    if mode == "auto":
        return None
    earlier = [day for day in usable if day < night.night]
    return _base(settings, table, usable[max(earlier)], max(earlier)) if earlier else None


def _same_but_features(record: StageRecord, night: Night) -> bool:
    version = record.details.get("feature_version")
    return version is not None and record.inputs == night.inputs.replace(
        f"@{night.feature_version} code=", f"@{version} code="
    )


def _base(settings: Settings, table: str, record: StageRecord, day: date) -> Base | None:
    rows = partition_rows(settings, table, [day])[day]
    return Base(State(day, record.details["feature_version"]), rows) if rows and rows == record.rows else None


@dataclass(frozen=True)
class Carried:
    """Figures of an incremental run."""

    base: State
    rescored: int
    removed: int
    carried: int
    seconds: float

    def details(self) -> dict[str, Any]:
        return {
            "mode": "incremental",
            "base": f"{self.base.night.isoformat()}@{self.base.version}",
            "rescored": self.rescored,
            "removed": self.removed,
            "carried": self.carried,
        }


def score_changes(
    settings: Settings, pipeline: Pipeline, table: str, plan: Plan, night: Night, base: Base, stamp: Stamp, folder: str
) -> Carried:
    """Write a night's predictions into a staging folder: the base's where nothing changed, new ones elsewhere."""
    started = time.perf_counter()
    changes = find_changes(settings, pipeline, base.state, State(night.night, night.feature_version))
    keys = [field for field in changes.changed.schema if field.name in pipeline.key]
    schema = prediction_columns(layout_of(pipeline), [pa.field(key.name, _plain_type(key.type)) for key in keys])
    drop = _drop_set(pipeline, changes)
    source = lake_filesystem(settings, table)
    version = open_table(settings, table).version()
    files = partition_files(settings, table, version, [base.state.night])[base.state.night]
    with ThreadPoolExecutor(num_cores(), thread_name_prefix="forecache-carry") as pool:
        copies = [pool.submit(_carry, source, pipeline, file.path, folder, schema, drop) for file in files]
        _score_changed(settings, source, pipeline, plan, night, changes.changed, stamp, folder, schema)
        carried = sum(copy.result() for copy in copies)
    return Carried(
        base.state, changes.changed.num_rows, changes.removed.num_rows, carried, time.perf_counter() - started
    )


def _plain_type(kind: pa.DataType) -> pa.DataType:
    return pa.string() if kind in (pa.string_view(), pa.large_string()) else kind


def _drop_set(pipeline: Pipeline, changes: Changes) -> pa.Array:
    parts = [_identity([table.column(name) for name in pipeline.key]) for table in (changes.changed, changes.removed)]
    chunks = [chunk for part in parts for chunk in part.chunks]
    return pa.chunked_array(chunks, type=parts[0].type).combine_chunks()


def _identity(columns: Sequence[Any]) -> Any:
    """One column that tells entities apart: the key itself, or the parts of a composite one, each with its length."""
    plain = [column.cast(_plain_type(column.type)) for column in columns]
    if len(plain) == 1:
        return plain[0]
    texts = [column.cast(pa.string()) for column in plain]
    marked = [pc.binary_join_element_wise(pc.utf8_length(text).cast(pa.string()), text, ":") for text in texts]
    return pc.binary_join_element_wise(*marked, ",")


def _carry(filesystem: Any, pipeline: Pipeline, path: str, folder: str, schema: pa.Schema, drop: pa.Array) -> int:
    """Copy the rows of a prediction file whose keys are not in the set; returns how many."""
    import pyarrow.parquet as pq

    words = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    carried = 0
    with filesystem.open_input_file(path) as opened:
        parquet = pq.ParquetFile(opened, read_dictionary=words)
        with open_output(filesystem, _new_file(folder), schema) as writer:
            for batch in parquet.iter_batches(4 * BATCH_ROWS, columns=schema.names, use_threads=False):
                known = _identity([batch.column(name) for name in pipeline.key])
                kept = batch.filter(pc.invert(pc.is_in(known, value_set=drop))) if len(drop) else batch
                kept = pa.RecordBatch.from_arrays(
                    [_as(kept.column(field.name), field.type) for field in schema], schema=schema
                )
                writer.write_batch(kept, row_group_size=ROW_GROUP_ROWS)
                carried += kept.num_rows
    return carried


def _new_file(folder: str) -> str:
    return f"{folder}/part-{uuid.uuid4().hex}.snappy.parquet"


def _as(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type == kind:
        return column
    return column.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else column.cast(kind)


def _score_changed(
    settings: Settings,
    filesystem: Any,
    pipeline: Pipeline,
    plan: Plan,
    night: Night,
    changed: pa.Table,
    stamp: Stamp,
    folder: str,
    schema: pa.Schema,
) -> None:
    if not changed.num_rows:
        return
    kernel = load_kernel(plan.spec, lambda: plan.payload, lambda: models_folder(settings))
    names = model_features(pipeline, plan.spec.inputs)
    with open_output(filesystem, _new_file(folder), schema) as writer:
        for batch in changed.to_batches(max_chunksize=BATCH_ROWS):
            values = score_values(kernel, plan.spec, [batch.column(name) for name in names], pipeline.output.name)
            identity = [_as(batch.column(name), schema.field(name).type) for name in pipeline.key]
            writer.write_batch(
                prediction_rows(layout_of(pipeline), identity, values, stamp, night.feature_version, schema),
                row_group_size=ROW_GROUP_ROWS,
            )
