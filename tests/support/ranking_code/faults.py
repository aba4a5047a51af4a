"""A transform that does what its request says."""

import sys
import time

import numpy as np

from forecache.declare.realtime.request_rows import Rows
from ranking_code.transforms import rank

SPIN, SLEEP, FAIL, SHAPE, BURN, EXIT, SLOW = 666, 667, 668, 669, 670, 671, 672
"""Numbers of stores at which it misbehaves."""


def misbehave(rows: Rows) -> np.ndarray:
    store = int(rows["store_id"][0])
    while store == SPIN:
        pass
    if store == SLEEP:
        time.sleep(60)
    if store == BURN:
        until = time.thread_time() + 0.010
        while time.thread_time() < until:
            pass
    if store == EXIT:
        sys.exit(3)
    if store == SLOW:
        time.sleep(0.06)
    if store == FAIL:
        raise ValueError("store 668")
    features = rank(rows)
    return features[:-1] if store == SHAPE else features
