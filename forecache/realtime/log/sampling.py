"""Sample keys by a hash: all requests of a key are in the sample or none, on every replica and at any time."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xxhash

from forecache.base.errors import InputError
from forecache.declare.realtime.examples import Log
from forecache.declare.realtime.request import RequestField
from forecache.declare.realtime.request_rows import column_of
from forecache.realtime.request.parsed_request import ParsedRequest
from forecache.serve.store.keys import MAX_KEY_BYTES, escape_part

BUCKETS = 2**64


def bucket_of(key: bytes, salt: bytes) -> int:
    """Return the bucket of a key, 0 to 2**64 - 1: XXH3-64 of salt, zero byte and key. Salts give independent buckets.

    A key is in a share of all keys if `bucket_of(key, salt) < share * BUCKETS`; a growing share keeps its keys.
    """
    return xxhash.xxh3_64_intdigest(salt + b"\0" + key)


class Sampler:
    """Decides which requests to one model are logged.

    Args:
        name: Of the model.
        request: Fields of its requests.
    """

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
