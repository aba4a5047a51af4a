"""The bins of a release's features and scores, with the counts of the training data."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import xxhash
from numpy.typing import NDArray

SCORE = "score"
"""Name of the column of scores; no feature has it."""
BELOW, ABOVE, NULL = "below", "above", "null"


@dataclass(frozen=True)
class ColumnBins:
    """The bins of a feature, or of the score.

    Attributes:
        low, high: The smallest and the largest value of the training data; None: no value is out of range.
    """

    name: str
    edges: tuple[float, ...]  # inner edges, ascending: a value that is equal to one lies above it
    counts: tuple[int, ...]  # rows of the training data in each bin, [edges + 1], then those without a number
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class DriftReference:
    """The bins and the training counts that live values of a release are compared with."""

    columns: tuple[ColumnBins, ...]  # the features in the order of the release, then the score if its bins are known
    of: str  # the data that was counted, such as "training split of churn@12"

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @cached_property
    def key(self) -> int:
        """Hash that identifies the bins: counts of two releases with the same key can be added."""
        return xxhash.xxh3_64_intdigest(self.to_json()) or 1

    @property
    def has_score(self) -> bool:
        return bool(self.columns) and self.columns[-1].name == SCORE

    @cached_property
    def edges(self) -> NDArray[np.float32]:
        """float32 [most edges + 2, columns]: the smallest value in range, the inner edges, the first one above the
        range, then NaN, which no value reaches."""
        rows = max((len(column.edges) for column in self.columns), default=0) + 2
        found = np.full((rows, len(self.columns)), np.nan, np.float32)
        for place, column in enumerate(self.columns):
            low = -np.inf if column.low is None else column.low
            cuts = [*_float32_from([low, *column.edges])]
            if column.high is not None:
                cuts.append(np.nextafter(np.float32(column.high), np.float32(np.inf)))
            found[: len(cuts), place] = cuts
        return found

    @property
    def width(self) -> int:
        """Bins of a column: below the range, those in it, above, and the last one for what is no number."""
        return len(self.edges) + 2

    def count(self, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """Count values by bin: int64 [columns * width]. `values`: float32 [n, columns]."""
        bins = (values >= self.edges[:, None, :]).sum(axis=0, dtype=np.int64)
        bins[np.isnan(values)] = self.width - 1
        bins += self._starts
        return np.bincount(bins.ravel(), minlength=len(self.columns) * self.width)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.arange(len(self.columns)) * self.width

    def counts_by_bin(self, place: int, counts: Sequence[int]) -> dict[str, int]:
        """Return the counts of one column by the names of its bins. `counts`: as `count` returns them."""
        inner = len(self.columns[place].edges) + 1
        own = [int(count) for count in counts[place * self.width : (place + 1) * self.width]]
        bins = {str(number): count for number, count in enumerate(own[1 : inner + 1])}
        return {BELOW: own[0], **bins, ABOVE: own[inner + 1], NULL: own[-1]}

    def training_counts_by_bin(self, place: int) -> dict[str, int]:
        """Return the counts of the training data of one column by the names of its bins."""
        *inner, unknown = self.columns[place].counts
        return {BELOW: 0, **{str(number): count for number, count in enumerate(inner)}, ABOVE: 0, NULL: unknown}


def read_reference(content: bytes) -> DriftReference:
    """Decode what `DriftReference.to_json` wrote."""
    found = json.loads(content)
    columns = (
        ColumnBins(**{**each, "edges": tuple(each["edges"]), "counts": tuple(each["counts"])})
        for each in found["columns"]
    )
    return DriftReference(tuple(columns), found["of"])


def _float32_from(edges: Sequence[float]) -> list[np.float32]:
    """Return for each edge the smallest float32 that is not below it: it divides float32 values in the same way."""
    found = []
    for edge in edges:
        rounded = np.float32(edge)
        found.append(rounded if float(rounded) >= edge else np.nextafter(rounded, np.float32(np.inf)))
    return found
