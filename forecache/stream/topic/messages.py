"""Encodes rows of a stream as JSON messages, keyed by the row's key."""

from collections.abc import Iterator, Sequence

import orjson
import pyarrow as pa

_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC


def messages(rows: pa.Table, key: Sequence[str]) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of each row: times in ISO 8601, NaN and infinity as null.

    Args:
        key: The columns whose texts, joined by `|`, are the message's key: messages of one key keep their order.
    """
    for row in rows.to_pylist():
        yield "|".join(str(row[name]) for name in key).encode(), orjson.dumps(row, option=_OPTIONS, default=_text)


def _text(value: object) -> str:
    """Convert a value without a JSON type, such as bytes or a decimal."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
