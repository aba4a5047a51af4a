"""Encoding of features into a model's matrix: numbers, codes of categories, and the numbers of vectors in order.

The encoding is part of the registered model (its metadata), so that training, the gate, scoring and everybody who loads
the model make the same matrix. Runs inside Spark's Python workers: imports numpy and pyarrow only.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from forecache.base.errors import InputError
from forecache.models.inference.arrays import numpy_view, to_matrix

if TYPE_CHECKING:
    from forecache.declare import Feature

ENCODING = "forecache_encoding"
"""Key in a model's metadata and a kernel's options: the encoding of its features as JSON."""

NULL_CODE, UNKNOWN_CODE, FIRST_CODE = 0, 1, 2
"""Codes of a null, of a category that the model does not know, and of the first one that it knows."""


@dataclass(frozen=True)
class FeatureEncoding:
    """Encoding of one feature into columns of the matrix."""

    name: str
    type: str  # as in `forecache.Feature`
    size: int = 1  # columns of a vector, or of a text, which is a vector in the table; 1 for all others
    categories: tuple[str, ...] = ()  # the known categories, in the order of their codes

    @property
    def num_codes(self) -> int:
        return FIRST_CODE + len(self.categories)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"{self.name}_{i}" for i in range(self.size)) if self.type in ("vector", "text") else (self.name,)

    def matrix(self, column: pa.Array) -> NDArray[np.float32]:
        """float32 [n, size], NaN for a number that is null; InputError for another type, or a vector of another
        width."""
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        if self.type == "category":
            return self._codes(column)[:, None]
        if self.type in ("vector", "text"):
            if pa.types.is_null(column.type):
                return np.full((len(column), self.size), np.nan, np.float32)
            return to_matrix([column], (self.name,), self.size, np.float32)
        # A whole number goes through float64 whether or not another row is null: its bits do not depend on the batch.
        exact = column.cast(pa.float64(), safe=False) if self.type == "integer" else column
        return to_matrix([exact], (self.name,), 1, np.float32)

    def _codes(self, column: pa.Array) -> NDArray[np.float32]:
        if pa.types.is_null(column.type):
            return np.full(len(column), NULL_CODE, np.float32)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise InputError(
                f"The category {self.name!r} was given as {column.type}.", remedy="Give it as texts, as in the table."
            )
        found = pc.index_in(column.cast(pa.string()), self._known_texts)
        # The empty text, which counts as null, comes first, so a category's index is one less than its code.
        codes = np.where(numpy_view(found) == 0, NULL_CODE, numpy_view(found) + FIRST_CODE - 1)
        codes = np.where(_mask(found.is_valid()), codes, UNKNOWN_CODE)
        return np.where(_mask(column.is_valid()), codes, NULL_CODE).astype(np.float32)

    @cached_property
    def _known_texts(self) -> pa.Array:
        """The empty text and the categories. `pyarrow.array` would import pandas in every worker."""
        texts = [b"", *(text.encode() for text in self.categories)]
        offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
        return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(b"".join(texts)))


@dataclass(frozen=True)
class MatrixEncoding:
    """Encoding of a model's features, in its order, into its matrix."""

    features: tuple[FeatureEncoding, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return tuple(column for feature in self.features for column in feature.columns)

    @property
    def width(self) -> int:
        return len(self.columns)

    @property
    def is_plain(self) -> bool:
        """True if every feature is a number, which needs no encoding."""
        return all(feature.type == "number" for feature in self.features)

    @cached_property
    def places(self) -> Mapping[str, slice]:
        found, start = {}, 0
        for feature in self.features:
            found[feature.name] = slice(start, start + feature.size)
            start += feature.size
        return found

    @property
    def categories(self) -> Mapping[str, tuple[int, int]]:
        """Column in the matrix and number of codes of each category feature."""
        return {f.name: (self.places[f.name].start, f.num_codes) for f in self.features if f.type == "category"}

    def matrix(self, columns: Sequence[pa.Array]) -> NDArray[np.float32]:
        """float32 [n, width] of one Arrow array for each feature, in order; nulls as NaN, or as a category's code.
        InputError as of `FeatureEncoding.matrix`."""
        assert len(columns) == len(self.features), f"{len(columns)} columns for {len(self.features)} features"
        matrix = np.empty((len(columns[0]), self.width), np.float32)
        for feature, column in zip(self.features, columns, strict=True):
            matrix[:, self.places[feature.name]] = feature.matrix(column)
        return matrix

    def to_json(self) -> str:
        return json.dumps([asdict(feature) for feature in self.features])


def _mask(flags: pa.Array) -> NDArray[np.bool_]:
    return numpy_view(flags.cast(pa.uint8())).astype(bool)


def read_encoding(text: str) -> MatrixEncoding:
    rows = json.loads(text)
    return MatrixEncoding(tuple(FeatureEncoding(**{**row, "categories": tuple(row["categories"])}) for row in rows))


def encoding_of(features: "Sequence[Feature]", vocabularies: Mapping[str, Sequence[str]]) -> MatrixEncoding:
    """The encoding of declared features; `vocabularies` has what a model learned for those without declared
    categories."""

    def encode_feature(feature: "Feature") -> FeatureEncoding:
        known = feature.categories if feature.categories is not None else vocabularies.get(feature.name, ())
        return FeatureEncoding(
            feature.name, feature.type, feature.size or 1, tuple(known) if feature.type == "category" else ()
        )

    return MatrixEncoding(tuple(encode_feature(feature) for feature in features))


def find_encoding(options: Mapping[str, Any]) -> MatrixEncoding | None:
    """The encoding in a model's metadata or a kernel's options; None if all features are numbers."""
    return read_encoding(options[ENCODING]) if ENCODING in options else None
