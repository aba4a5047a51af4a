"""The requests of a log: which are logged, by a hash of their key, and their JSON, for requests of any protocol.

All requests of a key are in the sample or none, on every replica and at any time. JSON has no numbers that are not
finite: if a model accepts them, the log has "NaN", "Infinity" and "-Infinity" in their place.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import xxhash

from forecache.base.errors import InputError
from forecache.declare.realtime.log import Log
from forecache.declare.realtime.log_records import NOT_FINITE, read_logged_request
from forecache.declare.realtime.request import RequestField
from forecache.declare.realtime.request_rows import column_of
from forecache.realtime.release.format import Release
from forecache.realtime.request.request_answer import ParsedRequest
from forecache.realtime.request.request_parser import REQUEST_ID, RequestParser
from forecache.serve.store.keys import MAX_KEY_BYTES, escape_part


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


BUCKETS = 2**64


def bucket_of(key: bytes, salt: bytes) -> int:
    """Return the bucket of a key, 0 to 2**64 - 1: XXH3-64 of salt, zero byte and key. Salts give independent buckets.

    A key is in a share of all keys if `bucket_of(key, salt) < share * BUCKETS`; a growing share keeps its keys.
    """
    return xxhash.xxh3_64_intdigest(salt + b"\0" + key)


class Sampler:
    """Decides which requests to one model are logged."""

    def __init__(self, name: str, log: Log, request: Sequence[RequestField]) -> None:
        self._fields = [field for field in request if field.name in log.by]
        self._by = log.by
        self._salt = b"log:" + name.encode()
        self._below = int(log.sample * BUCKETS)

    def key_of(self, request: ParsedRequest) -> bytes:
        """Encode the key of a request; empty if its values are not a valid key, such as a long text.

        Same result as `forecache.serve.store.keys.encode_columns`, many times faster for one key.
        """
        columns = request.columns
        try:
            if len(self._by) > 1:
                texts = [escape_part(str(columns[name].item())) for name in self._by]
                key = "|".join(texts).encode()
            else:
                key = str(columns[self._by[0]].item()).encode()
        except KeyError:
            return b""
        return key if len(key) <= MAX_KEY_BYTES else b""

    def columns_of(self, members: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Parse the fields of the key from unchecked members of a request; empty if one is malformed."""
        try:
            return {field.name: column_of(field, [members.get(field.name)]) for field in self._fields}
        except InputError:
            return {}

    def is_logged(self, key: bytes) -> bool:
        """Return True if requests of a key are logged."""
        return self._below == BUCKETS or bucket_of(key, self._salt) < self._below
