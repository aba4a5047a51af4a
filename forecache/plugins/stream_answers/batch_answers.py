"""Answers to several events in one call: their bits, their features, and the choice of what answers.

An answer must not depend on which events came in the same batch, and nothing guarantees that a transform, a model or a
matrix library treats rows independently. So the first events are computed both ways, and later one of every `_TRIED`.
Once a bit differs, each event is computed alone.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.declare import Pipeline, Realtime
from forecache.plugins.compare_tables import first_difference
from forecache.stream.step import Answerer

logger = logging.getLogger("forecache.stream")
_TRIED = 256
"""Events that are computed both ways before one call for several is trusted, and between two checks of it."""
Matrix = NDArray[Any]
T = TypeVar("T", Matrix, pa.Table)


def answerer_of(settings: Settings, answers: Pipeline | Realtime, number: int | None) -> Answerer:
    """Return the answerer of a declared model; `number` is the release or version that always answers."""
    if isinstance(answers, Realtime):
        from forecache.plugins.stream_answers.release_answerer import ReleaseAnswerer

        return ReleaseAnswerer(settings, answers, number)
    from forecache.plugins.stream_answers.pipeline_answerer import PipelineAnswerer

    return PipelineAnswerer(settings, answers, number)


def describe_error(error: Exception) -> str:
    """Return the sentence of an error, which may come from the library of a model."""
    return str(error) if isinstance(error, ForecacheError) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class UsedFeatures:
    """The features that a model got for n events, bit by bit."""

    matrix: NDArray[np.float32]  # [n, d], NaN for unknown values
    known: NDArray[np.bool_]  # [n], False if the transform failed

    def to_lists(self) -> pa.Array:
        """Return a list of floats for each event, null if it has no features."""
        lengths = np.where(self.known, self.matrix.shape[1], 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        values = pa.array(self.matrix[self.known].reshape(-1))
        return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~self.known))


class BatchInvarianceCheck(Generic[T]):
    """Computes rows in one call as long as each gets the bits that it gets alone; `what` is computed, for a message."""

    def __init__(self, what: str, join: Callable[[Sequence[T]], T], has_same_bits: Callable[[T, T], bool]) -> None:
        self._what = what
        self._join: Callable[[Sequence[T]], T] = join
        self._has_same_bits: Callable[[T, T], bool] = has_same_bits
        self._holds, self._left, self._turn = True, _TRIED, 0  # rows that are still computed both ways

    def compute(self, rows: int, together: Callable[[], T], alone: Callable[[int], T]) -> T:
        """Compute the results of `rows` rows (at least one), each equal to `alone(place)`."""
        if rows > 1 and self._holds:
            found = together()
            tried = self._places_to_check(rows)
            if not tried or self._has_same_bits(found[tried.start : tried.stop], self._join(list(map(alone, tried)))):
                self._left = max(0, self._left - len(tried))
                return found
            self._holds = False
            logger.warning(
                "The %s gives several events other bits than one: they are asked one by one from now on.", self._what
            )
        return self._join(list(map(alone, range(rows))))

    def _places_to_check(self, rows: int) -> range:
        """The places to compute both ways among `rows` rows: all of the first `_TRIED`, then one of every `_TRIED`."""
        if self._left:
            return range(min(self._left, rows))
        self._turn += rows
        if self._turn < _TRIED:
            return range(0)
        place, self._turn = self._turn % rows, 0
        return range(place, place + 1)


def matrix_invariance_check(what: str) -> BatchInvarianceCheck[Matrix]:
    """Make the check of a function whose results are matrices [n, ...]."""

    def has_same_bits(found: Matrix, apart: Matrix) -> bool:
        return found.dtype == apart.dtype and found.tobytes() == apart.tobytes()

    return BatchInvarianceCheck(what, np.concatenate, has_same_bits)


def table_invariance_check(what: str) -> BatchInvarianceCheck[pa.Table]:
    """Make the check of a function whose results are tables of n rows."""

    def has_same_bits(found: pa.Table, apart: pa.Table) -> bool:
        return first_difference(found, apart, found.column_names) is None

    return BatchInvarianceCheck(what, pa.concat_tables, has_same_bits)
