"""The model of a release in Spark's Python workers."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from forecache.plugins.realtime_examples.transform import request_starts, whole_requests
from forecache.realtime.release.folder import ReleaseFolder
from forecache.realtime.release.load import load_release

SCHEMA = "request_id string, position int, features array<float>, score double"


Batches = Iterator[pa.RecordBatch]


def scoring(folder: Path, number: int, features: Sequence[str]) -> Callable[[Batches], Batches]:
    """Scores each request of transformed rows for itself; a feature that is null is NaN."""

    def score(batches: Batches) -> Batches:
        loaded = load_release(ReleaseFolder(folder), number)
        for batch in whole_requests(batches):
            matrix = np.column_stack([batch.column(name).to_numpy(zero_copy_only=False) for name in features])
            matrix = matrix.astype(np.float32)
            starts = request_starts(batch.column("request_id"))
            scores = [
                loaded.scores_of(np.ascontiguousarray(matrix[start:end])).astype(np.float64)
                for start, end in zip(starts, np.append(starts[1:], batch.num_rows), strict=True)
            ]
            flat = pa.array(matrix.ravel())
            listed = pa.ListArray.from_arrays(np.arange(0, matrix.size + 1, matrix.shape[1], dtype=np.int32), flat)
            yield pa.RecordBatch.from_arrays(
                [batch.column("request_id"), batch.column("position"), listed, pa.array(np.concatenate(scores))],
                names=["request_id", "position", "features", "score"],
            )

    return score
