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

from forecache.base.errors import CheckError
from forecache.base.output_kinds import OutputSpec
from forecache.lake.provenance import PROVENANCE_FIELDS, Stamp
from forecache.models.inference.arrays import from_numpy

if TYPE_CHECKING:
    from forecache.declare import Pipeline


_SUM_TOLERANCE = 1e-3


def output_arrays(output: OutputSpec, values: np.ndarray) -> list[pa.Array]:
    """The columns of an output, n rows each, with the types of `OutputSpec.arrow_fields`, except that names of classes
    are dictionaries. Unknown numbers, classes, texts and booleans are null.

    CheckError for invalid probabilities, a class that is not declared, or an unknown vector or list.
    """
    if output.numbers:
        return [_numbers(column) for column in number_columns(output, values).values()]
    if output.kind == "classes":
        return _class_names(output, values) if values.ndim == 1 else _classes(output, values)
    if output.kind == "vector":
        return [_vectors(output, values)]
    if output.kind == "structs":
        return [_structs(output, values)]
    return [_words(output, values)]


def number_columns(output: OutputSpec, values: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of an output that are numbers, float64 [n] with NaN for unknown; empty if it has none."""
    if output.kind == "number":
        return {output.name: values.astype(np.float64, copy=False)}
    if output.kind != "quantiles":
        return {}
    table = values.astype(np.float64)
    table[np.isnan(table).any(axis=1)] = np.nan
    table.sort(axis=1)
    return {column: np.ascontiguousarray(table[:, i]) for i, column in enumerate(output.columns)}


def strings_array(words: Sequence[str]) -> pa.StringArray:
    """Texts as an Arrow array."""
    content = [word.encode() for word in words]
    ends = np.cumsum([0, *map(len, content)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(words), pa.py_buffer(ends), pa.py_buffer(b"".join(content)))


def _numbers(values: np.ndarray) -> pa.Array:
    unknown = np.isnan(values)
    return from_numpy(values, unknown if unknown.any() else None)


def _words(output: OutputSpec, values: np.ndarray) -> pa.Array:
    """Texts or booleans; NaN is null, also if a whole batch is."""
    if output.kind == "boolean" and values.dtype.kind in "fiu":
        values = _flags(output, values)
    unknown = np.isnan(values) if values.dtype.kind == "f" else None
    try:
        return from_numpy(values, unknown).cast(output.arrow_fields[0].type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise CheckError(
            f"The model returned values of {output.name!r} that are no {output.kind}: {error}.",
            remedy="Return one kind of value, or declare another kind of output.",
        ) from None


def _flags(output: OutputSpec, values: np.ndarray) -> np.ndarray:
    """0 and 1 as booleans; other numbers are refused, because a cast would make even a small probability true."""
    unknown = np.isnan(values)
    strange = values[~unknown & (values != 0) & (values != 1)]
    if len(strange):
        raise CheckError(
            f"The model returned {strange[0]:g} of {output.name!r}, which is no boolean.",
            remedy="Return yes or no, such as score > 0.5, or declare a number.",
        )
    flags = (values == 1).astype(object)
    flags[unknown] = None
    return flags


def _classes(output: OutputSpec, values: np.ndarray) -> list[pa.Array]:
    shares = values.astype(np.float64)
    unknown = np.logical_not(np.isfinite(shares).all(axis=1))
    known = shares[~unknown]
    if known.size and (known.min() < 0 or known.max() > 1 or np.abs(known.sum(axis=1) - 1).max() > _SUM_TOLERANCE):
        raise CheckError(
            f"The model's probabilities of {output.name!r} are {known.min():g} to {known.max():g} and add up to "
            f"{known.sum(axis=1).min():g} to {known.sum(axis=1).max():g} in a row.",
            remedy="A model of classes must return a probability for each class, which add up to 1.",
        )
    mask = unknown if unknown.any() else None
    order = np.argsort(-shares, axis=1, kind="stable")
    names = strings_array(output.classes)
    best = pa.DictionaryArray.from_arrays(from_numpy(order[:, 0].astype(np.int32), mask), names)
    if output.top == 0:
        return [best]
    kept = np.ascontiguousarray(order[:, : output.top])
    items = pa.StructArray.from_arrays(
        [
            names.take(from_numpy(kept.reshape(-1).astype(np.int32))),
            from_numpy(np.take_along_axis(shares, kept, axis=1).reshape(-1)),
        ],
        names=["class", "probability"],
    )
    return [best, _lists(output.arrow_fields[1].type, items, len(values), kept.shape[1], mask)]


def _class_names(output: OutputSpec, values: np.ndarray) -> list[pa.Array]:
    if output.top != 0:
        raise CheckError(
            f"The model returns the classes of {output.name!r} without their probabilities.",
            remedy="Declare that there are none: Classes(probabilities=0).",
        )
    names = _words(output, values)
    if output.classes:
        found = [name for name in names.unique().to_pylist() if name is not None and name not in output.classes]
        if found:
            raise CheckError(
                f"The model returned the class {found[0]!r} of {output.name!r}, which is not among its classes.",
                remedy=f"They are {', '.join(output.classes)}; declare it, or leave the labels out.",
            )
    return [names]


def _vectors(output: OutputSpec, values: np.ndarray) -> pa.Array:
    matrix = np.ascontiguousarray(values, np.float32)
    _require_known(output, int((~np.isfinite(matrix)).any(axis=1).sum()), len(matrix))
    return _lists(output.arrow_fields[0].type, from_numpy(matrix.reshape(-1)), len(matrix), matrix.shape[1], None)


def _structs(output: OutputSpec, values: np.ndarray) -> pa.Array:
    kind = output.arrow_fields[0].type
    try:
        lists = [None if row is None else list(row) for row in values]
        _require_known(output, sum(row is None for row in lists), len(lists))
        return pa.array(lists, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as error:
        raise CheckError(
            f"The model returned lists of {output.name!r} that do not fit {kind}: {error}.",
            remedy="Declare the fields that it returns, with their types.",
        ) from None


def _require_known(output: OutputSpec, unknown: int, rows: int) -> None:
    # Parquet counts the nulls of a list's items, not those of lists: the checks of a night cannot see them.
    if unknown:
        raise CheckError(
            f"The model returned no {output.name!r}, or values that are no numbers, for {unknown} of {rows} rows.",
            remedy="A model must return one for each row.",
        )


def _lists(kind: pa.DataType, items: pa.Array, rows: int, width: int, mask: "np.ndarray | None") -> pa.Array:
    offsets = from_numpy(np.arange(0, (rows + 1) * width, width, dtype=np.int32) if rows else np.zeros(1, np.int32))
    nulls = None if mask is None else from_numpy(mask.astype(np.uint8)).cast(pa.bool_())
    return pa.ListArray.from_arrays(offsets, items, type=kind, mask=nulls)


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


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
    """A batch of predictions, with the schema of `file_schema`; unknown values, of those from `score_values`, become
    null, which the checks refuse. `version` is the feature table's."""
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
