"""The features that a model answered events with, as the bits that it got."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True)
class UsedFeatures:
    """
    Attributes:
        matrix: float32 [n, d], NaN where something is not known.
        known: bool [n]; False where there were none, since the transform failed.
    """

    matrix: NDArray[np.float32]
    known: NDArray[np.bool_]

    def lists(self) -> pa.Array:
        """A list of float for each event, null where there were none."""
        lengths = np.where(self.known, self.matrix.shape[1], 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        values = pa.array(self.matrix[self.known].reshape(-1))
        return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(~self.known))


def no_features(events: int, features: int) -> UsedFeatures:
    """Of n events nothing yet; a caller fills it in."""
    return UsedFeatures(np.full((events, features), np.nan, np.float32), np.zeros(events, np.bool_))
