"""The published rows of the section `rewind`: a night of every customer, and corrections of a hundredth of them.

A batch row says 1/1024 for each time that it was corrected, so it is below 1; a row that follows payments is their sum,
which is 1 or more. So an answer tells where it comes from, and whether it is the newest.
"""

import shutil
import sys
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
from _store.lake import Curtain
from deltalake import DeltaTable, write_deltalake

from _stream.services import PROJECTS
from forecache.base.settings import Settings

if str(PROJECTS) not in sys.path:
    sys.path.insert(0, str(PROJECTS))

STEP = 1 / 1024
CHANGED_SHARE = 0.01
TABLE = "predictions_spending"
_CHUNK = 500_000
_SCORED_AT = datetime(2026, 1, 2, tzinfo=timezone.utc)


def corrected(number: int, customers: int) -> np.ndarray:
    """The customers whose row the correction of this number changes, from 1 on: int64 [n]."""
    rng = np.random.default_rng(number)
    return np.sort(rng.choice(customers, max(1, int(customers * CHANGED_SHARE)), replace=False))


def stamps(corrections: int, customers: int) -> np.ndarray:
    """How often each customer's row was corrected by the first so many corrections, int64 [customers]."""
    found = np.zeros(customers, np.int64)
    for number in range(1, corrections + 1):
        found[corrected(number, customers)] += 1
    return found


def rows(ids: np.ndarray, stamps: np.ndarray, night: date, *, number: int) -> pa.Table:
    """Rows of the prediction table as the correction of that number writes them."""

    def constant(value: object, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), len(ids))

    return pa.table(
        {
            "customer_id": ids,
            "as_of": constant(night, pa.date32()),
            "spent": stamps * STEP,
            "model_name": constant("spending", pa.string()),
            "model_version": constant(1, pa.int32()),
            "feature_version": constant(1, pa.int64()),
            "scored_at": constant(_SCORED_AT + timedelta(minutes=number), pa.timestamp("us", "UTC")),
            "run_id": constant(f"night-{number}", pa.string()),
        }
    )


def write_view(settings: Settings, customers: int, night: date) -> None:
    """A night of the view with one customer who pays nothing: all that the others have spent is in the stream."""
    from bench_spending.pipelines.spending import customer

    from forecache.declare.features.live import build_merge_plan

    states = {
        column.name: pa.array([0], pa.float64() if column.is_float else pa.int64())
        for column in build_merge_plan(customer).base_columns
    }
    row = {"customer_id": pa.array([customers], pa.int64()), "as_of": pa.array([night], pa.date32())}
    features = {name: pa.array([0.0], pa.float32()) for name in customer.feature_names}
    uri = settings.table_uri(customer.feature_table)
    shutil.rmtree(uri, ignore_errors=True)
    write_deltalake(uri, pa.table({**row, **features, **states}), partition_by=["as_of"])


def write(settings: Settings, customers: int, corrections: int, night: date) -> Curtain:
    """The table with the night, and its corrections, each in a commit that is hidden until its publish."""
    uri = settings.table_uri(TABLE)
    shutil.rmtree(uri, ignore_errors=True)
    shutil.rmtree(Path(uri).parent / f"{TABLE}-later-commits", ignore_errors=True)
    now = np.zeros(customers, np.int64)
    chunks = (np.arange(first, min(first + _CHUNK, customers)) for first in range(0, customers, _CHUNK))
    batches = (batch for ids in chunks for batch in rows(ids, now[ids], night, number=0).to_batches())
    write_deltalake(
        uri,
        pa.RecordBatchReader.from_batches(rows(now[:0], now[:0], night, number=0).schema, batches),
        partition_by=["as_of"],
        configuration={"delta.enableChangeDataFeed": "true"},
    )
    for number in range(1, corrections + 1):
        ids = corrected(number, customers)
        now[ids] += 1
        condition = f"target.as_of = DATE '{night}' AND target.customer_id = source.customer_id"
        merge = DeltaTable(uri).merge(
            rows(ids, now[ids], night, number=number), condition, source_alias="source", target_alias="target"
        )
        merge.when_matched_update_all().execute()
    curtain = Curtain(uri, 1)
    curtain.hide()
    return curtain
