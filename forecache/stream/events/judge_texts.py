"""Judges the texts of an event's values: casts them, and finds the first problem.

The rules and the sentences are those of landing rows, `forecache.lake.ingest.judge`, in the same order.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from forecache.stream.events.cast import DAYS_OF_YEARS, cast

if TYPE_CHECKING:
    from forecache.declare import Column

_DAY_US = 86_400_000_000


def judge_texts(columns: "Sequence[Column]", texts: Sequence[str | None]) -> tuple[list[Any], str | None]:
    """Cast the texts of an event; returns the typed values, and the first problem or None."""
    typed = [None if text is None else cast(text, column.type) for column, text in zip(columns, texts, strict=True)]
    for column, text, value in zip(columns, texts, typed, strict=True):
        reason = _find_problem(column, text, value)
        if reason is not None:
            return typed, reason
    return typed, None


def _find_problem(column: "Column", text: str | None, value: Any) -> str | None:
    name = column.name
    if text is None:
        return f"{name} is missing" if column.required else None
    if value is None:
        return f"{name} '{text}' is not of type {column.type}"
    if column.type == "double" and not math.isfinite(value):
        return f"{name} is not a number" if math.isnan(value) else f"{name} {text} is not finite"
    if column.type in ("date", "timestamp"):
        day = value if column.type == "date" else value // _DAY_US
        if not DAYS_OF_YEARS[0] <= day <= DAYS_OF_YEARS[1]:
            return f"{name} {text} is outside the years 1 to 9999"
    if is_below(value, column.minimum):
        return f"{name} {text} is below the minimum {column.minimum:g}"
    if is_above(value, column.maximum):
        return f"{name} {text} is above the maximum {column.maximum:g}"
    return None


def is_below(value: float, minimum: float | None) -> bool:
    """Compare with a minimum as Spark does: integers exactly, others as doubles."""
    if minimum is None:
        return False
    return value < minimum if type(minimum) is int and type(value) is int else float(value) < float(minimum)


def is_above(value: float, maximum: float | None) -> bool:
    """Compare with a maximum, as `is_below`."""
    if maximum is None:
        return False
    return value > maximum if type(maximum) is int and type(value) is int else float(value) > float(maximum)
