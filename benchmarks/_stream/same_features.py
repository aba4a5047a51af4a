"""Two sets of features of the same payments, compared bit by bit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa


def compared(
    names: Sequence[str], one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
) -> dict[str, Any]:
    """How the features of `one` differ from those of `other`.

    Args:
        one, other: Ids int64 [n], each once, and features float32 [n, d]; NaN where something is not known.

    Returns:
        `compared` (ids of both), `missing` and `extra` (ids of the other alone, of the one alone), and by name of each
        feature `differ` (both have a number, and some bit differs), `missing` (the other alone has a number) and
        `extra` (the one alone has).
    """
    _, ours, theirs = np.intersect1d(one[0], other[0], assume_unique=True, return_indices=True)
    here, there = (np.ascontiguousarray(part[1][places], np.float32) for part, places in ((one, ours), (other, theirs)))
    lacks, lacked = np.isnan(here), np.isnan(there)
    differ = (here.view(np.int32) != there.view(np.int32)) & ~lacks & ~lacked
    counts = {"differ": differ, "missing": lacks & ~lacked, "extra": ~lacks & lacked}
    sums = {kind: found.sum(axis=0).tolist() for kind, found in counts.items()}
    return {
        "compared": len(ours),
        "missing": len(other[0]) - len(ours),
        "extra": len(one[0]) - len(ours),
        "features": {name: {kind: sums[kind][place] for kind in sums} for place, name in enumerate(names)},
    }


def total(found: dict[str, Any], kind: str) -> int:
    """Over all features, how many values are so: `differ`, `missing` or `extra`."""
    return sum(of_feature[kind] for of_feature in found["features"].values())


def matrix_of(lists: pa.ChunkedArray, width: int) -> np.ndarray:
    """Kept features of a stream's rows as a matrix, float32 [n, width]; NaN in rows that have none."""
    column = lists.combine_chunks()
    column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    found = np.full((len(column), width), np.nan, np.float32)
    known = column.is_valid().to_numpy(zero_copy_only=False)
    found[known] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return found
