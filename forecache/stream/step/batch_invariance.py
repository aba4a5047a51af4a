"""Batch invariance: computes several events in one call as long as each gets the bits that it gets alone.

An answer must not depend on which events came in the same batch, and nothing guarantees that a transform, a model or a
matrix library treats rows independently. So the first events are computed both ways, and later one of every `_TRIED`.
Once a bit differs, each event is computed alone.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.stream.table.compare_tables import first_difference

logger = logging.getLogger("forecache.stream")
_TRIED = 256
"""Events that are computed both ways before one call for several is trusted, and between two checks of it."""
Matrix = NDArray[Any]
T = TypeVar("T")


class BatchInvarianceCheck(Generic[T]):
    """Checks that a function of rows gives each row the same bits in a batch as alone.

    Attributes:
        holds: True while no row has had other bits.
        left: Rows that are still computed both ways.

    Args:
        what: Name of the function, for a message.
        join: Concatenates results.
        part: `part(found, start, stop)` is the result of some of the rows.
        equal: Returns True if two results have the same bits.
    """

    def __init__(
        self,
        what: str,
        join: Callable[[Sequence[T]], T],
        part: Callable[[T, int, int], T],
        equal: Callable[[T, T], bool],
    ) -> None:
        self.what, self.holds, self.left = what, True, _TRIED
        self._join, self._part, self._equal = join, part, equal
        self._turn = 0

    def compute(self, rows: int, together: Callable[[], T], alone: Callable[[int], T]) -> T:
        """Compute the results of `rows` rows (at least one), each equal to `alone(place)`."""
        if rows > 1 and self.holds:
            found = together()
            tried = self._places_to_check(rows)
            if not tried or self._compare(
                self._part(found, tried.start, tried.stop), self._compute_alone(tried, alone)
            ):
                self.left = max(0, self.left - len(tried))
                return found
        return self._compute_alone(range(rows), alone)

    def _places_to_check(self, rows: int) -> range:
        """The places to compute both ways among `rows` rows: all of the first `_TRIED`, then one of every `_TRIED`."""
        if self.left:
            return range(min(self.left, rows))
        self._turn += rows
        if self._turn < _TRIED:
            return range(0)
        place, self._turn = self._turn % rows, 0
        return range(place, place + 1)

    def _compute_alone(self, places: range, alone: Callable[[int], T]) -> T:
        return self._join([alone(place) for place in places])

    def _compare(self, found: T, apart: T) -> bool:
        self.holds = self._equal(found, apart)
        if not self.holds:
            logger.warning(
                "The %s gives several events other bits than one: they are asked one by one from now on.", self.what
            )
        return self.holds


def matrix_invariance_check(what: str) -> BatchInvarianceCheck[Matrix]:
    """Make the check of a function whose results are matrices [n, ...]."""

    def equal(found: Matrix, apart: Matrix) -> bool:
        return found.dtype == apart.dtype and found.tobytes() == apart.tobytes()

    return BatchInvarianceCheck(what, np.concatenate, lambda found, start, stop: found[start:stop], equal)


def table_invariance_check(what: str) -> BatchInvarianceCheck[pa.Table]:
    """Make the check of a function whose results are tables of n rows."""

    def equal(found: pa.Table, apart: pa.Table) -> bool:
        return first_difference(found, apart, found.column_names) is None

    return BatchInvarianceCheck(
        what, pa.concat_tables, lambda found, start, stop: found.slice(start, stop - start), equal
    )
