"""The comparison of a stream's rows with those that were computed again."""

import math
import struct

import pyarrow as pa
import pytest

from forecache.plugins.compare_tables import first_difference


def a_nan(payload: int) -> float:
    return float(struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000000 + payload))[0])


@pytest.mark.parametrize(
    ("there", "here", "row"),
    [
        ([1.0, None, math.nan], [1.0, None, math.nan], None),
        ([0.0], [-0.0], 0),
        ([1.0, 2.0], [1.0, math.nextafter(2.0, 3.0)], 1),
        ([None], [0.0], 0),
        ([a_nan(1)], [a_nan(2)], 0),
        ([], [], None),
    ],
)
def test_floats_are_compared_by_their_bits(
    there: list[float | None], here: list[float | None], row: int | None
) -> None:
    tables = [pa.table({"score": pa.array(values, pa.float64())}) for values in (there, here)]
    found = first_difference(*tables, ["score"])
    assert (found and found.row) == row


def test_the_first_row_is_told_with_its_first_column_and_both_values() -> None:
    there = pa.table({"a": ["x", "y", "z"], "b": [1, 2, 3], "c": [True, True, True]})
    here = pa.table({"a": ["x", "y", "Z"], "b": [1, 0, 3], "c": [True, False, True]})
    found = first_difference(there, here, ["a", "b", "c"])
    assert found is not None
    assert (found.row, found.column, found.there, found.here) == (1, "b", 2, 0)


LISTS = pa.list_(pa.struct([("id", pa.string()), ("scores", pa.list_(pa.float32()))]))
ONE = [{"id": "a", "scores": [0.0, 1.0]}, {"id": "b", "scores": []}]


@pytest.mark.parametrize("kind", [LISTS, pa.large_list(LISTS.value_type)])
@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (ONE, False),
        ([{"id": "a", "scores": [-0.0, 1.0]}, ONE[1]], True),
        ([ONE[0], {"id": "b", "scores": None}], True),
        ([ONE[0], {"id": None, "scores": []}], True),
        ([ONE[0], None], True),
        ([ONE[1], ONE[0]], True),
        (ONE[:1], True),
        ([], True),
        (None, True),
    ],
)
def test_lists_of_structures_are_compared_value_by_value(kind: pa.DataType, other: object, differs: bool) -> None:
    before: list[object] = [None, [], ONE[:1], ONE]
    there, here = (pa.table({"items": pa.array([*before, each, ONE], kind)}) for each in (ONE, other))
    for ours, theirs in ((there, here), (here, there)):
        found = first_difference(ours, theirs, ["items"])
        assert (found and found.row) == (4 if differs else None)
    assert first_difference(there.slice(5), here.slice(5), ["items"]) is None
