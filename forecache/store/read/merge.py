"""Rows of a base under those of newer segments."""

from collections.abc import Iterator, Mapping


def merged(base: Iterator[tuple[bytes, bytes]], overlay: Mapping[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Merge the (key, entry) pairs of `base`, in the keys' order, with newer ones of `overlay`; in the keys' order.

    Args:
        overlay: An empty entry removes its key.
    """
    newer = sorted(overlay.items(), reverse=True)
    for pair in base:
        while newer and newer[-1][0] <= pair[0]:
            first = newer.pop()
            if first[0] == pair[0]:
                pair = first
            elif first[1]:
                yield first
        if pair[1]:
            yield pair
    yield from (pair for pair in reversed(newer) if pair[1])
