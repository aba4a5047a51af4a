"""Arrow arrays become a model's matrix: any layout, nulls as NaN, no copy where none is needed."""

import numpy as np
import pyarrow as pa
import pytest

from forecache.base.errors import InputError
from forecache.models.inference.arrays import to_columns, to_frame, to_matrix

VALUES = np.arange(12, dtype=np.float32).reshape(4, 3)
NAMES = ("a", "b", "c")


def lists(kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(VALUES.tolist(), pa.list_(kind or pa.float32()))


def struct(names: tuple[str, ...] = NAMES) -> pa.Array:
    columns = [pa.array(VALUES[:, NAMES.index(name)]) for name in names]
    return pa.StructArray.from_arrays(columns, names=list(names))


@pytest.mark.parametrize(
    "arrays",
    [
        [lists()],
        [lists(pa.float64())],
        [lists(pa.int32())],
        [pa.array(VALUES.tolist(), pa.large_list(pa.float32()))],
        [pa.FixedSizeListArray.from_arrays(pa.array(VALUES.ravel()), 3)],
        [struct()],
        [struct(("c", "a", "b"))],
        [pa.array(VALUES[:, i]) for i in range(3)],
        [pa.array(VALUES[:, i].astype(np.int64)) for i in range(3)],
    ],
)
def test_every_layout_gives_the_same_matrix(arrays: list[pa.Array]) -> None:
    matrix = to_matrix(arrays, NAMES, 3, "float32")
    assert matrix.dtype == np.float32
    assert matrix.flags.c_contiguous
    np.testing.assert_array_equal(matrix, VALUES)


def test_a_list_column_without_nulls_is_not_copied() -> None:
    column = lists()
    matrix = to_matrix([column], NAMES, 3, "float32")
    assert matrix.ctypes.data == column.values.buffers()[1].address


def test_a_slice_of_a_list_column_gives_its_own_rows() -> None:
    np.testing.assert_array_equal(to_matrix([lists().slice(1, 2)], NAMES, 3, "float32"), VALUES[1:3])


def test_a_slice_of_a_fixed_size_list_column_gives_its_own_rows() -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(VALUES.ravel()), 3).slice(2, 2)
    np.testing.assert_array_equal(to_matrix([column], NAMES, 3, "float32"), VALUES[2:4])


def test_nulls_become_nan_in_every_layout() -> None:
    expected = VALUES.copy()
    expected[1, 2] = np.nan
    rows = expected.astype(object)
    rows[1, 2] = None
    by_row = [pa.array(rows.tolist(), pa.list_(pa.float32()))]
    by_column = [pa.array(rows[:, i].tolist(), pa.float32()) for i in range(3)]
    for arrays in (by_row, by_column, [pa.StructArray.from_arrays(by_column, names=list(NAMES))]):
        np.testing.assert_array_equal(to_matrix(arrays, NAMES, 3, "float32"), expected)


def test_a_null_row_becomes_a_row_of_nan() -> None:
    matrix = to_matrix([pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32()))], (), None, "float32")
    np.testing.assert_array_equal(matrix, np.array([[1, 2], [np.nan, np.nan], [3, 4]], np.float32))


def test_rows_of_unequal_length_are_refused() -> None:
    with pytest.raises(InputError, match="rows of 1 and of 2 values"):
        to_matrix([pa.array([[1.0], [1.0, 2.0]], pa.list_(pa.float32()))], (), None, "float32")


def test_another_width_than_the_models_is_refused_with_both() -> None:
    with pytest.raises(InputError, match="takes 4 features and was given 3"):
        to_matrix([lists()], (), 4, "float32")


def test_a_missing_struct_field_is_named() -> None:
    with pytest.raises(InputError, match="lacks the column 'c'; it has a, b"):
        to_columns([struct(("a", "b"))], NAMES)


def test_text_where_numbers_are_needed_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="column b has the type string"):
        to_matrix([pa.array([1.0]), pa.array(["x"])], ("a", "b"), 2, "float32")


def test_a_frame_has_the_models_names_from_a_list_column() -> None:
    frame = to_frame([lists()], NAMES)
    assert list(frame.columns) == list(NAMES)
    np.testing.assert_array_equal(frame.to_numpy(), VALUES)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([1, None]), "column n has an unknown value"),
        (pa.array([1.0, 2.5]), "column n has the value 2.5"),
        (pa.array([1, 2**40]), f"column n has the value {2**40}"),
    ],
)
def test_a_model_of_whole_numbers_is_never_given_made_up_ones(column: pa.Array, words: str) -> None:
    with pytest.raises(InputError, match=f"{words}, and the model takes int32"):
        to_matrix([column], ("n",), 1, "int32")
    with pytest.raises(InputError, match=f"{words}, and the model takes int32"):
        to_frame([column], ("n",), types=("int",))


@pytest.mark.parametrize("row", [None, [None], [0.5]])
def test_an_array_of_other_than_whole_numbers_is_refused_by_a_model_of_those(row: list[float | None] | None) -> None:
    with pytest.raises(InputError, match="and the model takes int64"):
        to_matrix([pa.array([[1.0], row], pa.list_(pa.float64()))], (), 1, "int64")


@pytest.mark.parametrize("kind", [pa.float64(), pa.int32(), pa.int64(), pa.decimal128(21, 2), pa.bool_()])
def test_numbers_of_a_frame_have_the_types_of_the_signature(kind: pa.DataType) -> None:
    column = pa.array([1, 0, None]).cast(kind)
    for arrays in ([column], [pa.StructArray.from_arrays([column], names=["a"])]):
        frame = to_frame(arrays, ("a",), types=("float",))
        assert frame["a"].dtype == np.float32
        np.testing.assert_array_equal(frame["a"], [1, 0, np.nan])
    assert to_frame([lists(pa.float64())], NAMES, types=("float",) * 3).dtypes.tolist() == [np.float32] * 3


def test_a_list_column_is_the_models_where_it_takes_one_of_lists() -> None:
    frame = to_frame([lists()], ("embedding",), types=("array",))
    assert [list(row) for row in frame["embedding"]] == VALUES.tolist()


def test_a_frame_from_lists_of_another_width_is_refused_with_both() -> None:
    with pytest.raises(InputError, match="takes 2 features and was given 3"):
        to_frame([lists()], ("a", "b"))


def test_a_struct_may_lack_the_columns_that_the_model_can_do_without_and_no_others() -> None:
    assert list(to_frame([struct(("a", "b"))], NAMES, optional=("c",)).columns) == ["a", "b"]
    assert list(to_frame([struct()], NAMES, optional=("c",)).columns) == list(NAMES)
    with pytest.raises(InputError, match="lacks the column 'b'"):
        to_frame([struct(("a", "c"))], NAMES, optional=("c",))


def test_moments_lose_their_zone_as_in_spark_s_own_pandas_functions() -> None:
    moments = pa.array([0], pa.timestamp("us")).cast(pa.timestamp("us", tz="Asia/Tokyo"))
    (moment,) = to_frame([moments], ("t",), types=("timestamp",))["t"]
    assert (moment.tzinfo, moment.hour) == (None, 9)
