"""A request as the log has it: the reader's own JSON, whichever protocol brought it.

JSON has no numbers that are not finite. Where a model accepts them, the log has "NaN", "Infinity" and "-Infinity" in
their place, and `parse_logged` reads them back.
"""

import math
from typing import Any

import numpy as np
import orjson

from forecache.realtime.release.format import Release
from forecache.realtime.request.parse import REQUEST_ID, RequestParser
from forecache.realtime.request.parsed import ParsedRequest


def body_of(release: Release, request: ParsedRequest) -> bytes:
    """A request as JSON, of its columns."""
    found: dict[str, Any] = {field.name: _values(request.columns[field.name])[0] for field in release.request}
    if request.request_id:
        found.setdefault(REQUEST_ID, request.request_id)
    if release.candidates is not None:
        names = [field.name for field in release.candidates.fields]
        columns = [_values(request.columns[name]) for name in names]
        found[release.candidates.name] = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return orjson.dumps(found)


def parse_logged(parser: RequestParser, release: Release, body: bytes) -> ParsedRequest:
    """The request that was logged: the same columns, to the bit.

    Raises:
        Problem: It is none to this release.
    """
    doubles = [field.name for field in release.all_fields if field.type == "double"]
    if release.on_nan == "refuse" or not doubles:
        return parser.parse(body)
    data = orjson.loads(body)
    lists = None
    if release.candidates is not None:
        listed = data[release.candidates.name]
        names = [field.name for field in release.candidates.fields]
        if listed and not isinstance(listed[0], dict):
            listed = [{names[0]: each} for each in listed]
        lists = {name: [_number(each.get(name)) if name in doubles else each.get(name) for each in listed]
                 for name in names}  # fmt: skip
    request = {name: _number(value) if name in doubles else value for name, value in data.items()}
    return parser.of_values(request, lists, body=body)


def _values(column: np.ndarray) -> list[Any]:
    """The values of a column as JSON has them."""
    if column.dtype.kind == "M":
        return [str(value) for value in column]
    values = column.tolist()
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        return [value if math.isfinite(value) else _NAMES[str(value)] for value in values]
    return values


_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) and value in _NAMES.values() else value
