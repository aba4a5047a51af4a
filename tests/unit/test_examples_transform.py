"""What Spark's workers do with past requests: whole ones, refused where they could not be asked, transformed alone."""

import re
from datetime import date, datetime, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from offered_project.pipelines.offers import offers
from offered_project.transforms import FEATURES

from forecache.base.errors import InputError
from forecache.kit.delta.errors import as_refusal
from forecache.lake.contracts import require_labels
from forecache.plugins.historical_features.requests import request_days
from forecache.plugins.historical_features.transform import (
    matrix_column,
    request_starts,
    request_transformer,
    whole_requests,
)

AT = datetime(2026, 1, 14, 6, tzinfo=timezone.utc)


def rows(**changed: list[Any]) -> pa.RecordBatch:
    """Three candidates of one request and one of another, the second's household not known."""
    columns: dict[str, Any] = {
        "request_id": ["a", "a", "a", "b"],
        "event_timestamp": pa.array([AT] * 4, pa.timestamp("us", "UTC")),
        "position": pa.array([0, 1, 2, 0], pa.int32()),
        "as_of": pa.array([date(2026, 1, 14)] * 4, pa.date32()),
        "split": ["test"] * 4,
        "household_id": pa.array([7, 7, 7, 8], pa.int64()),
        "channel": ["app", "app", "app", "web"],
        "asked_at": pa.array([AT] * 4, pa.timestamp("us", "UTC")),
        "product_id": ["p1", "p2", "p3", "p1"],
        "price": [1.0, 2.0, 4.0, 3.0],
        "taken": [1.0, 0.0, 0.0, 1.0],
        matrix_column("household"): pa.array([[5.5, 2.0]] * 3 + [None], pa.list_(pa.float32())),
        matrix_column("product"): pa.array([[9.0], [4.0], None, [9.0]], pa.list_(pa.float32())),
        matrix_column("pair"): pa.array([None, [1.0], None, None], pa.list_(pa.float32())),
        matrix_column("tastes"): pa.array([[3.0, 6.0, 7.5]] * 3 + [None], pa.list_(pa.float32())),
    }
    return pa.RecordBatch.from_pydict({**columns, **changed})


def transformed(*batches: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches(list(request_transformer(offers)(iter(batches))))


def test_each_request_is_transformed_by_itself() -> None:
    found = transformed(rows())
    assert found.column_names == ["request_id", "position", "as_of", "split", *FEATURES, "taken"]
    nan = None
    assert found.select(FEATURES).to_pylist() == [
        dict(zip(FEATURES, values, strict=True))
        for values in (
            (9.0, 0.0, 5.5, 0.25, 0.0, 1.0, 6.0, 3.0, 6.0, 7.5, 1.0),
            (4.0, 1.0, 5.5, 0.5, 1.0, 1.0, 6.0, 3.0, 6.0, 7.5, 2.0),
            (nan, 0.0, 5.5, 1.0, 0.0, 1.0, 6.0, 3.0, 6.0, 7.5, 4.0),
            (9.0, 0.0, nan, 1.0, 0.0, 0.0, 6.0, nan, nan, nan, 3.0),
        )
    ]


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_request_that_is_cut_by_a_batch_is_whole_when_it_is_transformed(cut: int) -> None:
    batch = rows()
    assert transformed(batch.slice(0, cut), batch.slice(cut)) == transformed(batch)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), max_size=12), st.lists(st.integers(1, 6)))
def test_requests_are_dealt_out_whole_and_in_order(runs: list[tuple[int, int]], cuts: list[int]) -> None:
    ids = [f"{place}-{name}" for place, (name, size) in enumerate(runs) for _ in range(size)]
    batch = pa.RecordBatch.from_pydict({"request_id": pa.array(ids, pa.string()), "n": pa.array(range(len(ids)))})
    ends = np.cumsum([0, *cuts])
    parts = [batch.slice(start, size) for start, size in zip(ends.tolist(), cuts, strict=False) if start < len(ids)]
    rest = batch.slice(min(int(ends[-1]), len(ids)))
    found = list(whole_requests(iter([*parts, rest])))
    assert [n for part in found for n in part.column("n").to_pylist()] == list(range(len(ids)))
    ids_of = [part.column("request_id") for part in found]
    owners = [set(some.to_pylist()) for some in ids_of]
    assert sum(map(len, owners)) == len(set(ids))
    assert [len(request_starts(some)) for some in ids_of] == list(map(len, owners))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"household_id": pa.array([7, 7, 9, 8])},
            "request 'a' of the examples .* has several values of 'hou",
        ),
        ({"channel": ["app", None, "app", "web"]}, "request 'a' .* has several values of 'channel'"),
        ({"household_id": pa.array([7, 7, 7, None])}, "The request field 'household_id' is missing"),
        ({"price": pa.array([1.0, None, 4.0, 3.0])}, "The request field 'price' is missing"),
        ({"position": pa.array([0, 1, 1, 0], pa.int32())}, "request 'a' .* has two candidates in one place"),
        ({"position": pa.array([0, None, 1, 0], pa.int32())}, "request 'a' .* has a row without 'position'"),
        ({"request_id": pa.array([None, "a", "a", "b"])}, "have a request without 'request_id'"),
    ],
)
def test_requests_that_could_not_be_asked_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="forecache refuses:") as said:
        transformed(rows(**changed))
    refused = as_refusal(said.value)
    assert isinstance(refused, InputError)
    assert re.search(message, str(refused)), str(refused)


def test_more_candidates_than_may_be_asked_are_refused() -> None:
    many = pa.Table.from_batches([rows().slice(0, 1)] * 13).combine_chunks().to_batches()[0]
    columns = dict(zip(many.schema.names, many.columns, strict=True))
    with pytest.raises(ValueError, match="has 13 candidates. At most 12 are asked"):
        transformed(pa.RecordBatch.from_pydict({**columns, "position": pa.array(range(13), pa.int32())}))


@pytest.mark.parametrize("wrong", [-1.0, 0.5, 31.0, float("nan"), None])
def test_labels_of_a_ranking_are_whole_numbers_from_0_to_30(wrong: float | None) -> None:
    pipeline = offers
    days = pa.array([date(2026, 1, 1)] * 3, pa.date32())

    def table(label: float | None) -> pa.Table:
        return pa.table({"as_of": days, "split": ["train"] * 3, "taken": pa.array([0.0, 30.0, label], pa.float64())})

    require_labels(table(1.0), pipeline)
    with pytest.raises(InputError, match="The label 'taken' of real-time model 'offers' is"):
        require_labels(table(wrong), pipeline)


def test_nights_that_reach_back_too_far_are_refused() -> None:
    with pytest.raises(InputError, match="cannot train as of 2026-01-08: its data starts on 2026-01-01") as said:
        request_days(offers, date(2026, 1, 8))
    assert "Train on 2026-01-09 or later" in str(said.value)
    assert request_days(offers, date(2026, 1, 9))["train"] == (date(2026, 1, 2),)
