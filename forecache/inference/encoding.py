"""The matrix that a model takes of features that are not all numbers: codes of categories, numbers of vectors in order.

The encoding is a part of the registered model (its metadata), so that training, the gate, batch and whoever loads the
model make the same matrix. Runs inside Spark's Python workers: imports numpy and pyarrow only.
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

from forecache.errors import InputError
from forecache.inference.arrays import plain, to_matrix

if TYPE_CHECKING:
    from forecache.pipeline import Feature

ENCODING = "forecache_encoding"
"""In a model's metadata and a kernel's options: how its features become a matrix, as JSON."""

NULL_CODE, UNKNOWN_CODE, FIRST_CODE = 0, 1, 2
"""Codes of a category that is null, of one that the model does not know, and of the first one that it knows."""


@dataclass(frozen=True)
class Encoded:
    """How one feature becomes columns of the matrix.

    Attributes:
        type: As in `forecache.pipeline.Feature`.
        size: Columns of a vector (or of a text, which is one in the table); 1 of all others.
        categories: The known ones, in the order of their codes.
    """

    name: str
    type: str
    size: int = 1
    categories: tuple[str, ...] = ()

    @property
    def num_codes(self) -> int:
        return FIRST_CODE + len(self.categories)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns of the matrix."""
        return tuple(f"{self.name}_{i}" for i in range(self.size)) if self.type in ("vector", "text") else (self.name,)

    def matrix(self, column: pa.Array) -> NDArray[np.float32]:
        """float32 [n, size], NaN for a number that is null.

        Raises:
            InputError: The column has another type, or a vector has another width.
        """
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
        found = pc.index_in(column.cast(pa.string()), self._known)
        # The empty text, which is a null, comes first, and so the first category has one less than its code.
        codes = np.where(plain(found) == 0, NULL_CODE, plain(found) + FIRST_CODE - 1)
        codes = np.where(_mask(found.is_valid()), codes, UNKNOWN_CODE)
        return np.where(_mask(column.is_valid()), codes, NULL_CODE).astype(np.float32)

    @cached_property
    def _known(self) -> pa.Array:
        """The empty text and the categories. `pyarrow.array` would import pandas in every worker."""
        texts = [b"", *(text.encode() for text in self.categories)]
        offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
        return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(b"".join(texts)))


@dataclass(frozen=True)
class Encoding:
    """The features of a model in its order."""

    features: tuple[Encoded, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of the matrix."""
        return tuple(column for feature in self.features for column in feature.columns)

    @property
    def width(self) -> int:
        return len(self.columns)

    @property
    def is_plain(self) -> bool:
        """Whether every feature is a number, which needs no encoding."""
        return all(feature.type == "number" for feature in self.features)

    @cached_property
    def places(self) -> Mapping[str, slice]:
        """Where each feature's columns are."""
        found, start = {}, 0
        for feature in self.features:
            found[feature.name] = slice(start, start + feature.size)
            start += feature.size
        return found

    @property
    def categories(self) -> Mapping[str, tuple[int, int]]:
        """Of each category, its column of the matrix, and how many codes it has."""
        return {f.name: (self.places[f.name].start, f.num_codes) for f in self.features if f.type == "category"}

    def matrix(self, columns: Sequence[pa.Array]) -> NDArray[np.float32]:
        """float32 [n, width] of one Arrow array for each feature, in order; nulls as NaN, or as a category's code.

        Raises:
            InputError: A column has another type than its feature, or a vector has another width.
        """
        assert len(columns) == len(self.features), f"{len(columns)} columns for {len(self.features)} features"
        matrix = np.empty((len(columns[0]), self.width), np.float32)
        for feature, column in zip(self.features, columns, strict=True):
            matrix[:, self.places[feature.name]] = feature.matrix(column)
        return matrix

    def text(self) -> str:
        return json.dumps([asdict(feature) for feature in self.features])


def _mask(flags: pa.Array) -> NDArray[np.bool_]:
    return plain(flags.cast(pa.uint8())).astype(bool)


def read_encoding(text: str) -> Encoding:
    """What `Encoding.text` wrote."""
    rows = json.loads(text)
    return Encoding(tuple(Encoded(**{**row, "categories": tuple(row["categories"])}) for row in rows))


def encoding_of(features: "Sequence[Feature]", vocabularies: Mapping[str, Sequence[str]]) -> Encoding:
    """The encoding of declared features.

    Args:
        vocabularies: By name of a category whose categories are not declared, those that a model has learned.
    """

    def encoded(feature: "Feature") -> Encoded:
        known = feature.categories if feature.categories is not None else vocabularies.get(feature.name, ())
        return Encoded(
            feature.name, feature.type, feature.size or 1, tuple(known) if feature.type == "category" else ()
        )

    return Encoding(tuple(encoded(feature) for feature in features))


def encoding_in(options: Mapping[str, Any]) -> Encoding | None:
    """The encoding that a model's metadata or a kernel's options hold; None where all features are numbers."""
    return read_encoding(options[ENCODING]) if ENCODING in options else None
