"""Removed and added rows, matched by key; and rows of files that lack columns of their table."""

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecache.base.errors import DamagedError
from forecache.kit.delta.comparison.compare import NOWHERE, match_keys
from forecache.kit.delta.files import DataFile, fit_columns, read_file_rows


@given(st.sets(st.sampled_from("abcde")), st.lists(st.lists(st.sampled_from("abcde"), unique=True), max_size=5))
def test_each_key_has_its_state_before_all_changes_and_after_them(start: set[str], commits: list[list[str]]) -> None:
    """Each commit writes its keys again, or removes them in every third place."""
    state: dict[str, str | None] = {key: f"{key} at first" for key in start}
    before = dict(state)
    removed: list[tuple[int, str, str]] = []
    added: list[tuple[int, str, str]] = []
    for number, keys in enumerate(commits):
        for place, key in enumerate(keys):
            if (value := state.get(key)) is not None:
                removed.append((2 * number, key, value))
            state[key] = None if place % 3 == 2 else f"{key} in {number}"
            if (value := state[key]) is not None:
                added.append((2 * number + 1, key, value))
    rows = [*removed, *added]
    keys = pa.chunked_array([pa.array([key for _, key, _ in rows], pa.string())])
    found = match_keys(keys, len(removed), np.array([moment for moment, _, _ in rows], np.int64))
    changed = {key for _, key, _ in rows}
    assert set(found.keys.to_pylist()) == changed
    for key, was, now in zip(found.keys.to_pylist(), found.before, found.after, strict=True):
        assert (None if was == NOWHERE else removed[was][2]) == before.get(key)
        assert (None if now == NOWHERE else added[now][2]) == state[key]


def test_without_moments_all_rows_were_removed_before_any_was_added() -> None:
    found = match_keys(pa.chunked_array([["a", "b"], ["b", "c"]]), 2)
    assert (found.keys.to_pylist(), found.before.tolist(), found.after.tolist()) == (
        ["a", "b", "c"],
        [0, 1, -1],
        [-1, 0, 1],
    )


SCHEMA = pa.schema([("x", pa.int64()), ("day", pa.date32()), ("new", pa.list_(pa.float32()))])


def test_a_column_that_a_file_lacks_is_its_partitions_value_or_null() -> None:
    rows = pa.table({"x": pa.array([1, 2], pa.int32()), "more": ["a", "b"]})
    fitted = fit_columns(rows, SCHEMA, {"day": "2026-01-02"})
    assert fitted.schema == SCHEMA
    assert fitted.to_pylist() == [{"x": x, "day": date(2026, 1, 2), "new": None} for x in (1, 2)]
    assert fit_columns(rows, SCHEMA, {"day": None})["day"].null_count == 2


def test_rows_of_files_come_in_their_order_and_a_missing_file_is_named(tmp_path: Path) -> None:
    filesystem = pa.fs.SubTreeFileSystem(str(tmp_path), pa.fs.LocalFileSystem())
    for name, values in (("a", [1, 2, 3]), ("b", [4])):
        pq.write_table(pa.table({"x": values}), tmp_path / name)
    files = [DataFile(name, 0, {"day": None}, {"numRecords": 1}) for name in ("b", "a")]
    batches = list(read_file_rows(filesystem, "raw_orders", files, SCHEMA, batch_rows=2))
    assert [batch["x"].to_pylist() for batch in batches] == [[4], [1, 2], [3]]
    with pytest.raises(DamagedError, match="data file gone of the table 'raw_orders' is missing or damaged"):
        list(read_file_rows(filesystem, "raw_orders", [DataFile("gone", 0, {}, {})], SCHEMA))
