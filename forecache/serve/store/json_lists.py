"""Lists in the JSON of a value. Their items are marked, so that a list can be cut without parsing it.

A tab follows every item but the last of a list, a carriage return follows the last one; an empty list is `[]`:

    {"items":[{"item":"a","score":0.9}\\t,{"item":"b","score":0.4}\\r],"model":"als"}

JSON allows both characters between tokens but not inside strings, so every parser can read the value, and no string
contains a mark. Lists are not nested.
"""

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
