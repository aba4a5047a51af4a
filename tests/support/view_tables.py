"""A published feature view, and nights of its features, written and recorded as the stage does."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from store_tables import NIGHT

from forecache.base.settings import Settings
from forecache.declare import Column, Feature, Features, FeatureView, Publish, Source
from forecache.lake.ledger import StageRecord, append_records
from forecache.lake.quality.validate import CheckReport, CheckResult
from forecache.lake.quality.verdicts import STAGE
from forecache.serve.store import KeyColumn, KeySchema, Snapshot, encode_key

OPEN = Publish(max_row_change=None, max_psi=None)
KEY = KeySchema((KeyColumn("store", "string"), KeyColumn("household_id", "int")))
FEATURES = (Feature("spend"), Feature("visits", type="integer"), Feature("taste", type="vector", size=3))
COLUMNS = ("spend", "visits", "taste_0", "taste_1", "taste_2")
Row = tuple[float | None, int | None, list[float | None] | None]


def _unused(*_: Any) -> Any:
    raise AssertionError("the store calls no function of a view")


def household(publish: Publish | None = OPEN, features: Sequence[Feature] = FEATURES) -> FeatureView:
    """A view of (store, household_id) with a number, an integer and a vector of three."""
    columns = (Column("store", "string"), Column("household_id", "bigint"), Column("day", "date"))
    source = Source("baskets", columns, event_time="day", start=date(1997, 1, 1))
    declared = Features(compute=_unused, columns=tuple(features))
    return FeatureView("household", ("store", "household_id"), (source,), declared, publish=publish)


def features(rows: Mapping[tuple[str, int], Row], *, night: date = NIGHT) -> pa.Table:
    spend, visits, taste = zip(*rows.values(), strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "store": pa.array([key[0] for key in rows], pa.string()),
            "household_id": pa.array([key[1] for key in rows], pa.int64()),
            "as_of": pa.array([night] * len(rows), pa.date32()),
            "spend": pa.array(spend, pa.float32()),
            "visits": pa.array(visits, pa.int64()),
            "taste": pa.array(taste, pa.list_(pa.float32())),
        }
    )


def write_features(
    settings: Settings,
    table: pa.Table,
    *,
    night: date = NIGHT,
    checked: bool = True,
    view: str = "household",
    code: str = "",
) -> None:
    """Replace a night of a feature table, and record that it was built and, where it was, that it passed.

    Args:
        code: Fingerprint of the view that has built it.
    """
    name = f"features_{view}"
    uri = settings.table_uri(name)
    if DeltaTable.is_deltatable(uri):
        write_deltalake(uri, table, mode="overwrite", predicate=f"as_of = '{night}'")
    else:
        write_deltalake(uri, table, partition_by=["as_of"], configuration={"delta.enableChangeDataFeed": "true"})
    version = DeltaTable(uri).version()
    inputs = f"state-{version}" + (f" code={code}" if code else "")
    append_records(settings, [StageRecord("features", view, night, inputs, name, version, len(table), 0.1)])
    if checked:
        found = CheckResult("expect_unique", view, "critical", True, "Every key is there once.")
        report = CheckReport(name, (found,), 1, 0.1).to_dict()
        append_records(settings, [StageRecord(STAGE, name, night, f"{name}@{version} rules", name, -1, 1, 0.1, report)])


def packed(row: Row) -> np.ndarray:
    """The numbers of a row as a look-up returns them, float32 [5]."""
    spend, visits, taste = row
    numbers = [spend, visits, *(taste or [None] * 3)]
    return np.array([np.nan if number is None else number for number in numbers], np.float32)


def require_rows(snapshot: Snapshot, expected: Mapping[tuple[str, int], Row]) -> None:
    """Compare all that a version serves, one by one and as a matrix, with what it has to hold, to the bit."""
    keys = [encode_key(KEY, key) for key in expected]
    assert sorted(key for key, _ in snapshot.items()) == sorted(keys)
    rows, found = snapshot.matrix([*keys, b"nowhere|1"])
    assert found.tolist() == [True] * len(keys) + [False]
    assert np.isnan(rows[-1]).all()
    assert rows.dtype == np.float32
    assert rows[:-1].tobytes() == b"".join(packed(row).tobytes() for row in expected.values())
    assert [snapshot.get(key) for key in keys] == [packed(row).tobytes() for row in expected.values()]
