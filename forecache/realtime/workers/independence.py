"""Test if a model's score of a row has the same bits in any batch: only then are requests batched.

Matrix libraries choose different code, with another order of additions, for different numbers of rows, so only a trial
with this library on this machine can tell.
"""

from collections.abc import Callable, Sequence

import numpy as np

_TRIALS = 24
_MOST_ROWS = 1024

Predict = Callable[[np.ndarray], np.ndarray]


def is_row_independent(predict: Predict, parts: Sequence[np.ndarray]) -> bool:
    """Try batches of requests against each request alone, compared to the bit.

    Args:
        parts: Features of requests, float32 [n, num_features] each.
    """
    parts = [part for part in parts if len(part)]
    if not parts:
        return False
    random = np.random.default_rng(0)
    known = np.concatenate(parts)
    made = [_vary_rows(random, known, int(rows)) for rows in (1, 2, 3, 5, 8, 17, 33, 50, 64, 100)]
    requests = [*parts[:16], *made]
    alone = [predict(request) for request in requests]
    if any(len(scores) != len(request) for scores, request in zip(alone, requests, strict=True)):
        return False
    for _ in range(_TRIALS):
        chosen: list[int] = []
        rows = 0
        for index in random.permutation(len(requests))[: random.integers(2, 9)]:
            if rows + len(requests[index]) <= _MOST_ROWS:
                chosen.append(int(index))
                rows += len(requests[index])
        together = predict(np.concatenate([requests[index] for index in chosen]))
        apart = np.concatenate([alone[index] for index in chosen])
        if together.dtype != apart.dtype or together.tobytes() != apart.tobytes():
            return False
    return True


def _vary_rows(random: np.random.Generator, known: np.ndarray, rows: int) -> np.ndarray:
    """Mix features of different known rows into new rows, scaled a little so that they fill the mantissa."""
    picked = random.integers(0, len(known), (rows, known.shape[1]))
    values = known[picked, np.arange(known.shape[1])]
    noise = random.normal(1.0, 0.3, values.shape).astype(np.float32)
    return np.ascontiguousarray(values * noise + noise * (values == 0), dtype=np.float32)
