"""Rows of a request: the types of its fields, what is repeated, what is refused, and what a transform may return."""

from datetime import date, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from release_support import CANDIDATES, HOUSEHOLD, PRODUCT

from forecache.base.errors import InputError, SettingsError
from forecache.declare.realtime.request import Candidates, RequestField
from forecache.declare.realtime.request_rows import DTYPES, Rows, RowsBuilder, apply_transform, column_of

EAST = timezone(timedelta(hours=5, minutes=30))


@pytest.mark.parametrize(
    ("kind", "sent", "is_"),
    [
        ("bigint", 2**53 + 1, 2**53 + 1),
        ("bigint", -(2**63), -(2**63)),
        ("double", 3, 3.0),
        ("double", -0.0, -0.0),
        ("boolean", True, True),
        ("string", "ключ|%", "ключ|%"),
        ("string", "", ""),
        ("timestamp", "2026-03-01T08:30:00.000001Z", datetime(2026, 3, 1, 8, 30, 0, 1)),
        ("timestamp", "2026-03-01T08:30:00+05:30", datetime(2026, 3, 1, 3, 0)),
        ("timestamp", datetime(2026, 3, 1, 8, 30, tzinfo=EAST), datetime(2026, 3, 1, 3, 0)),
        ("timestamp", datetime(2026, 3, 1, 8, 30), datetime(2026, 3, 1, 8, 30)),
        ("date", "2026-03-01", date(2026, 3, 1)),
        ("date", date(2026, 3, 1), date(2026, 3, 1)),
    ],
)
def test_a_value_becomes_an_array_of_its_fields_type(kind: Any, sent: Any, is_: Any) -> None:
    field = RequestField("f", kind)
    for count in (1, 3):
        column = column_of(field, [sent] * count)
        assert column.dtype == DTYPES[kind]
        assert column.tolist() == [is_] * count
        assert repr(column.tolist()[0]) == repr(is_)  # -0.0
        assert not column.flags.writeable
        again = column_of(field, column)
        assert again.dtype == column.dtype
        assert again.tolist() == column.tolist()


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        *[("bigint", value) for value in (1.0, True, "1", 2**63, -(2**63) - 1, [1], {}, float("nan"))],
        *[("double", value) for value in (True, "1", [1.0], 10**400)],
        *[("boolean", value) for value in (1, 0, "true")],
        *[("string", value) for value in (1, b"x", ["x"], "half \ud83d of a pair")],
        *[("timestamp", value) for value in (0, "yesterday", date(2026, 3, 1), "2026-13-01T00:00:00Z")],
        *[("date", value) for value in (0, "2026-02-30", datetime(2026, 3, 1))],
    ],
)
def test_a_value_of_another_type_is_refused(kind: Any, sent: Any) -> None:
    with pytest.raises(InputError, match="The request field 'f' is"):
        column_of(RequestField("f", kind), [sent])


def test_null_is_the_default_and_refused_without_one() -> None:
    assert column_of(RequestField("f", "bigint", default=4), [None, 5]).tolist() == [4, 5]
    with pytest.raises(InputError, match="The request field 'f' is missing. It must be a whole number"):
        column_of(RequestField("f", "bigint"), [1, None])
    with pytest.raises(SettingsError, match="has default='4'"):
        RequestField("f", "bigint", default="4")


def asked(candidates: Candidates | None = CANDIDATES) -> RowsBuilder:
    request = (RequestField("household_id", "bigint"), RequestField("coupon", "string", default="none"))
    return RowsBuilder(SimpleNamespace(request=request, candidates=candidates, lookups=(HOUSEHOLD, PRODUCT)))  # type: ignore[arg-type]


def rows_of_three() -> Rows:
    columns = asked().build_columns({"household_id": 7}, {"product_id": ["a", "b", "c"], "price": [1, 2.5, None]})
    views = {"household": np.array([[1, 2]], np.float32), "product": np.array([[1], [np.nan], [3]], np.float32)}
    return asked().build_rows(columns, views, {"household": np.array([True]), "product": np.array([True, False, True])})


