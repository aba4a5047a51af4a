"""What the tiles of keys were before commits changed them, so that a comparison need not fold all events anew."""

from collections.abc import Iterable


class Changes:
    """Of the keys that changed since a version of the table, their tiles as of it.

    One thread notes, another one may look up.

    Attributes:
        base: The version; None: nothing is noted, since nothing is known of the layer.
        before: By key, the tiles; None: the key had none.
    """

    def __init__(self, base: int | None = None) -> None:
        self.base = base
        self.before: dict[bytes, bytes | None] = {}

    def note(self, keys: Iterable[bytes], tiles: Iterable[bytes | None]) -> None:
        """Note what keys have before a commit changes them, and before anybody sees that commit."""
        if self.base is not None:
            for key, value in zip(keys, tiles, strict=True):
                self.before.setdefault(key, value)

    def with_older(self, older: "Changes") -> "Changes":
        """All changes since the version of `older`, which ends where these begin."""
        if self.base is None or older.base is None:
            return Changes()
        merged = Changes(older.base)
        merged.before = {**self.before, **older.before}
        return merged
