"""Prediction tables whose columns hold lists, a pipeline that serves them."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import pyarrow as pa
from store_tables import NIGHT, OPEN_RULES, churn, predictions

from forecache.declare import Pipeline, Publish, Segment

ITEM = pa.struct([("item", pa.string()), ("score", pa.float64()), ("reason", pa.string())])
NUMBERED = pa.struct([("item", pa.int64()), ("score", pa.float32()), ("reason", pa.string())])
TYPES: dict[str, pa.DataType] = {
    "items": pa.list_(ITEM),
    "numbered": pa.list_(NUMBERED),
    "vector": pa.list_(pa.float32()),
    "doubles": pa.list_(pa.float64()),
    "tags": pa.list_(pa.string()),
    "counts": pa.list_(pa.int64()),
    "flags": pa.list_(pa.bool_()),
    "active": pa.bool_(),
    "orders": pa.int32(),
}
SERVED = {
    "items": "array<struct<item:string,score:double,reason:string>>",
    "numbered": "array<struct<item:bigint,score:float,reason:string>>",
    "vector": "array<float>",
    "doubles": "array<double>",
    "tags": "array<string>",
    "counts": "array<bigint>",
    "flags": "array<boolean>",
    "active": "boolean",
    "orders": "bigint",
}
"""The types of these columns as a manifest names them."""


def recommended(columns: Sequence[str] = ("items",), rules: Publish = OPEN_RULES, **changes: Any) -> Pipeline:
    """A pipeline that serves these columns besides its score; a declaration knows no lists yet, the table has them."""
    cut = {"of": "churn_probability", "bounds": (0.5,), "labels": ("low", "high")}
    return churn(rules=rules, segments=tuple(Segment(name, **cut) for name in columns), **changes)


def list_table(
    rows: Mapping[str, Mapping[str, Any]], *, columns: Sequence[str] = ("items",), night: date = NIGHT, **more: Any
) -> pa.Table:
    """A night of the prediction table with these columns of TYPES, which are null where a row has none."""
    table = predictions(dict.fromkeys(rows, 0.25), night=night, **more).drop_columns(["risk_segment"])
    for name in columns:
        table = table.append_column(name, pa.array([row.get(name) for row in rows.values()], TYPES[name]))
    return table


def top(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """A list of `count` items with falling scores; every third has no reason."""
    return [
        {
            "item": f"P{first + place:06d}",
            "score": (1000 - place) / 1024,
            "reason": None if place % 3 == 0 else f"bought with P{place:06d}",
        }
        for place in range(count)
    ]
