"""Keys: from a row's key columns or a URL's text to the bytes that a segment is searched for.

The key bytes are the UTF-8 text of the key, so that a reader can take them unchanged from a URL. A key of one column is
the column's text: a string as it is, an integer in decimal, a UUID in its 36 lower-case characters. A
composite key is its columns' texts joined by `|`, with `%` and `|` inside a text written `%25` and `%7C`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from forecache.base.errors import InputError

if TYPE_CHECKING:
    import numpy as np

MAX_KEY_BYTES = 511
"""LMDB's limit on the length of a key."""

_INTEGER = re.compile(r"-?\d{1,39}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True)
class KeyColumn:
    """A column of the key; `type` is one of `forecache.base.output_kinds.KEY_TYPES`."""

    name: str
    type: str


@dataclass(frozen=True)
class KeySchema:
    """The key of a pipeline: one column, or several for a composite key."""

    columns: tuple[KeyColumn, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


def encode_key(schema: KeySchema, values: object) -> bytes:
    """Key bytes of one key's values.

    Args:
        values: The value of a single-column key; for any key a sequence in column order or a mapping by column.

    Raises:
        InputError: A value is missing, of the wrong type, or the key is longer than MAX_KEY_BYTES.
    """
    columns = schema.columns
    if isinstance(values, Mapping):
        missing = [name for name in schema.names if name not in values]
        if missing:
            raise InputError(f"The key lacks {missing[0]!r}.", remedy=f"A key has {', '.join(schema.names)}.")
        parts: Sequence[Any] = [values[name] for name in schema.names]
    elif isinstance(values, (list, tuple)):
        parts = values
    else:
        parts = [values]
    if len(parts) != len(columns):
        raise InputError(
            f"The key has {len(parts)} value{'s' * (len(parts) != 1)} where {len(columns)} are needed.",
            remedy=f"A key has {', '.join(schema.names)}.",
        )
    texts = [_value_text(column, value) for column, value in zip(columns, parts, strict=True)]
    if len(texts) > 1:
        texts = [escape_part(text) for text in texts]
    return _check_key("|".join(texts))


def encode_columns(schema: KeySchema, columns: "Sequence[np.ndarray | Sequence[Any]]") -> list[bytes]:
    """Key bytes of n keys from the values of each key column; equal to `encode_key` of each, but many times faster.

    Args:
        columns: For each key column n values: a numpy array (whole numbers, datetime64[D] or texts), or a sequence.

    Raises:
        InputError: As `encode_key`, for the first invalid key.
    """
    if len(columns) == 1 == len(schema.columns) and schema.columns[0].type == "int":
        texts = _integer_texts(columns[0])  # first, as most requests have integer keys
        if texts is not None:
            return texts  # 20 characters at most
    try:
        parts = [_column_texts(column, values) for column, values in zip(schema.columns, columns, strict=True)]
    except UnicodeEncodeError:
        return [encode_key(schema, values) for values in zip(*columns, strict=True)]
    keys = parts[0] if len(parts) == 1 else list(map(b"|".join, zip(*map(_escape_parts, parts), strict=True)))
    lengths = set(map(len, keys))
    if lengths and not (min(lengths) > 0 and max(lengths) <= MAX_KEY_BYTES):
        return [encode_key(schema, values) for values in zip(*columns, strict=True)]
    return keys


def _column_texts(column: KeyColumn, values: "np.ndarray | Sequence[Any]") -> list[bytes]:
    if column.type == "int" and (texts := _integer_texts(values)) is not None:
        return texts
    listed: Any = values
    if not isinstance(values, Sequence):
        listed = (values.astype(str) if values.dtype.kind == "M" else values).tolist()
    if column.type == "string" and set(map(type, listed)) <= {str}:
        return list(map(str.encode, listed))
    return [_value_text(column, value).encode() for value in listed]


def _integer_texts(values: Any) -> list[bytes] | None:
    """The texts of an array of whole numbers, all at once; None for other values."""
    dtype = getattr(values, "dtype", None)
    if dtype is None or dtype.kind not in "iu" or not dtype.isnative or not len(values):
        return None
    import orjson

    whole = values if values.flags.c_contiguous else values.copy()
    return orjson.dumps(whole, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def _escape_parts(parts: list[bytes]) -> list[bytes]:
    together = b"".join(parts)
    if b"%" in together or b"|" in together:
        return [part.replace(b"%", b"%25").replace(b"|", b"%7C") for part in parts]
    return parts


def parse_key(schema: KeySchema, text: str) -> bytes:
    """Key bytes of a key in its text form, as in a URL after percent-decoding; raises InputError."""
    columns = schema.columns
    if len(columns) == 1:
        if columns[0].type == "string":
            return _check_key(text)
        return _check_key(_value_text(columns[0], text))
    parts = text.split("|")
    if len(parts) != len(columns):
        raise InputError(
            f"The key {text[:80]!r} has {len(parts)} part{'s' * (len(parts) != 1)} where {len(columns)} are needed.",
            remedy=f"Join {', '.join(schema.names)} by '|'; write '|' and '%' inside a part as %7C and %25.",
        )
    return encode_key(schema, [unescape_part(part) for part in parts])


def decode_key(schema: KeySchema, key: bytes) -> tuple[Any, ...]:
    """The values of key bytes, in column order: str, int (for "int") or str (for "uuid" and "date")."""
    text = key.decode()
    parts = [text] if len(schema.columns) == 1 else [unescape_part(part) for part in text.split("|")]
    return tuple(
        int(part) if column.type == "int" else part for column, part in zip(schema.columns, parts, strict=True)
    )


def escape_part(text: str) -> str:
    return text.replace("%", "%25").replace("|", "%7C")


def unescape_part(text: str) -> str:
    return text.replace("%7C", "|").replace("%7c", "|").replace("%25", "%")


def _check_key(text: str) -> bytes:
    try:
        key = text.encode()
    except UnicodeEncodeError:
        raise InputError("The key is not valid Unicode text.", remedy="Send it as UTF-8.") from None
    if not 0 < len(key) <= MAX_KEY_BYTES:
        raise InputError(
            f"The key {text[:40]!r} has {len(key)} bytes.", remedy=f"A key has 1 to {MAX_KEY_BYTES} bytes."
        )
    return key


def _value_text(column: KeyColumn, value: object) -> str:
    """The text of one value; integers and UUIDs that are given as text are normalised."""
    kind, text = column.type, str(value)
    if value is None:
        raise InputError(f"The key column {column.name!r} is null.", remedy="Every key column needs a value.")
    if kind == "string":
        return text
    if kind == "int" and not isinstance(value, bool) and _INTEGER.fullmatch(text):
        return str(int(text))
    if kind == "uuid":
        try:
            return str(UUID(text))
        except ValueError:
            pass
    if kind == "date" and _DATE.fullmatch(text):
        return text
    raise InputError(
        f"The key column {column.name!r} has the value {text[:80]!r}.", remedy=f"It takes a value of type {kind}."
    )
