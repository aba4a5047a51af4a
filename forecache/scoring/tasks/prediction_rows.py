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

from forecache.inference.arrays import from_numpy
from forecache.lake.provenance import PROVENANCE_FIELDS

if TYPE_CHECKING:
    from forecache.pipeline import Pipeline

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Stamp:
    """What every row of a run carries: which model scored it, when, in which run."""

    model_name: str
    model_version: int
    scored_at: datetime
    run_id: str


@dataclass(frozen=True)
class Band:
    """A segment's column: labels[i] where bounds[i-1] <= output < bounds[i] (ends open)."""

    name: str
    bounds: tuple[float, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """What of a declaration decides about the rows of its prediction table; a worker has no more of it."""

    key: tuple[str, ...]
    output: str
    bands: tuple[Band, ...]


def layout_of(pipeline: "Pipeline") -> Layout:
    bands = tuple(Band(segment.name, segment.bounds, segment.labels) for segment in pipeline.segments)
    return Layout(pipeline.key, pipeline.main_output.name, bands)


def prediction_fields(layout: Layout) -> list[pa.Field]:
    """The columns of a prediction table behind the key and the partition column."""
    return [
        pa.field(layout.output, pa.float64()),
        *(pa.field(band.name, pa.string()) for band in layout.bands),
        *PROVENANCE_FIELDS,
    ]


WORD = pa.dictionary(pa.int32(), pa.string())


def file_schema(layout: Layout, keys: Sequence[pa.Field]) -> pa.Schema:
    """Columns of a prediction file: the table's without the partition column; words that repeat as dictionaries."""
    fields = prediction_fields(layout)
    return pa.schema([*keys, *(field.with_type(WORD) if field.type == pa.string() else field for field in fields)])


def prediction_rows(
    layout: Layout, keys: Sequence[pa.Array], values: np.ndarray, stamp: Stamp, version: int, schema: pa.Schema
) -> pa.RecordBatch:
    """A batch of predictions.

    Args:
        keys: The key columns, n rows.
        values: The output, float [n]; NaN becomes null, which the checks refuse.
        version: Feature table version.
        schema: From `file_schema`.
    """
    rows = len(values)
    output = values.astype(np.float64, copy=False)
    unknown = np.isnan(output)
    mask = unknown if unknown.any() else None
    moment = (stamp.scored_at - _EPOCH) // timedelta(microseconds=1)
    columns: list[Any] = [
        *keys,
        from_numpy(output, mask),
        *(_labels(band, output, mask) for band in layout.bands),
        same_word(stamp.model_name, rows),
        from_numpy(np.full(rows, stamp.model_version, dtype=np.int32)),
        from_numpy(np.full(rows, version, dtype=np.int64)),
        from_numpy(np.full(rows, moment, dtype=np.int64)).cast(pa.timestamp("us", tz="UTC")),
        same_word(stamp.run_id, rows),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _labels(band: Band, output: np.ndarray, mask: np.ndarray | None) -> pa.Array:
    indices = np.searchsorted(np.array(band.bounds), output, side="right").astype(np.int32)
    return pa.DictionaryArray.from_arrays(from_numpy(indices, mask), _strings(band.labels))


def same_word(word: str, rows: int) -> pa.Array:
    """A column of one word, as `WORD`."""
    return pa.DictionaryArray.from_arrays(from_numpy(np.zeros(rows, dtype=np.int32)), _strings([word]))


def _strings(words: Sequence[str]) -> pa.Array:
    content = [word.encode() for word in words]
    ends = np.cumsum([0, *map(len, content)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(words), pa.py_buffer(ends), pa.py_buffer(b"".join(content)))
