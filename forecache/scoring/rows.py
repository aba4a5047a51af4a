"""Rows of the prediction table as Arrow, for the engine without a JVM and for incremental runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from forecache.pipeline import Pipeline, Segment


@dataclass(frozen=True)
class Stamp:
    """What every row of a run carries: which model scored it, when, in which run."""

    model_name: str
    model_version: int
    scored_at: datetime
    run_id: str


WORD = pa.dictionary(pa.int32(), pa.string())


def prediction_columns(pipeline: Pipeline, keys: Sequence[pa.Field]) -> pa.Schema:
    """Columns of a prediction file: the table's without the partition column; words that repeat as dictionaries."""
    return pa.schema(
        [
            *keys,
            (pipeline.output.name, pa.float64()),
            *((segment.name, WORD) for segment in pipeline.segments),
            ("model_name", WORD),
            ("model_version", pa.int32()),
            ("feature_version", pa.int64()),
            ("scored_at", pa.timestamp("us", tz="UTC")),
            ("run_id", WORD),
        ]
    )


def prediction_rows(
    pipeline: Pipeline, keys: Sequence[pa.Array], values: np.ndarray, stamp: Stamp, version: int, schema: pa.Schema
) -> pa.RecordBatch:
    """A batch of predictions.

    Args:
        keys: The key columns, n rows.
        values: The output, float [n]; NaN becomes null, which the checks refuse.
        version: Feature table version.
        schema: From `prediction_columns`.
    """
    rows = len(values)
    output = values.astype(np.float64, copy=False)
    unknown = np.isnan(output)
    mask = unknown if unknown.any() else None
    columns: list[Any] = [
        *keys,
        pa.array(output, mask=mask),
        *(_cut(segment, output, mask) for segment in pipeline.segments),
        _word(stamp.model_name, rows),
        pa.array(np.full(rows, stamp.model_version, dtype=np.int32)),
        pa.array(np.full(rows, version, dtype=np.int64)),
        pa.array(np.full(rows, _microseconds(stamp.scored_at), dtype=np.int64)).cast(pa.timestamp("us", tz="UTC")),
        _word(stamp.run_id, rows),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cut(segment: Segment, output: np.ndarray, mask: np.ndarray | None) -> pa.Array:
    indices = np.searchsorted(np.array(segment.bounds), output, side="right").astype(np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(indices, mask=mask), pa.array(list(segment.labels)))


def _word(word: str, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array([word]))


def _microseconds(moment: datetime) -> int:
    return int(pa.scalar(moment, pa.timestamp("us", tz="UTC")).value)
