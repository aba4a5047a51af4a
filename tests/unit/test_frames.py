"""Rows for people: frames in and out, and what notebooks show of frames, declarations and answers."""

import sys
from datetime import date, datetime, timezone
from typing import Any

import pandas
import pyarrow as pa
import pytest
from asked_project.pipelines.payments import payments
from declared_streams import STREAM
from shelf_project.pipelines.shelf import offers
from windowed_project.pipelines.spend import CUSTOMER, spend

from forecache import Answer, Frame
from forecache.base.display import facts_html, rows_html
from forecache.base.errors import InputError, UnavailableError
from forecache.lake.frame import add_columns, read_frame
from forecache.serve.reader.wire import realtime_answer_from

ROWS = pa.table({"customer": ["ann", "bob"], "visits": [1, None]})


def test_a_frame_says_where_its_rows_come_from_and_shows_the_first_ones() -> None:
    frame = Frame(ROWS, table="predictions_churn", version=7, date=date(2026, 1, 31))
    assert repr(frame).splitlines() == [
        "predictions_churn at version 7, as of 2026-01-31, 2 rows",
        "customer  visits",
        "ann       1",
        "bob",
    ]
    assert (len(frame), frame.columns) == (2, ["customer", "visits"])
    many = Frame(pa.table({"n": range(1234)}))
    assert repr(many).splitlines()[0] == "1,234 rows, the first 10 shown"
    assert len(repr(many).splitlines()) == 2 + 10
    assert many._repr_html_().count("<tr>") == 1 + 10


def test_two_columns_of_one_name_are_both_shown() -> None:
    frame = Frame(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"]))
    assert repr(frame).splitlines()[1:] == ["n  n", "1  2"]


def test_a_frame_becomes_what_is_asked_for_and_is_read_by_other_libraries() -> None:
    frame = Frame(ROWS)
    assert frame.to_arrow() is ROWS
    assert frame.to_pandas().customer.tolist() == ["ann", "bob"]
    assert pa.table(frame).equals(ROWS)


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(UnavailableError, match="polars is not installed here. pip install polars"):
        Frame(ROWS).to_polars()


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        Frame(ROWS),
        ROWS.to_batches()[0],
        ROWS.to_pandas().set_index("customer", drop=False),
        [{"customer": "ann", "visits": 1}, {"customer": "bob"}],
    ],
    ids=["table", "frame", "batch", "pandas", "dicts"],
)
def test_rows_of_each_kind_are_read_and_get_columns_in_their_own_kind(rows: Any) -> None:
    read = read_frame(rows, what="The rows")
    assert read.column("customer").to_pylist() == ["ann", "bob"]
    assert read.column("visits").to_pylist() == [1, None]
    added = add_columns(rows, {"score": pa.chunked_array([[0.25, 0.75]]), "visits": pa.chunked_array([[8, 9]])})
    assert type(added) is type(rows)
    again = read_frame(added, what="The rows")
    assert again.to_pydict() == {"customer": ["ann", "bob"], "visits": [8, 9], "score": [0.25, 0.75]}
    assert read_frame(rows, what="The rows").column("visits").to_pylist() == [1, None]


def test_the_index_of_a_pandas_frame_stays() -> None:
    rows = pandas.DataFrame({"n": [1, 2]}, index=[7, 3])
    added = add_columns(rows, {"twice": pa.chunked_array([[2, 4]])})
    assert added.twice.to_dict() == {7: 2, 3: 4}


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (17, "The rows is a int. Give a frame of pandas, polars or Arrow, or a list of dicts."),
        ([{"n": 1}, {"n": "a"}], "The rows cannot be read: .* Give each column values of one type."),
        ([1, 2], "The rows is a list. "),
    ],
)
def test_what_is_no_frame_is_refused(rows: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_frame(rows, what="The rows")


def test_html_is_escaped_and_long_values_are_cut() -> None:
    evil = "<script>alert('&')</script>"
    shown = facts_html(evil, {evil: [evil, 0.123456789], "none": None, "empty": (), "zero": 0})
    shown += rows_html([evil], [[evil]], caption=evil)
    shown += Frame(pa.table({evil: [evil]}), table=evil, version=1)._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;<br>0.123457" in shown
    assert "none" not in shown
    assert "empty" not in shown
    assert ">zero</th>" in shown
    assert "…" in rows_html(["text"], [["a" * 1000]])
    assert len(rows_html(["text"], [["a" * 1000]])) < 400
    assert len(rows_html(["list"], [[list(range(1000))]])) < 400


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        (
            spend,
            [
                "Pipeline spend", "customer", "sales: events by day, 3 columns", "customer, habits",
                "5: spent_1d, spent_3d, spent_7d, purchases, most", "next: regression, in the next 2 days",
                "EstimatorModel boosting", "mae; floors mae 1e+06; better than spent_7d", "next_spend",
                "every day, runs at 0 3 * * *",
            ],
        ),
        (CUSTOMER, ["FeatureView customer", "3: spent_1d, spent_3d, spent_7d", ">no<"]),
        (
            payments,
            [
                "Realtime payments", "household_id: bigint<br>amount: double", "household by household_id",
                "2: amount, spend_28d", "FunctionModel suspicion", "Precomputed<br>Default", "50 ms",
            ],
        ),
        (STREAM, ["Stream cards", "payments.v1 (payments)", "Realtime check"]),
        (offers, ["Recommender offers", "purchases: events by day", "WithFallback", "ndcg", "items"]),
    ],
    ids=["pipeline", "view", "realtime", "stream", "recommender"],
)  # fmt: skip
def test_a_declaration_is_shown_by_its_facts(declared: Any, told: list[str]) -> None:
    shown = declared._repr_html_()
    assert [text for text in told if text not in shown] == []


def test_answers_are_shown_with_where_they_come_from() -> None:
    moment = datetime(2026, 1, 2, tzinfo=timezone.utc)
    made = ("churn", 9, date(2026, 1, 1), moment, moment)
    answer = Answer("<7>", True, {"churn": 0.25}, "precomputed", 3, *made, 90, True)
    shown = answer._repr_html_()
    told = ("&lt;7&gt;", "churn: 0.25", "precomputed, store version 3", "churn 9", "2026-01-01", "90 s, stale")
    assert [text for text in told if text not in shown] == []
    missing = Answer("8", False, None, "precomputed", 3, *made, 90, False)
    assert "8: no such key" in missing._repr_html_()
    ranked = realtime_answer_from(
        {
            "name": "search",
            "request_id": None,
            "items": [{"product": "a", "score": 0.5, "answered_by": "model"}],
            "answered_by": "model",
            "answered_by_counts": {"model": 1},
            "model": {"name": "search", "version": 2, "runtime": "onnx"},
            "release": 4,
            "stores": {"product": {"version": 1, "as_of": "2026-01-01", "age_s": 1, "stale": False}},
            "deadline_ms": 50.0,
            "timings_ms": {"total": 1.25},
        }
    )
    shown = ranked._repr_html_()
    told = ("search, request without id", "a, 0.5, model", "search 2 (onnx), release 4", "product 1", "1.25 of 50 ms")
    assert [text for text in told if text not in shown] == []
