"""Rows of the prediction table as Arrow.

Runs inside Spark's Python workers: does not import the declaration's modules, and builds arrays from buffers, since
`pyarrow.array` would import pandas.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from forecache.base.output_kinds import OutputSpec
from forecache.lake.provenance import PROVENANCE_FIELDS
from forecache.models.inference.arrays import from_numpy
from forecache.scoring.tasks.output_arrays import number_columns, output_arrays, strings_array

if TYPE_CHECKING:
    from forecache.declare import Pipeline

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Stamp:
    """Provenance of every row of a run: the model, the time and the run."""

    model_name: str
    model_version: int
    scored_at: datetime
    run_id: str


@dataclass(frozen=True)
class Band:
    """A segment's column: labels[i] where bounds[i-1] <= value < bounds[i] (ends open), of the column `of`."""

    name: str
    of: str
    bounds: tuple[float, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class PredictionLayout:
    """The parts of a declaration that workers need to make the rows of its prediction table."""

    key: tuple[str, ...]
    outputs: tuple[OutputSpec, ...]
    bands: tuple[Band, ...]


def layout_of(pipeline: "Pipeline") -> PredictionLayout:
    bands = tuple(Band(segment.name, segment.of, segment.bounds, segment.labels) for segment in pipeline.segments)
    return PredictionLayout(pipeline.key, pipeline.output_specs, bands)


def prediction_fields(layout: PredictionLayout) -> list[pa.Field]:
    """The columns of a prediction table after the key and the partition column."""
    return [
        *(field for output in layout.outputs for field in output.arrow_fields),
        *(pa.field(band.name, pa.string()) for band in layout.bands),
        *PROVENANCE_FIELDS,
    ]


WORD = pa.dictionary(pa.int32(), pa.string())


def file_schema(layout: PredictionLayout, keys: Sequence[pa.Field]) -> pa.Schema:
    """Columns of a prediction file: the table's without the partition column; texts that repeat are dictionaries."""
    fields = prediction_fields(layout)
    return pa.schema([*keys, *(field.with_type(WORD) if field.type == pa.string() else field for field in fields)])


def prediction_rows(
    layout: PredictionLayout,
    keys: Sequence[pa.Array],
    values: Sequence[np.ndarray],
    stamp: Stamp,
    version: int,
    schema: pa.Schema,
) -> pa.RecordBatch:
    """A batch of predictions, with the schema of `file_schema`.

    Args:
        keys: The key columns, n rows.
        values: Of each output, from `forecache.models.inference.outputs.score_values`; unknown values become null,
            which the checks refuse.
        version: Feature table version.
    """
    rows = len(keys[0])
    numbers: dict[str, np.ndarray] = {}
    outputs: list[pa.Array] = []
    for output, value in zip(layout.outputs, values, strict=True):
        outputs += output_arrays(output, value)
        numbers |= number_columns(output, value)
    moment = (stamp.scored_at - _EPOCH) // timedelta(microseconds=1)
    columns: list[Any] = [
        *keys,
        *outputs,
        *(_labels(band, numbers[band.of]) for band in layout.bands),
        same_word(stamp.model_name, rows),
        from_numpy(np.full(rows, stamp.model_version, dtype=np.int32)),
        from_numpy(np.full(rows, version, dtype=np.int64)),
        from_numpy(np.full(rows, moment, dtype=np.int64)).cast(pa.timestamp("us", tz="UTC")),
        same_word(stamp.run_id, rows),
    ]
    typed = [as_words(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(typed, schema=schema)


def _labels(band: Band, values: np.ndarray) -> pa.Array:
    indices = np.searchsorted(np.array(band.bounds), values, side="right").astype(np.int32)
    unknown = np.isnan(values)
    return pa.DictionaryArray.from_arrays(
        from_numpy(indices, unknown if unknown.any() else None), strings_array(band.labels)
    )


def as_words(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Encode a text column as a dictionary if the file has it so."""
    return column.dictionary_encode() if kind == WORD and column.type == pa.string() else column


def same_word(word: str, rows: int) -> pa.Array:
    """A column that repeats one text, of the type `WORD`."""
    return pa.DictionaryArray.from_arrays(from_numpy(np.zeros(rows, dtype=np.int32)), strings_array([word]))
