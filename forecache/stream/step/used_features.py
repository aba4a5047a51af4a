"""The features that a model got for events, bit by bit."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True)
class UsedFeatures:
    """
    Attributes:
        matrix: float32 [n, d], NaN for unknown values.
        known: bool [n]; False if the transform failed.
    """

    matrix: NDArray[np.float32]
    known: NDArray[np.bool_]

    def to_lists(self) -> pa.Array:
        """A list of floats for each event, null if it has no features."""
        lengths = np.where(self.known, self.matrix.shape[1], 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        values = pa.array(self.matrix[self.known].reshape(-1))
        return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~self.known))


def unknown_features(events: int, features: int) -> UsedFeatures:
    """Features of n events, all unknown, to be filled in by the caller."""
    return UsedFeatures(np.full((events, features), np.nan, np.float32), np.zeros(events, np.bool_))
