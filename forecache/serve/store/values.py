"""Values of entries for readers: lists in JSON that are cut without parsing, and packed numbers as a matrix or as JSON.

A tab follows every item but the last of a list in JSON, a carriage return follows the last one; an empty list is `[]`:

    {"items":[{"item":"a","score":0.9}\\t,{"item":"b","score":0.4}\\r],"model":"als"}

JSON allows both characters between tokens but not inside strings, so every parser can read the value, and no string
contains a mark. Lists are not nested.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

from forecache.serve.store.manifest import Field

if TYPE_CHECKING:
    import numpy as np


ITEM_END, LIST_END = "\t", "\r"
_ITEM_END, _LIST_END = ITEM_END.encode(), LIST_END.encode()


def cut_lists(value: bytes, limit: int) -> bytes:
    """The JSON of a value with at most the first `limit` (1 or more) items of each of its lists."""
    kept: list[bytes] = []
    while True:
        items = value.split(_ITEM_END, limit)
        if len(items) <= limit:
            break  # no remaining list has more items
        limit_at, end = len(value) - len(items[-1]) - 1, value.index(_LIST_END)
        kept.append(value[: min(limit_at, end)])
        value = value[end + 1 :]
    if not kept:
        return value
    kept.append(value)
    return _LIST_END.join(kept)


# numpy is imported when a version is opened, so that other commands do not load it.

FLOAT, FLOAT_BYTES = "<f4", 4
"""Type and size of every number in a packed entry."""


def matrix_of(entries: Sequence[bytes | None], columns: int) -> "tuple[np.ndarray, np.ndarray]":
    """(float32 [n, columns], found bool [n]) of n packed entries; None becomes a row of NaN."""
    import numpy as np

    found = np.empty(len(entries), np.bool_)
    found.fill(True)
    if None in entries:
        unknown = np.full(columns, np.nan, FLOAT).tobytes()
        found[:] = [entry is not None for entry in entries]
        entries = [unknown if entry is None else entry for entry in entries]
    content = bytearray().join(entries)  # type: ignore[arg-type]  # none of them is None any more
    return np.frombuffer(content, FLOAT).reshape(len(entries), columns), found


def json_renderer(fields: Sequence[Field]) -> Callable[[bytes], bytes]:
    """Return the function that renders a packed entry as the JSON object of its fields.

    Numbers have the shortest text that reads back to the same float32, integers all of their digits; NaN and infinities
    are null. Vectors are lists with marks.
    """
    import numpy as np

    members = []
    for field in fields:
        value = "%b"
        if field.type == "vector":
            value = "[" + f"{ITEM_END},".join(["%b"] * field.size) + f"{LIST_END}]"
        members.append(orjson.dumps(field.name).decode().replace("%", "%%") + ":" + value)
    template, whole = ("{" + ",".join(members) + "}").encode(), _integer_places(fields)
    columns = sum(field.size for field in fields)

    def render(entry: bytes) -> bytes:
        numbers = np.frombuffer(entry, FLOAT, columns)
        texts = _number_texts(numbers).split(b",")
        for place in whole:
            if texts[place] != b"null":
                texts[place] = b"%d" % int(numbers[place])
        return template % tuple(texts)

    return render


def rows_of(entries: Sequence[bytes | None], fields: Sequence[Field]) -> list[dict[str, Any] | None]:
    """The values of packed entries by field, as read from their JSON; None for None. States are left out."""
    columns = sum(field.size for field in fields)
    width = next((len(entry) // FLOAT_BYTES for entry in entries if entry is not None), columns)
    matrix, found = matrix_of(entries, width)
    matrix = matrix[:, :columns]
    numbers = orjson.loads(b"[" + _number_texts(matrix.ravel()) + b"]")
    for place in _integer_places(fields):
        exact = zip(numbers[place::columns], matrix[:, place].tolist(), strict=True)
        numbers[place::columns] = [None if number is None else int(value) for number, value in exact]
    left = iter(numbers)
    rows = [
        {each.name: list(islice(left, each.size)) if each.type == "vector" else next(left) for each in fields}
        for _ in entries
    ]
    return [row if there else None for row, there in zip(rows, found.tolist(), strict=True)]


def _integer_places(fields: Sequence[Field]) -> list[int]:
    types = [field.type for field in fields for _ in field.columns]
    return [place for place, kind in enumerate(types) if kind == "integer"]


def _number_texts(numbers: "np.ndarray") -> bytes:
    return orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
