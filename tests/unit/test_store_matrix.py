"""A matrix of packed rows is what a dictionary with the same changes would give, to the bit."""

from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from segment_files import version

from forecache.serve.store.manifest import Field
from forecache.serve.store.read import lookup as together
from forecache.serve.store.values import json_renderer, matrix_of, rows_of

FIELDS = (Field("spend", "float"), Field("100%", "vector", 2))
FLOATS = st.floats(width=32) | st.sampled_from([float("nan"), -0.0, float("inf")])
ENTRIES = st.lists(FLOATS, min_size=3, max_size=3).map(lambda row: np.array(row, "<f4").tobytes())
SAME_LENGTH = st.integers(0, 99).map(b"%02d".__mod__)
ANY = st.binary(min_size=1, max_size=12) | st.sampled_from([b"a", b"a\0", b"a\0\0", b"x" * 511])


@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("block", [7, 1 << 16])
@pytest.mark.parametrize("kind", [SAME_LENGTH, ANY], ids=["one length", "any length"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_matrix_is_that_of_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    few: int,
    block: int,
    kind: st.SearchStrategy,
    data: st.DataObject,
) -> None:
    monkeypatch.setattr(together, "_FEW_PACKED", few)
    monkeypatch.setattr(together, "_BLOCK", block)
    base = data.draw(st.dictionaries(kind, ENTRIES, min_size=1, max_size=60))
    deltas = data.draw(st.lists(st.dictionaries(kind, ENTRIES | st.just(b""), min_size=1, max_size=20), max_size=4))
    expected = dict(base)
    for delta in deltas:
        known = data.draw(st.lists(st.sampled_from(sorted(base)), max_size=8))
        delta.update(dict.fromkeys(known, data.draw(ENTRIES | st.just(b""))))
        expected.update(delta)
    asked = data.draw(st.lists(kind | st.sampled_from(sorted(expected)), max_size=60))
    rows = [expected.get(key) or None for key in asked]
    folder = tmp_path_factory.mktemp("store")
    with version(folder, base, deltas, layout="packed", fields=FIELDS, carried=0) as snapshot:
        matrix, found = snapshot.matrix(asked)
        assert (matrix.dtype, matrix.shape) == (np.float32, (len(asked), 3))
        assert found.tolist() == [row is not None for row in rows]
        assert matrix[found].tobytes() == b"".join(row for row in rows if row)
        assert np.isnan(matrix[~found]).all()
        assert snapshot.get_entries(asked) == rows
        of_entries, found_entries = matrix_of(snapshot.get_entries(asked), 3)
        assert of_entries.tobytes() == matrix.tobytes()
        assert found_entries.tolist() == found.tolist()
        matrix[:] = 0  # its own memory: the version stays as it is
        assert snapshot.get_entries(asked) == rows


@pytest.mark.parametrize("columns", [8, 600])
def test_all_keys_of_many_are_found_and_no_other_also_where_buckets_are_full_or_records_have_no_slot(
    tmp_path: Path, columns: int
) -> None:
    there = {b"%d" % number: np.full(columns, number, "<f4").tobytes() for number in range(0, 40_000, 2)}
    fields = (Field("vector", "vector", columns),)
    with version(tmp_path, there, [], layout="packed", fields=fields, carried=0) as snapshot:
        matrix, found = snapshot.matrix([b"%d" % number for number in range(40_000)])
        assert found.tolist() == [True, False] * 20_000
        assert (matrix[::2] == np.arange(0, 40_000, 2, dtype="<f4")[:, None]).all()
        assert np.isnan(matrix[1::2]).all()


@given(ENTRIES)
def test_the_json_of_a_row_reads_back_to_the_same_float32(entry: bytes) -> None:
    value = orjson.loads(json_renderer(FIELDS)(entry))
    assert rows_of([entry, None], FIELDS) == [value, None]
    assert list(value) == ["spend", "100%"]
    numbers = np.array([value["spend"], *value["100%"]], "<f4")  # null is NaN
    given = np.frombuffer(entry, "<f4")
    finite = np.isfinite(given)
    assert np.isnan(numbers[~finite]).all()
    assert numbers[finite].tobytes() == given[finite].tobytes()


@given(st.integers(-(2**24), 2**24) | st.sampled_from([2**63, -(2**63), 2**40]))
def test_the_json_of_an_integer_is_a_whole_number(number: int) -> None:
    entry = np.array([number], "<f4").tobytes()
    assert json_renderer([Field("visits", "integer")])(entry) == b'{"visits":%d}' % number
    assert rows_of([entry], [Field("visits", "integer")]) == [{"visits": number}]


def test_the_json_of_a_number_is_the_shortest_text_of_its_float32() -> None:
    entry = np.array([0.1, 5.0, np.nan], "<f4").tobytes()
    assert json_renderer(FIELDS)(entry) == b'{"spend":0.1,"100%":[5.0\t,null\r]}'
    assert json_renderer([Field("visits", "integer")])(entry[8:]) == b'{"visits":null}'
