"""Encode and decode logged requests: the reader's own JSON, for requests of any protocol.

JSON has no numbers that are not finite. If a model accepts them, the log has "NaN", "Infinity" and "-Infinity" in their
place, and `parse_logged` reads them back.
"""

import math
from typing import Any

import numpy as np
import orjson

from forecache.declare.realtime.request_rows import NOT_FINITE, read_logged_request
from forecache.realtime.release.format import Release
from forecache.realtime.request.parsed_request import ParsedRequest
from forecache.realtime.request.request_parser import REQUEST_ID, RequestParser


def encode_request(release: Release, request: ParsedRequest) -> bytes:
    """Encode a request as JSON from its columns."""
    found: dict[str, Any] = {field.name: _values(request.columns[field.name])[0] for field in release.request}
    if request.request_id:
        found.setdefault(REQUEST_ID, request.request_id)
    if release.candidates is not None:
        names = [field.name for field in release.candidates.fields]
        columns = [_values(request.columns[name]) for name in names]
        found[release.candidates.name] = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return orjson.dumps(found)


def parse_logged(parser: RequestParser, release: Release, body: bytes) -> ParsedRequest:
    """Parse a logged request into the same columns, to the bit.

    Raises:
        Problem: It is not a valid request to this release.
    """
    if release.on_nan == "refuse" or all(field.type != "double" for field in release.all_fields):
        return parser.parse(body)
    request, lists = read_logged_request(orjson.loads(body), release)
    return parser.parse_values(request, lists, body=body)


def _values(column: np.ndarray) -> list[Any]:
    """Return the values of a column as JSON values."""
    if column.dtype.kind == "M":
        return [str(value) for value in column]
    values = column.tolist()
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        return [value if math.isfinite(value) else NOT_FINITE[str(value)] for value in values]
    return values
