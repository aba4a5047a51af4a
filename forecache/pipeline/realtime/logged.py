"""The values of a logged request, which is JSON: numbers that are not finite are texts in it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forecache.pipeline.realtime.building import Asked  # which needs numpy

NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""By the text that Python has for a number, the one that stands for it in a log."""
_TEXTS = frozenset(NOT_FINITE.values())


def logged_values(data: Mapping[str, Any], asked: "Asked") -> tuple[dict[str, Any], dict[str, list[Any]] | None]:
    """The values of a logged request by field, and those of its candidates, as `RowsBuilder.columns` takes them.

    Args:
        data: The request as JSON has it.
    """
    request = dict(data)
    for field in asked.request:
        if field.type == "double":
            request[field.name] = _number(data.get(field.name))
    if asked.candidates is None:
        return request, None
    fields, listed = asked.candidates.fields, data[asked.candidates.name]
    if listed and not isinstance(listed[0], dict):
        listed = [{fields[0].name: each} for each in listed]
    lists = {field.name: [each.get(field.name) for each in listed] for field in fields}
    for field in fields:
        if field.type == "double":
            lists[field.name] = [_number(value) for value in lists[field.name]]
    return request, lists


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) and value in _TEXTS else value
