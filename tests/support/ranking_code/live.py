"""A transform that gives a model the features of a live view: those of the card, and those of each candidate."""

import numpy as np

from forecache.declare.realtime.request_rows import Rows


def both(rows: Rows) -> np.ndarray:
    own, other = rows.view("own"), rows.view("other")
    return np.column_stack([np.broadcast_to(own, (len(other), own.shape[1])), other]).astype(np.float32)
