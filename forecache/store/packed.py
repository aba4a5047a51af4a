"""Packed entries as a matrix, and as the JSON object that answers show."""

from collections.abc import Callable, Sequence

import numpy as np
import orjson

from forecache.store.fields import Field
from forecache.store.lists import ITEM_END, LIST_END

FLOAT = np.dtype("<f4")
"""Of every number in a packed entry."""


def matrix_of(entries: Sequence[bytes | None], columns: int) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [n, columns], found bool [n]) of n packed entries; a row of NaN stands for None."""
    found = np.array([entry is not None for entry in entries], np.bool_)
    unknown = np.full(columns, np.nan, FLOAT).tobytes()
    content = bytearray().join([unknown if entry is None else entry for entry in entries])
    return np.frombuffer(content, FLOAT).reshape(len(entries), columns), found


def json_renderer(fields: Sequence[Field]) -> Callable[[bytes], bytes]:
    """The function from a packed entry to the JSON object of its fields, as entries of other versions have it.

    Numbers have the shortest text that reads back to the same float32; NaN and infinities are null. Vectors are lists
    with marks, see `forecache.store.lists`.
    """
    members = []
    for field in fields:
        value = "%b"
        if field.type == "vector":
            value = "[" + f"{ITEM_END},".join(["%b"] * field.size) + f"{LIST_END}]"
        members.append(orjson.dumps(field.name).decode().replace("%", "%%") + ":" + value)
    template = ("{" + ",".join(members) + "}").encode()
    dumps, option = orjson.dumps, orjson.OPT_SERIALIZE_NUMPY

    def render(entry: bytes) -> bytes:
        return template % tuple(dumps(np.frombuffer(entry, FLOAT), option=option)[1:-1].split(b","))

    return render