def test_what_is_the_requests_own_is_the_same_in_every_row() -> None:
    rows = rows_of_three()
    assert len(rows) == 3
    assert rows["household_id"].tolist() == [7, 7, 7]
    assert rows["coupon"].tolist() == ["none"] * 3
    assert rows["price"].tolist() == [1.0, 2.5, 1.0]
    assert rows.view("household").tolist() == [[1, 2]] * 3
    assert rows.feature("household", "visits_28d").tolist() == [2, 2, 2]
    assert rows.found("household").tolist() == [True] * 3
    assert rows.found("product").tolist() == [True, False, True]
    for array in (
        rows["household_id"],
        rows["price"],
        rows.view("household"),
        rows.view("product"),
        rows.found("product"),
    ):
        assert array.flags.c_contiguous
        assert 0 not in array.strides
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_the_callers_arrays_stay_writeable() -> None:
    views = {"household": np.zeros((1, 2), np.float32), "product": np.zeros((1, 1), np.float32)}
    columns = asked(None).build_columns({"household_id": 7})
    rows = asked(None).build_rows(columns, views, {"household": np.ones(1, bool), "product": np.ones(1, bool)})
    assert len(rows) == 1
    assert not rows.view("household").flags.writeable
    assert views["household"].flags.writeable


def test_candidates_of_different_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="1 values of 'price', not 2"):
        asked().build_columns({"household_id": 7}, {"product_id": ["a", "b"], "price": [1.0]})


def test_no_candidates_are_no_rows() -> None:
    columns = asked().build_columns({"household_id": 7}, {"product_id": [], "price": []})
    views = {"household": np.zeros((1, 2), np.float32), "product": np.zeros((0, 1), np.float32)}
    rows = asked().build_rows(columns, views, {"household": np.ones(1, bool), "product": np.ones(0, bool)})
    assert len(rows) == 0
    assert rows["household_id"].shape == (0,)
    assert rows.view("household").shape == (0, 2)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (np.zeros((3, 1)), r"an array of float64 with the shape \(3, 1\), and numbers of the shape \(3, 2\)"),
        (np.zeros(3), r"an array of float64 with the shape \(3,\)"),
        (np.zeros((3, 2), object), "an array of object"),
        (np.array([["a", "b"]] * 3), "an array of <U1"),
        (np.zeros((3, 2), complex), "an array of complex128"),
        ([[0, 0]] * 3, "a list"),
        (None, "a NoneType"),
    ],
)
def test_what_is_no_matrix_of_the_features_is_refused_by_name(returned: Any, told: str) -> None:
    with pytest.raises(InputError, match=f"The transform shop:rank returned {told}"):
        apply_transform(lambda rows: returned, "shop:rank", rows_of_three(), 2)


@pytest.mark.parametrize(
    ("transform", "told"),
    [
        (lambda rows: rows["nothing"], "there is no 'nothing' among household_id, coupon, product_id, price"),
        (lambda rows: rows.view("shop"), "there is no 'shop' among household, product"),
        (
            lambda rows: rows.feature("household", "age"),
            "'household' has no feature 'age'; it has spend_28d, visits_28d",
        ),
    ],
)
def test_a_transform_that_asks_for_what_is_not_there_is_named_with_what_there_is(transform: Any, told: str) -> None:
    with pytest.raises(InputError, match=f"The transform shop:rank failed: KeyError: .{told}"):
        apply_transform(transform, "shop:rank", rows_of_three(), 2)


def test_a_matrix_of_numbers_becomes_float32_whatever_numpy_is_set_to() -> None:
    with np.errstate(all="raise"):
        found = apply_transform(
            lambda rows: np.asfortranarray(np.stack([np.log(rows["price"] * 0), rows["price"] * 1e300], 1)),
            "shop:rank",
            rows_of_three(),
            2,
        )
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found.tolist() == [[-np.inf, np.inf]] * 3
