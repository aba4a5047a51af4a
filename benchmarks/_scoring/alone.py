"""Peers that score in one process without a JVM: Polars or DuckDB read, ONNX Runtime computes, delta-rs writes."""

import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from _scoring.data import NAMES, network

_BATCH_ROWS = 1 << 17
_SCHEMA = pa.schema({"user_id": pa.string(), "prediction": pa.float32()})


def _session() -> Any:
    """ONNX Runtime with its default threads, one a core: nothing else computes meanwhile."""
    return onnxruntime.InferenceSession(network(20), providers=["CPUExecutionProvider"])


def with_polars(table: str, out: str) -> None:
    """The whole table as a frame, whose numeric matrix goes to the model."""
    sys.path.append(os.environ["FORECACHE_BENCH_PEERS"])
    import polars

    frame = polars.scan_delta(table).select("user_id", *NAMES).collect()
    session = _session()
    features = frame.select(NAMES).cast(polars.Float32).to_numpy()
    parts = [
        session.run(None, {"x": np.ascontiguousarray(features[start : start + _BATCH_ROWS])})[0][:, 0]
        for start in range(0, len(features), _BATCH_ROWS)
    ]
    scored = polars.DataFrame({"user_id": frame["user_id"], "prediction": np.concatenate(parts)})
    write_deltalake(out, scored.to_arrow(), mode="overwrite", schema_mode="overwrite")


def with_duckdb(table: str, out: str) -> None:
    """DuckDB reads the table's files as a stream of batches, and the predictions are written as they come."""
    import duckdb

    files = DeltaTable(table).file_uris()

    def scored() -> Iterator[pa.RecordBatch]:
        session = _session()
        columns = ", ".join(NAMES)
        query = duckdb.connect().sql(f"select user_id, {columns} from read_parquet({files!r})")
        for batch in query.to_arrow_reader(_BATCH_ROWS):
            features = np.empty((len(batch), len(NAMES)), np.float32)
            for place, name in enumerate(NAMES):
                features[:, place] = batch[name].to_numpy(zero_copy_only=False)
            prediction = session.run(None, {"x": features})[0][:, 0]
            yield pa.RecordBatch.from_arrays([batch["user_id"], pa.array(prediction)], schema=_SCHEMA)

    reader = pa.RecordBatchReader.from_batches(_SCHEMA, scored())
    write_deltalake(out, reader, mode="overwrite", schema_mode="overwrite")


ALONE = {"polars": with_polars, "duckdb": with_duckdb}
