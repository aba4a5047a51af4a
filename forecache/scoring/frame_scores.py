"""Predictions for rows in memory: the kernel, the outputs and the segments of a scoring run, without its tables."""

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from forecache.base.errors import InputError
from forecache.declare import Pipeline
from forecache.lake.provenance import Stamp
from forecache.lake.stored_features import store_column
from forecache.models.inference.kernel import score_values
from forecache.models.inference.kernel_spec import KernelSpec
from forecache.models.inference.outputs import known_outputs
from forecache.models.inference.runtimes.runtime import Kernel
from forecache.scoring.tasks.job import model_features
from forecache.scoring.tasks.prediction_rows import file_schema, layout_of, prediction_fields, prediction_rows

_BATCH_ROWS = 1 << 16
_ROW = pa.field("row", pa.int32())
"""A key for rows without one; `prediction_rows` has a key column."""


def predict_rows(
    pipeline: Pipeline, kernel: Kernel, spec: KernelSpec, rows: pa.Table, *, stamp: Stamp, key: Sequence[str] = ()
) -> pa.Table:
    """The rows of a prediction table for rows of features, in their order: key columns, outputs, segments, provenance.

    Args:
        rows: The features by name, in the types of the feature table or in types that can be cast to them; a text may
            be a text. Other columns than these and the key are ignored.
        key: Key columns of the rows that the result has; (): none.

    Raises:
        InputError: A feature that the model takes, or a key column, is missing or of another type.
        CheckError: The model returned another number of rows, or values that an output does not take.
    """
    layout = layout_of(pipeline)
    layout = replace(layout, outputs=known_outputs(layout.outputs, spec))
    inputs = model_features(pipeline, spec.inputs)
    by_name = {feature.name: feature for feature in pipeline.feature_columns}
    for name in (*key, *inputs):
        if name not in rows.column_names:
            raise InputError(
                f"The rows have no column {name!r}, which {pipeline.inline_name} needs.",
                remedy=f"They have {', '.join(rows.column_names) or 'none'}.",
            )
    fields = [rows.schema.field(name) for name in key] or [_ROW]
    schema = file_schema(layout, fields)
    found = []
    for first in range(0, rows.num_rows, _BATCH_ROWS):
        some = rows.slice(first, _BATCH_ROWS).combine_chunks()
        features = [store_column(by_name[name], _array_of(some, name), pipeline.name) for name in inputs]
        keys = [_array_of(some, name) for name in key] or [pa.nulls(some.num_rows, _ROW.type)]
        values = score_values(kernel, spec, features, layout.outputs)
        found.append(prediction_rows(layout, keys, values, stamp, -1, schema))
    # Texts that repeat are dictionaries in a file.
    table = pa.Table.from_batches(found, schema).cast(pa.schema([*fields, *prediction_fields(layout)]))
    return table if key else table.drop_columns([_ROW.name])


def _array_of(rows: pa.Table, name: str) -> pa.Array:
    column = rows.column(name).combine_chunks()
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
