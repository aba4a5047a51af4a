"""Several events in one call where each gets the bits that it gets alone, and event by event where one does not.

An answer must not depend on which events came in the same batch, and nothing says that a transform, a model or a
matrix library treats rows apart. So the events themselves are the trial: the first are computed both ways, and from
then on one of so many. As soon as a bit differs, each is computed alone.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

logger = logging.getLogger("forecache.stream")
_TRIED = 256
"""Events that are computed both ways before one call for several is trusted, and between two checks of it."""
Matrix = NDArray[Any]
T = TypeVar("T")


class Trial(Generic[T]):
    """Whether a function of rows gives each row the same bits among others as alone.

    Attributes:
        holds: No row has had other bits so far.
        left: Rows that are still computed both ways.

    Args:
        what: That is tried, for a message.
        join: Puts results one behind the other.
        part: The result of one row among those of several.
        bits: What is equal of two results if all their bits are.
    """

    def __init__(
        self, what: str, join: Callable[[Sequence[T]], T], part: Callable[[T, int], T], bits: Callable[[T], Any]
    ) -> None:
        self.what, self.holds, self.left = what, True, _TRIED
        self._join, self._part, self._bits = join, part, bits
        self._turn = 0

    def of(self, rows: int, together: Callable[[], T], alone: Callable[[int], T]) -> T:
        """The results of one or more rows, each as `alone(place)` gives it."""
        if rows > 1 and self.holds and not self.left:
            found = together()
            self._turn += rows
            if self._turn < _TRIED:
                return found
            place, self._turn = self._turn % rows, 0
            if self._is_equal(self._part(found, place), alone(place)):
                return found
        apart = self._join([alone(place) for place in range(rows)])
        if rows > 1 and self.holds and self._is_equal(together(), apart):
            self.left = max(0, self.left - rows)
        return apart

    def _is_equal(self, found: T, apart: T) -> bool:
        self.holds = self._bits(found) == self._bits(apart)
        if not self.holds:
            logger.warning(
                "The %s gives several events other bits than one: they are asked one by one from now on.", self.what
            )
        return self.holds


def trial_of_matrices(what: str) -> Trial[Matrix]:
    """Of a function whose results are matrices [n, ...]."""
    return Trial(
        what,
        np.concatenate,
        lambda found, place: found[place : place + 1],
        lambda found: (found.dtype, found.tobytes()),
    )


def trial_of_tables(what: str) -> Trial[pa.Table]:
    """Of a function whose results are rows."""
    return Trial(
        what, pa.concat_tables, lambda found, place: found.slice(place, 1), lambda found: repr(found.to_pylist())
    )
