"""An answer as columns, for protocols that return a score for each row, in the order of the request."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from forecache.realtime.answer.answered import Answered
from forecache.realtime.served import Served


@dataclass(frozen=True, slots=True)
class Scored:
    """The answer to one request as columns, in the order of its rows.

    Attributes:
        scores: float64 [n]; NaN for none, as from the order given.
        ranks: int64 [n], the rank of each row, from 0.
        rungs: The source of each score: "model" or a fallback.
        answered: The answer that they are made from.
        served: The release that gave it.
    """

    scores: np.ndarray
    ranks: np.ndarray
    rungs: Sequence[str]
    answered: Answered
    served: Served


def scored(answered: Answered, length: int, served: Served) -> Scored:
    """Make the columns of an answer to a request with `length` rows."""
    scores = np.full(length, np.nan) if answered.scores is None else answered.scores.astype(np.float64, copy=False)
    ranks = np.arange(length)
    if answered.order is not None:
        ranks[answered.order] = np.arange(length)
    return Scored(scores, ranks, [answered.rung] * length if answered.rung else answered.rungs, answered, served)
