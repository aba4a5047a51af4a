"""The rows that every store holds: values that follow from a key's number and how often it was scored again.

So any answer of any store at any version can be checked without keeping a copy of the data.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from forecache.declare import (
    Baseline,
    Column,
    Feature,
    Features,
    Gate,
    Label,
    Output,
    Pipeline,
    Publish,
    Segment,
    Source,
    TorchModel,
    Training,
)

DATA_VERSION = 1
"""Raised whenever the rows change, so that what was loaded into the peers before is loaded again."""

NAME = "churn"
KEY = "customer_id"
FIELDS = ("churn_probability", "expected_spend", "expected_orders", "risk_segment")
FIRST_NIGHT = date(2026, 11, 1)
LABELS = ("low", "medium", "high")
_BOUNDS = (0.3, 0.7)
_STRIDE = 7_368_787
"""Coprime to every row count in use: rows lie in the table in an order that is not the keys', as after a shuffle."""
_BLOCK = 1_000_000
_SCORED_AT = datetime(2026, 11, 2, 1, 30, tzinfo=timezone.utc)


def never(*_: object) -> Any:
    raise AssertionError("The benchmark writes predictions itself; nothing is computed from events.")


def pipeline() -> Pipeline:
    """The declaration whose predictions are published: a string key and four output columns.

    A declaration has one output and segments cut from it. The store takes the types from the table, so two more
    numeric columns stand here under the name of segments.
    """
    cut = {"of": FIELDS[0], "bounds": _BOUNDS, "labels": LABELS}
    return Pipeline(
        name=NAME,
        key=(KEY,),
        sources=(Source("events", (Column(KEY, "string"), Column("at", "timestamp")), "at", start=FIRST_NIGHT),),
        features=Features(compute=never, columns=(Feature("recency_days"),)),
        label=Label("label", "binary", 30, never),
        model=TorchModel(build=never),
        outputs=(Output(FIELDS[0], minimum=0.0, maximum=1.0),),
        gate=Gate("roc_auc", {"roc_auc": 0.5}, Baseline("recency_days")),
        training=Training(),
        segments=tuple(Segment(name, **cut) for name in FIELDS[1:]),
        publish=Publish(max_age_h=24 * 365 * 10),
    )


def key_text(index: int) -> str:
    return f"{index:08d}"


def key_bytes(indices: np.ndarray) -> list[bytes]:
    return [b"%08d" % index for index in indices.tolist()]


def uniform(index: np.ndarray, stamp: np.ndarray, column: int) -> np.ndarray:
    """Uniform float32 in [0, 1) from the key's number, its stamp and the column (splitmix64)."""
    with np.errstate(over="ignore"):
        x = index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x += stamp.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03) + np.uint64(column * 0x2545F4914F6CDD1D % 2**64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def values(index: np.ndarray, stamp: np.ndarray) -> dict[str, np.ndarray]:
    """The four columns: float32 model outputs widened to float64, and the segment as a position in LABELS."""
    probability = uniform(index, stamp, 1).astype(np.float64)
    spend = (uniform(index, stamp, 2) * np.float32(430.0)).astype(np.float64)
    orders = (uniform(index, stamp, 3) * np.float32(12.5)).astype(np.float64)
    segment = np.searchsorted(np.asarray(_BOUNDS), probability, side="right").astype(np.int32)
    return dict(zip(FIELDS, (probability, spend, orders, segment), strict=True))


def expected(index: int, stamp: int = 0) -> dict[str, Any]:
    """What every store must answer for one key."""
    row = values(np.array([index]), np.array([stamp]))
    return {
        name: LABELS[int(column[0])] if name == "risk_segment" else float(column[0]) for name, column in row.items()
    }


def table(index: np.ndarray, stamp: np.ndarray, night: date, *, run: int = 0) -> pa.Table:
    """Rows of the prediction table; `run` numbers the scoring run that their provenance names."""
    count = len(index)
    columns = values(index, stamp)
    keys = pc.utf8_lpad(pa.array(index.astype(np.int64)).cast(pa.string()), 8, "0")
    scored_at = _SCORED_AT + (night - FIRST_NIGHT) + timedelta(minutes=run)
    segment = pa.DictionaryArray.from_arrays(pa.array(columns["risk_segment"]), pa.array(LABELS)).cast(pa.string())

    def constant(value: Any, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), count)

    return pa.table(
        {
            KEY: keys,
            "as_of": constant(night, pa.date32()),
            **{name: pa.array(columns[name]) for name in FIELDS[:3]},
            FIELDS[3]: segment,
            "model_name": constant(NAME, pa.string()),
            "model_version": constant(3, pa.int32()),
            "feature_version": constant(12, pa.int64()),
            "scored_at": constant(scored_at, pa.timestamp("us", "UTC")),
            "run_id": constant(f"run-{night}-{run}", pa.string()),
        }
    )


def night_batches(stamps: np.ndarray, night: date) -> Iterator[pa.RecordBatch]:
    """A whole night in blocks, in shuffled order; `stamps` has one entry a key."""
    count = len(stamps)
    for start in range(0, count, _BLOCK):
        index = np.arange(start, min(start + _BLOCK, count), dtype=np.int64) * _STRIDE % count
        yield from table(index, stamps[index], night).to_batches()


SCHEMA = table(np.array([0]), np.array([0]), FIRST_NIGHT).schema
