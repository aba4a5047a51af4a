"""Conversion of the keys in paths and JSON bodies to the key bytes of a version."""

import re
from collections.abc import Callable, Sequence

from forecache.base.errors import InputError
from forecache.kit.http.problems import quote_value
from forecache.serve.store import KeySchema, encode_key, parse_key
from forecache.serve.store.keys import MAX_KEY_BYTES

_PLAIN_INTEGER = re.compile(r"0|-?[1-9]\d{0,18}")


class RequestKeys:
    """Encodes keys of one schema.

    Attributes:
        encode: `encode(text)` returns the key bytes of a key in a path; raises as `encode_value`.
    """

    def __init__(self, schema: KeySchema) -> None:
        self._schema = schema
        self._takes_text = [column.type for column in schema.columns] == ["string"]
        self.encode = _text_encoder(schema)

    def encode_values(self, values: Sequence[object]) -> list[bytes]:
        """Key bytes of the keys in a JSON body, in their order; raises as `encode_value`."""
        if self._takes_text and values:
            # Plain text, the common case, is checked and encoded for all keys together.
            try:
                text = "\n".join(values)  # type: ignore[arg-type]
            except TypeError:
                return list(map(self.encode_value, values))
            if text.isascii():
                keys = text.encode().split(b"\n")
                lengths = set(map(len, keys))
                if len(keys) == len(values) and min(lengths) > 0 and max(lengths) <= MAX_KEY_BYTES:
                    return keys
        return list(map(self.encode_value, values))

    def encode_value(self, value: object) -> bytes:
        """Key bytes of a key in a JSON body: text as in a URL, or an integer.

        Raises:
            InputError: The value is neither, or not of the pipeline's key type.
        """
        if type(value) is str:
            return self.encode(value)
        if type(value) is int:
            return encode_key(self._schema, value)
        raise InputError(f"The key {quote_value(value)} is not text or an integer.", remedy="Composite keys are a|b.")


def _text_encoder(schema: KeySchema) -> Callable[[str], bytes]:
    """A faster `parse_key` for keys of this schema, which handles common cases first."""

    def encode_any(text: str) -> bytes:
        return parse_key(schema, text)

    def encode_string(text: str) -> bytes:
        # A surrogate cannot be encoded; parse_key raises the error for it.
        key = text.encode("utf-8", "surrogatepass")
        return key if 0 < len(key) <= MAX_KEY_BYTES and text.isascii() else parse_key(schema, text)

    def encode_integer(text: str) -> bytes:
        return text.encode() if _PLAIN_INTEGER.fullmatch(text) else parse_key(schema, text)

    if len(schema.columns) > 1:
        return encode_any
    return {"string": encode_string, "int": encode_integer}.get(schema.columns[0].type, encode_any)
