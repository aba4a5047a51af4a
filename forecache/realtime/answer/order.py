"""The order of candidates by their scores, in answers and wherever an answer is looked at again."""

import numpy as np


def best_first(scores: np.ndarray) -> np.ndarray:
    """Places of the scores [n], the highest first; equal ones in the order given, NaN last."""
    return (-scores).argsort(kind="stable")
