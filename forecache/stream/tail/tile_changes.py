"""Records tiles as they were before commits changed them, so that a comparison need not fold all events again."""

from collections.abc import Iterable


class Changes:
    """Tiles as of a version of the table, of the keys that changed since.

    One thread records, another one may read.

    Attributes:
        base: The version; None: nothing is recorded, since the layer was not verified at any version.
        before: By key, the tiles; None: the key had none.
    """

    def __init__(self, base: int | None = None) -> None:
        self.base = base
        self.before: dict[bytes, bytes | None] = {}

    def note(self, keys: Iterable[bytes], tiles: Iterable[bytes | None]) -> None:
        """Record the tiles of keys before a commit changes them, and before others see that commit."""
        if self.base is not None:
            for key, value in zip(keys, tiles, strict=True):
                self.before.setdefault(key, value)

    def with_older(self, older: "Changes") -> "Changes":
        """Return all changes since the version of `older`, whose changes end at the version where these begin."""
        if self.base is None or older.base is None:
            return Changes()
        merged = Changes(older.base)
        merged.before = {**self.before, **older.before}
        return merged
