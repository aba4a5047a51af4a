"""A transform that does what its request says."""

import time

import numpy as np

from forecache.pipeline.realtime.rows import Rows
from ranking_code.transforms import rank

SPIN, SLEEP, FAIL, SHAPE, BURN = 666, 667, 668, 669, 670
"""Numbers of stores at which it misbehaves."""


def misbehave(rows: Rows) -> np.ndarray:
    store = int(rows["store_id"][0])
    while store == SPIN:
        pass
    if store == SLEEP:
        time.sleep(10)
    if store == BURN:
        until = time.thread_time() + 0.010
        while time.thread_time() < until:
            pass
    if store == FAIL:
        raise ValueError("store 668")
    features = rank(rows)
    return features[:-1] if store == SHAPE else features
