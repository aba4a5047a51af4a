"""Hashes of rows: equal for what is encoded equally, different for what is not, however the rows are cut."""

from datetime import date, datetime, timezone
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from store_tables import SCORED_AT, predictions

from forecache.base.hashes import row_hashes
from forecache.serve.store import KeyColumn, KeySchema
from forecache.serve.store.encoding.entries import EntryEncoding, encode_entries, encode_keys, entry_hashes
from forecache.serve.store.manifest import Field, Provenance

OWN = Provenance("churn", 3, 7, "1998-07-01T03:00:00.000000Z", "run-1")
OTHER = Provenance("churn", 2, 7, "1998-06-30T03:00:00.000000Z", "run-0")
FIELDS: dict[str, tuple[pa.DataType, Any]] = {
    "double": (pa.float64(), st.floats(allow_nan=False, allow_infinity=False)),
    "bigint": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "boolean": (pa.bool_(), st.booleans()),
    "string": (pa.string(), st.text("ab\0é", max_size=20)),
    "date": (pa.date32(), st.dates(date(1970, 1, 1), date(2100, 1, 1))),
    "array<float>": (pa.list_(pa.float32()), st.lists(st.sampled_from([0.0, -0.0, 0.5]) | st.none(), max_size=4)),
    "array<string>": (pa.list_(pa.string()), st.lists(st.text("ab\0é", max_size=3) | st.none(), max_size=4)),
    "array<struct<item:bigint,score:double,reason:string>>": (
        pa.list_(pa.struct([("item", pa.int64()), ("score", pa.float64()), ("reason", pa.string())])),
        st.lists(
            st.none()
            | st.fixed_dictionaries(
                {
                    "item": st.none() | st.integers(0, 2),
                    "score": st.none() | st.sampled_from([0.5, 1.5]),
                    "reason": st.none() | st.text("ab", max_size=2),
                }
            ),
            max_size=3,
        ),
    ),
    "timestamp": (pa.timestamp("us", "UTC"), st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1))),
}
ROW = st.fixed_dictionaries({name: values | st.none() for name, (_, values) in FIELDS.items()})
KEY = st.text("ab\0é", max_size=20)
ENCODING = EntryEncoding(
    KeySchema((KeyColumn("key", "string"), KeyColumn("number", "int"))),
    tuple(Field(name, name) for name in FIELDS),
    OWN,
)


def batch(rows: list[tuple[str, int, dict[str, Any]]]) -> pa.RecordBatch:
    columns = {"key": pa.array([key for key, _, _ in rows]), "number": pa.array([number for _, number, _ in rows])}
    for name, (kind, _) in FIELDS.items():
        values = [row[name] for _, _, row in rows]
        if name == "timestamp":
            values = [None if value is None else value.replace(tzinfo=timezone.utc) for value in values]
        columns[name] = pa.array(values, kind)
    return pa.RecordBatch.from_pydict(columns)


@settings(deadline=None)
@given(st.lists(st.tuples(KEY, st.integers(0, 3), ROW), min_size=1, max_size=12))
def test_rows_hash_alike_where_they_are_encoded_alike_and_only_there(rows: list) -> None:
    together = batch(rows)
    hashes = entry_hashes(together, ENCODING, OWN)
    entries, _, _ = encode_entries(together, ENCODING, OWN)
    encoded = list(zip(encode_keys(together, ENCODING.key).to_pylist(), entries.to_pylist(), strict=True))
    for one, code in zip(hashes, encoded, strict=True):
        assert [other == one for other in hashes] == [other == code for other in encoded]


@settings(deadline=None)
@given(st.lists(st.tuples(KEY, st.integers(0, 3), ROW), min_size=2, max_size=12), st.data())
def test_a_row_hashes_the_same_in_whatever_batch_it_lies(rows: list, data: st.DataObject) -> None:
    hashes = entry_hashes(batch(rows), ENCODING, OWN)
    cut = data.draw(st.integers(1, len(rows) - 1))
    sliced = [entry_hashes(part, ENCODING, OWN) for part in (batch(rows)[:cut], batch(rows)[cut:])]
    alone = [entry_hashes(batch([row]), ENCODING, OWN) for row in rows]
    assert hashes.tolist() == np.concatenate(sliced).tolist() == np.concatenate(alone).tolist()


def test_an_unknown_number_is_not_one_that_is_not_a_number() -> None:
    column = pa.array([None, float("nan"), 0.0, 1.0], pa.float32())
    assert len(set(row_hashes([column]).tolist())) == 4
    assert row_hashes([column]).tolist() == row_hashes([column.cast(pa.float64())]).tolist()


def test_a_provenance_counts_where_it_is_not_the_versions_own() -> None:
    encoding = EntryEncoding(
        KeySchema((KeyColumn("customer_id", "string"),)), (Field("churn_probability", "double"),), OWN
    )
    mixed = pa.concat_tables(
        [
            predictions({"a": 0.5}, run_id="run-1"),
            predictions({"a": 0.5}, run_id="run-0", model_version=2, scored_at=SCORED_AT.replace(month=6, day=30)),
        ]
    )
    first, second = entry_hashes(mixed.combine_chunks().to_batches()[0], encoding, None)
    bare = mixed.select(["customer_id", "churn_probability"]).slice(0, 1).to_batches()[0]
    assert [first] == entry_hashes(bare, encoding, OWN).tolist()
    assert [second] == entry_hashes(bare, encoding, OTHER).tolist()
    assert first != second


def test_lists_hash_by_their_order_their_lengths_and_their_nulls() -> None:
    lists = [None, [], [None], [None, None], [0.5], [1.5], [0.5, 1.5], [1.5, 0.5], [0.5, None], [0.5, 0.5]]
    column = pa.array(lists, pa.list_(pa.float64()))
    encoding = EntryEncoding(KeySchema((KeyColumn("key", "string"),)), (Field("vector", "array<double>"),), OWN)
    batch = pa.RecordBatch.from_pydict({"key": ["a"] * len(lists), "vector": column})
    assert len(set(entry_hashes(batch, encoding, OWN).tolist())) == len(lists)
